//! Checking a request before anything is made: each value by itself, whatever the host.

use std::time::Duration;

use super::image::fill_in;
use super::network::{network_for, parse_egress, parse_published};
use super::parse::parse_size;
use super::{
    ARGUMENT_LIMIT_BYTES, CgroupManager, ContainerPlan, DEFAULT_GRACE, DEFAULT_KEEP_REPORT, HealthCheck,
    LaunchRequest, Limits, LogRequest, NetworkMode, Refused, Resources, RestartPolicy, Source, Stopping,
    Ulimit, UnknownPolicy, UserSpec,
};
use crate::gpu::DevicePlan;
use crate::id::{ContainerId, InvalidId, quote};
use crate::logs::{JournaldConfig, LogConfig, OnFull, UnknownFormat};
use crate::rootfs::disk::LEAST_BYTES;
use crate::signal::Signal;
use crate::spec::capability;

/// Checks a request and gives it an id.
///
/// # Errors
/// [`Refused`] names the first field that cannot be right.
pub fn validate(request: LaunchRequest) -> Result<ContainerPlan, Refused> {
    let request = fill_in(request)?;
    check_command(&request)?;
    for entry in &request.env {
        check_env_entry(entry)?;
    }
    if let Some(cwd) = &request.cwd {
        check_cwd(cwd)?;
    }
    if let Some(hostname) = &request.hostname {
        check_hostname(hostname)?;
    }
    let name = request.name.as_deref().map(str::parse).transpose();
    let user = request.user.as_deref().map(UserSpec::parse).transpose();
    let manager: CgroupManager =
        request.cgroup_manager.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let limits = Limits::parse(&request.limits)?;
    let shm = request.shm_size.as_deref().map(parse_size).transpose();
    let network = request.network.as_deref().map(NetworkMode::parse).transpose();
    let network = network.map_err(|why| Refused::new("--network", why))?;
    let publish = parse_published(&request)?;
    let names = request.names.parse()?;
    let egress = request.egress.as_deref().map(parse_egress).transpose()?;
    Ok(ContainerPlan {
        id: ContainerId::generate(),
        name: name.map_err(|error: InvalidId| Refused::new("--name", error.to_string()))?,
        user: user.map_err(|why| Refused::new("--user", why))?,
        network: network_for(network, &publish, egress.is_some())?,
        egress,
        publish,
        names,
        mounts: super::mount::parse_all(&request)?,
        ulimits: each("--ulimit", &request.ulimits, Ulimit::parse)?,
        cap_add: each("--cap-add", &request.cap_add, parse_capability)?,
        cap_drop: each("--cap-drop", &request.cap_drop, parse_capability)?,
        resources: Resources::parse(&request.resources, &limits)?,
        limits,
        shm_bytes: shm.map_err(|why| Refused::new("--shm-size", why))?,
        storage_bytes: storage(&request)?,
        stopping: stopping(&request)?,
        devices: DevicePlan::parse(request.devices.clone())?,
        restart: restart(&request)?,
        health: request.health.as_ref().map(HealthCheck::parse).transpose()?,
        log: request.log.as_ref().map(log_config).transpose()?.flatten(),
        journald: request.log.as_ref().map(journald).transpose()?.flatten(),
        source: request.source,
        args: request.args,
        env: request.env,
        cwd: request.cwd,
        hostname: request.hostname,
        read_only: request.read_only,
        labels: request.labels,
        init: request.init,
        terminal: request.terminal,
        oci_seccomp: request.oci_seccomp,
        cgroup_parent: request.cgroup_parent.map(|parent| manager.check_parent(parent)).transpose()?,
        cgroup_manager: manager,
        keep_report: request.keep_report_ms.map_or(DEFAULT_KEEP_REPORT, Duration::from_millis),
        remove: request.remove,
    })
}

/// Parses each of an option's values.
fn each<T>(
    field: &str,
    values: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Refused> {
    values.iter().map(|value| parse(value).map_err(|why| Refused::new(field, why))).collect()
}

fn parse_capability(name: &str) -> Result<String, String> {
    capability::full_name(name).ok_or_else(|| format!("{} is not a capability of Linux", quote(name)))
}

fn check_command(request: &LaunchRequest) -> Result<(), Refused> {
    if request.args.is_empty() && matches!(request.source, Source::Rootfs { .. }) {
        return Err(Refused::new("COMMAND", "a root filesystem has no command of its own: name one"));
    }
    if request.args.first().is_some_and(String::is_empty) {
        return Err(Refused::new("COMMAND", "the command is empty"));
    }
    request.args.iter().try_for_each(|argument| check_string("COMMAND", argument))
}

/// Checks what holds for every argument and environment entry of a process.
pub(crate) fn check_string(field: &str, text: &str) -> Result<(), Refused> {
    if text.contains('\0') {
        return Err(Refused::new(field, format!("{} contains a NUL byte", quote(text))));
    }
    if text.len() >= ARGUMENT_LIMIT_BYTES {
        return Err(Refused::new(
            field,
            format!("an entry is {} bytes long; Linux takes less than {ARGUMENT_LIMIT_BYTES}", text.len()),
        ));
    }
    Ok(())
}

/// Checks an environment entry `KEY=VALUE`.
pub(crate) fn check_env_entry(entry: &str) -> Result<(), Refused> {
    check_string("--env", entry)?;
    match entry.split_once('=') {
        Some(("", _)) => Err(Refused::new("--env", format!("{} has no name before the `=`", quote(entry)))),
        Some(_) => Ok(()),
        None => Err(Refused::new("--env", format!("{} is not of the form KEY=VALUE", quote(entry)))),
    }
}

/// Checks a working directory.
pub(crate) fn check_cwd(cwd: &str) -> Result<(), Refused> {
    check_string("--workdir", cwd)?;
    if !cwd.starts_with('/') {
        return Err(Refused::new("--workdir", format!("{} is not an absolute path", quote(cwd))));
    }
    // The way out of the container of CVE-2024-21626.
    if cwd.starts_with("/proc/self/fd") || cwd.starts_with("/proc/thread-self/fd") {
        return Err(Refused::new("--workdir", "a path through /proc/self/fd can lead out of the container"));
    }
    Ok(())
}

fn check_hostname(hostname: &str) -> Result<(), Refused> {
    const LIMIT: usize = 63;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if hostname.is_empty()
        || hostname.len() > LIMIT
        || !hostname.bytes().all(allowed)
        || hostname.starts_with('-')
    {
        return Err(Refused::new(
            "--hostname",
            format!(
                "{} is not a host name of 1 to {LIMIT} letters, digits, dots and hyphens",
                quote(hostname)
            ),
        ));
    }
    Ok(())
}

/// The least size of a log's file, in bytes: below it, files would be renamed all the time.
const LOG_FLOOR_BYTES: u64 = 64 << 10;
/// The most files of one log.
const LOG_FILES_LIMIT: u32 = 100;

/// The driver that keeps no files of ours.
const JOURNALD: &str = "journald";

fn journald(request: &LogRequest) -> Result<Option<JournaldConfig>, Refused> {
    if request.driver != JOURNALD {
        return Ok(None);
    }
    let mut config = JournaldConfig::default();
    for (key, value) in &request.options {
        let wrong = |why: &str| Refused::new("--log-opt", format!("{key}={}: {why}", quote(value)));
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        match key.as_str() {
            "journal-namespace" if is_name(value) => config.namespace = Some(value.clone()),
            "journal-namespace" => return Err(wrong("give the name of a journal namespace")),
            _ => return Err(wrong("the one option of journald is journal-namespace")),
        }
    }
    Ok(Some(config))
}

fn log_config(request: &LogRequest) -> Result<Option<LogConfig>, Refused> {
    if request.driver == JOURNALD {
        return Ok(None);
    }
    if request.driver == "none" {
        return match request.options.keys().next() {
            None => Ok(None),
            Some(key) => Err(Refused::new("--log-opt", format!("{key}: the driver none has no options"))),
        };
    }
    let format = request.driver.parse();
    let format = format.map_err(|error: UnknownFormat| Refused::new("--log-driver", error.to_string()))?;
    let mut config = LogConfig { format, ..LogConfig::default() };
    for (key, value) in &request.options {
        let wrong = |why: &str| Refused::new("--log-opt", format!("{key}={}: {why}", quote(value)));
        match key.as_str() {
            "max-size" => {
                config.max_bytes = parse_size(value).map_err(|why| wrong(&why))?;
                if config.max_bytes < LOG_FLOOR_BYTES {
                    return Err(wrong("give at least 64k"));
                }
            }
            "max-file" => {
                let files = value.parse().ok().filter(|files| (1..=LOG_FILES_LIMIT).contains(files));
                config.max_files = files.ok_or_else(|| wrong("give a number from 1 to 100"))?;
            }
            "on-full" => {
                config.on_full = match value.as_str() {
                    "drop" => OnFull::Drop,
                    "block" => OnFull::Block,
                    "stop" => OnFull::Stop,
                    _ => return Err(wrong("give drop, block or stop")),
                };
            }
            _ => return Err(wrong("the options are max-size, max-file and on-full")),
        }
    }
    Ok(Some(config))
}

fn restart(request: &LaunchRequest) -> Result<RestartPolicy, Refused> {
    let refused = |why: String| Refused::new("--restart", why);
    let policy = request.restart.as_deref().map_or(Ok(RestartPolicy::No), str::parse);
    let policy = policy.map_err(|error: UnknownPolicy| refused(error.to_string()))?;
    if policy != RestartPolicy::No && request.remove {
        return Err(refused("a container with --rm is forgotten after its end".into()));
    }
    Ok(policy)
}

/// docker's `--storage-opt size=SIZE`.
fn storage(request: &LaunchRequest) -> Result<Option<u64>, Refused> {
    let refused = |why: String| Refused::new("--storage-opt", why);
    let mut bytes = None;
    for text in &request.storage_opt {
        let size = text.strip_prefix("size=").ok_or_else(|| {
            refused(format!("{} is not of the form size=SIZE, the one option that there is", quote(text)))
        })?;
        bytes = Some(parse_size(size).map_err(refused)?);
    }
    match (bytes, &request.source) {
        (Some(bytes), _) if bytes < LEAST_BYTES => Err(refused("give at least 16m".into())),
        (Some(_), Source::Rootfs { .. } | Source::Bundle { .. }) => {
            Err(refused("it is for images: what a directory or a bundle holds is written to as it is".into()))
        }
        _ => Ok(bytes),
    }
}

fn stopping(request: &LaunchRequest) -> Result<Stopping, Refused> {
    let signal = match &request.stop_signal {
        Some(text) => text
            .parse()
            .map_err(|e: crate::signal::UnknownSignal| Refused::new("--stop-signal", e.to_string()))?,
        None => Signal::TERM,
    };
    let limit = |ms: Option<u64>| ms.filter(|ms| *ms > 0).map(Duration::from_millis);
    Ok(Stopping {
        signal,
        grace: request.grace_ms.map_or(DEFAULT_GRACE, Duration::from_millis),
        timeout: limit(request.timeout_ms),
        ttl: limit(request.ttl_ms),
        idle: limit(request.idle_ms),
    })
}
