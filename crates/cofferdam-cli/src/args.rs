//! Options that several commands share, and the small conversions from words to the library's types.

mod devices;
mod image;
mod limits;
mod mounts;
mod network;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use cofferdam::error::{Code, Failure};
use cofferdam::request::{HealthRequest, ImageUse, LaunchRequest, Refused, Source};
use cofferdam::runtime::{DEFAULT_START_LIMIT, RuntimeConfig, locate};

use jiff::{SignedDuration, Timestamp};

pub(crate) use devices::{DeviceArgs, DeviceSearchArgs, DriverArgs};
pub(crate) use image::{ImageArgs, Pull, RegistryArgs};
pub(crate) use limits::{LimitArgs, ResourceArgs};
pub(crate) use network::NetworkArgs;

use mounts::MountArgs;

use crate::context::Context;
use crate::output::CliError;

/// What a container is made from and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct LaunchArgs {
    /// Run an OCI bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", conflicts_with = "rootfs", help_heading = "Source")]
    pub(crate) bundle: Option<PathBuf>,
    /// Run a command in a directory that holds a root filesystem
    #[arg(long, value_name = "DIR", help_heading = "Source")]
    pub(crate) rootfs: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    /// Name of the container
    #[arg(long, help_heading = "Container")]
    pub(crate) name: Option<String>,
    /// Set an environment variable; KEY alone takes the caller's value
    #[arg(short, long, value_name = "KEY[=VALUE]", help_heading = "Container")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE", help_heading = "Container")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR", help_heading = "Container")]
    pub(crate) workdir: Option<String>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Container")]
    pub(crate) user: Option<String>,
    /// Run a small init before the command, which reaps orphans and passes signals on
    #[arg(long, help_heading = "Container")]
    pub(crate) init: bool,
    /// Host name inside the container
    #[arg(long, value_name = "NAME", help_heading = "Container")]
    pub(crate) hostname: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]", help_heading = "Container")]
    pub(crate) label: Vec<String>,
    #[command(flatten)]
    pub(crate) mounts: MountArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Size of /dev/shm, by which processes share memory [default: 64m]
    #[arg(long, value_name = "SIZE", help_heading = "Container")]
    pub(crate) shm_size: Option<String>,
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
    /// Limit a resource of each process, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    pub(crate) ulimit: Vec<String>,
    /// Make the container's cgroup below this one; with --cgroup-manager systemd, in this slice
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    pub(crate) cgroup_parent: Option<String>,
    /// Who makes its cgroup: cgroupfs or systemd [default: cgroupfs]
    #[arg(
        long,
        value_name = "MANAGER",
        env = "COFFERDAM_CGROUP_MANAGER",
        hide_env_values = true,
        help_heading = "Limits"
    )]
    pub(crate) cgroup_manager: Option<String>,
    /// Mount the root filesystem read-only
    #[arg(long, help_heading = "Security")]
    pub(crate) read_only: bool,
    /// Add a capability of Linux
    #[arg(long, value_name = "CAPABILITY", help_heading = "Security")]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability of Linux away; ALL for all
    #[arg(long, value_name = "CAPABILITY", help_heading = "Security")]
    pub(crate) cap_drop: Vec<String>,
    /// Keep the seccomp profile under gVisor too
    #[arg(long, help_heading = "Security")]
    pub(crate) oci_seccomp: bool,
    /// End the container after this time, such as 30s; exit code 124
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Ending")]
    pub(crate) timeout: Option<Duration>,
    /// End the container this time after it was made, however often it is started again; exit code 124
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Ending")]
    pub(crate) ttl: Option<Duration>,
    /// End the container when for this time it wrote nothing, nobody was attached and nothing was executed in it; exit
    /// code 124
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Ending")]
    pub(crate) idle_timeout: Option<Duration>,
    /// How long the report of a container with --rm is kept after its end; 0 is not at all [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Ending")]
    pub(crate) keep_report: Option<Duration>,
    /// Start it again after its end, with growing pauses: no, on-failure[:TIMES], always, unless-stopped [default: no]
    #[arg(long, value_name = "POLICY", help_heading = "Ending")]
    pub(crate) restart: Option<String>,
    /// The signal that asks the container to end [default: TERM]
    #[arg(long, value_name = "SIGNAL", help_heading = "Ending")]
    pub(crate) stop_signal: Option<String>,
    /// Time between that signal and SIGKILL [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Ending")]
    pub(crate) stop_timeout: Option<Duration>,
}

/// How a container is asked whether it is well.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Health")]
pub(crate) struct HealthArgs {
    /// Ask the container whether it is well by this command of its shell: exit code 0
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["health_http", "health_tcp"])]
    pub(crate) health_cmd: Option<String>,
    /// The same by a page, such as http://localhost:8080/health: status 200 to 399
    #[arg(long, value_name = "URL", conflicts_with = "health_tcp")]
    pub(crate) health_http: Option<String>,
    /// The same by a connection
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) health_tcp: Option<String>,
    /// Time between two probes [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) health_interval: Option<Duration>,
    /// How long a probe may take [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) health_timeout: Option<Duration>,
    /// Time after the start in which failures do not count [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) health_start_period: Option<Duration>,
    /// How many failures in a row make it unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) health_retries: Option<u32>,
    /// Do not ask the container as its image says
    #[arg(long, conflicts_with_all = ["health_cmd", "health_http", "health_tcp", "health_interval", "health_timeout",
        "health_start_period", "health_retries", "health_on_failure"])]
    pub(crate) no_healthcheck: bool,
    /// What is done with an unhealthy container: none, kill (a restart policy then applies) or stop [default: none]
    #[arg(long, value_name = "ACTION")]
    pub(crate) health_on_failure: Option<String>,
}

impl HealthArgs {
    /// What it asks for; without a probe, it is about the image's.
    fn request(&self) -> Option<HealthRequest> {
        let request = HealthRequest {
            command: match self.health_cmd.as_deref() {
                None => vec![],
                // The library refuses it.
                Some("") => vec![String::new()],
                Some(command) => ["sh", "-c", command].map(str::to_owned).to_vec(),
            },
            http: self.health_http.clone(),
            tcp: self.health_tcp.clone(),
            interval_ms: self.health_interval.map(millis),
            timeout_ms: self.health_timeout.map(millis),
            start_period_ms: self.health_start_period.map(millis),
            retries: self.health_retries,
            on_failure: self.health_on_failure.clone(),
        };
        Some(request).filter(|request| *request != HealthRequest::default())
    }
}

/// Which runtime.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Runtime")]
pub(crate) struct RuntimeArgs {
    /// runc, crun, youki, runsc, gvisor (the same as runsc), or the absolute path of a binary
    #[arg(
        long,
        value_name = "RUNTIME",
        env = "COFFERDAM_RUNTIME",
        default_value = "runc",
        hide_env_values = true
    )]
    pub(crate) runtime: String,
    /// gVisor's platform: systrap, kvm, ptrace [default: the binary's own]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) gvisor_platform: Option<String>,
    /// How long the runtime may take to make or start a container [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) runtime_timeout: Option<Duration>,
}

/// A length of time: `90s`, `1m 30s`, or a number of seconds as docker has it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    /// More than anybody waits, and little enough to be added to any moment.
    const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);
    let parsed = text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text));
    let length = parsed.map_err(|error| format!("{error}; write for example 30s or 5m"))?;
    Ok(length.min(LONGEST))
}

/// How many lines at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail(pub(crate) Option<usize>);

pub(crate) fn tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(Tail(None));
    }
    let lines = text.parse().map_err(|_| "it is not a number of lines, nor `all`".to_owned())?;
    Ok(Tail(Some(lines)))
}

/// A moment: RFC 3339, a day, seconds since 1970 as docker prints them, or a length of time before now.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return SignedDuration::try_from_secs_f64(seconds)
            .and_then(|since| Timestamp::UNIX_EPOCH.checked_add(since))
            .map_err(|error| error.to_string());
    }
    // A day begins at midnight here, as with docker.
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        let midnight = jiff::tz::TimeZone::system().to_timestamp(day.at(0, 0, 0, 0));
        return midnight.map_err(|error| error.to_string());
    }
    let ago = humantime::parse_duration(text).map_err(|_| {
        "it is not a time: write 2026-01-31T12:00:00Z, 2026-01-31, 1769860800 or 10m".to_owned()
    })?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

impl RuntimeArgs {
    /// Finds the runtime's binary.
    pub(crate) fn config(&self, context: &Context) -> Result<RuntimeConfig, CliError> {
        let (name, binary) = locate(&self.runtime, std::env::var_os("PATH").as_deref())?;
        let root = context.engine.state().runtime_root(&name);
        let platform = self.gvisor_platform.clone();
        let start_limit = self.runtime_timeout.unwrap_or(DEFAULT_START_LIMIT);
        Ok(RuntimeConfig { name, binary, root, platform, start_limit })
    }
}

impl LaunchArgs {
    /// The image that these words name, where they name one: the first of the command.
    pub(crate) fn image_name<'a>(&self, command: &'a [String]) -> Result<Option<&'a str>, CliError> {
        if self.bundle.is_some() || self.rootfs.is_some() {
            return Ok(None);
        }
        let nothing = || {
            CliError(Failure {
                code: Code::InvalidValue,
                what: "there is nothing to run".into(),
                why: vec![],
                next: Some("give an IMAGE, --rootfs DIR COMMAND or --bundle DIR".into()),
            })
        };
        command.first().map(|image| Some(image.as_str())).ok_or_else(nothing)
    }

    /// The request that these words make. `image` is what their image is, where they name one.
    pub(crate) fn request(
        &self,
        image: Option<Box<ImageUse>>,
        words: &[String],
    ) -> Result<LaunchRequest, CliError> {
        let (source, command) = match (image, &self.bundle, &self.rootfs) {
            (Some(image), _, _) => (Source::Image(image), &words[1..]),
            (None, Some(path), _) => (Source::Bundle { path: absolute(path)? }, words),
            (None, None, path) => {
                (Source::Rootfs { path: absolute(path.as_deref().unwrap_or_else(|| Path::new("")))? }, words)
            }
        };
        let mut request = LaunchRequest::new(source);
        request.entrypoint.clone_from(&self.image.entrypoint);
        request.name.clone_from(&self.name);
        request.args = command.to_vec();
        request.env = self.environment()?;
        request.cwd.clone_from(&self.workdir);
        request.user.clone_from(&self.user);
        request.init = self.init;
        request.hostname.clone_from(&self.hostname);
        self.mounts.fill(&mut request);
        request.shm_size.clone_from(&self.shm_size);
        request.limits = self.limits.request();
        request.resources = self.resources.request();
        self.network.fill(&mut request);
        request.read_only = self.read_only;
        request.cap_add.clone_from(&self.cap_add);
        request.cap_drop.clone_from(&self.cap_drop);
        request.ulimits.clone_from(&self.ulimit);
        request.labels = labels(&self.label);
        request.devices = self.devices.request()?;
        request.oci_seccomp = self.oci_seccomp;
        request.cgroup_parent.clone_from(&self.cgroup_parent);
        request.cgroup_manager.clone_from(&self.cgroup_manager);
        request.timeout_ms = self.timeout.map(millis);
        request.ttl_ms = self.ttl.map(millis);
        request.idle_ms = self.idle_timeout.map(millis);
        (request.health, request.no_healthcheck) = (self.health.request(), self.health.no_healthcheck);
        request.keep_report_ms = self.keep_report.map(millis);
        request.restart.clone_from(&self.restart);
        request.stop_signal.clone_from(&self.stop_signal);
        request.grace_ms = self.stop_timeout.map(millis);
        Ok(request)
    }

    fn environment(&self) -> Result<Vec<String>, CliError> {
        let mut entries = Vec::new();
        for file in &self.env_file {
            let text = std::fs::read_to_string(file).map_err(|error| CliError(unreadable(file, &error)))?;
            let lines =
                text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
            entries.extend(lines.filter_map(with_callers_value));
        }
        entries.extend(self.env.iter().filter_map(|entry| with_callers_value(entry)));
        Ok(entries)
    }
}

/// `KEY` alone means the caller's own value, and nothing where the caller has none.
pub(crate) fn with_callers_value(entry: &str) -> Option<String> {
    if entry.contains('=') || entry.is_empty() {
        return Some(entry.to_owned());
    }
    let value = std::env::var_os(entry)?;
    Some(format!("{entry}={}", value.to_string_lossy()))
}

pub(crate) fn labels(texts: &[String]) -> BTreeMap<String, String> {
    let split = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    texts.iter().map(split).collect()
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An absolute path: whoever reads the record later may be in another directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|error| CliError(unreadable(path, &error)))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure {
        code: Code::InvalidValue,
        what: format!("{} cannot be read", path.display()),
        why: vec![error.to_string()],
        next: None,
    }
}

/// Refuses a combination of options.
pub(crate) fn refuse(field: &str, why: &str) -> CliError {
    Refused { field: field.to_owned(), why: why.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_seconds_and_lengths_before_now() {
        let time = |text: &str| moment(text).unwrap();
        let offset = time("2026-01-31").duration_since(time("2026-01-31T00:00:00Z"));
        assert!(offset.abs() <= SignedDuration::from_hours(14), "midnight somewhere: {offset}");
        assert_eq!(time("2026-01-31T12:00:00Z").as_second(), 1_769_860_800);
        assert_eq!(time("1769860800.5").as_millisecond(), 1_769_860_800_500);
        assert!((3590..=3610).contains(&(Timestamp::now().as_second() - time("1h").as_second())));
        for text in ["", "yesterday", "nan", "1e300", "2026-13-01T00:00:00Z", "9999999999 years"] {
            assert!(moment(text).is_err(), "{text}");
        }
        assert_eq!((tail("all"), tail("0")), (Ok(Tail(None)), Ok(Tail(Some(0)))));
        assert!(tail("-1").is_err() && tail("").is_err());
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        assert_eq!(duration("10").unwrap(), Duration::from_secs(10));
        assert_eq!(duration("1m 30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        for text in ["", "x", "-1", "1 parsec"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_key_alone_takes_the_callers_value() {
        assert_eq!(with_callers_value("A=1").as_deref(), Some("A=1"));
        assert_eq!(with_callers_value("=x").as_deref(), Some("=x"), "the library refuses it by name");
        assert!(with_callers_value("PATH").unwrap().starts_with("PATH="));
        assert_eq!(with_callers_value("COFFERDAM_TEST_UNSET_VARIABLE"), None);
    }
}
