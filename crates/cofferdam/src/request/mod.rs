//! What a caller asks for, and its check: a [`LaunchRequest`] is untrusted, a [`ContainerPlan`] is not.
//!
//! Invariant: [`validate`] looks at nothing but the request. Whether files, users or runtimes exist is found out
//! later, by the steps that use them.

mod parse;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use parse::check_destination;
pub use parse::{MountRequest, NetworkMode, Ulimit, UserPart, UserSpec, parse_size};

use crate::error::{Code, Diagnose};
use crate::id::{ContainerId, ContainerName, quote};
use crate::signal::Signal;
use crate::spec::capability;

/// The longest single argument or environment entry that Linux accepts (`MAX_ARG_STRLEN`: 32 pages).
pub const ARGUMENT_LIMIT_BYTES: usize = 128 * 1024;
/// The least memory limit, in bytes: docker's own floor. Below it runc's init is killed before it can say why.
pub const MEMORY_FLOOR_BYTES: u64 = 6 << 20;
/// Period of the CPU quota, in microseconds: the kernel's default.
pub const CPU_PERIOD_US: u64 = 100_000;
/// The least CPU quota that the kernel takes, in microseconds a period.
const CPU_QUOTA_FLOOR_US: u64 = 1_000;
/// Time between the stop signal and SIGKILL unless the caller says otherwise: docker's default.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Where a container comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// An OCI bundle: a directory with config.json.
    Bundle {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that becomes the root filesystem, with a specification that cofferdam makes.
    Rootfs {
        /// The directory.
        path: PathBuf,
    },
}

/// What a caller asks for, as it was typed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// Where the container comes from.
    pub source: Source,
    /// A name for it.
    pub name: Option<String>,
    /// The command and its arguments; for a bundle, empty means the bundle's own.
    pub args: Vec<String>,
    /// Environment entries `KEY=VALUE`; they replace entries of the same key.
    pub env: Vec<String>,
    /// Working directory inside the container.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// Host name inside the container.
    pub hostname: Option<String>,
    /// `SOURCE:DESTINATION[:ro]`, one a mount.
    pub mounts: Vec<String>,
    /// Memory limit, such as `64m`.
    pub memory: Option<String>,
    /// How many CPUs' time it may use, such as `1.5`.
    pub cpus: Option<f64>,
    /// How many processes and threads it may have; -1 for no limit.
    pub pids_limit: Option<i64>,
    /// `none`, `host` or `ns:PATH`.
    pub network: Option<String>,
    /// Mount the root filesystem read-only.
    pub read_only: bool,
    /// Capabilities to add to the default ones.
    pub cap_add: Vec<String>,
    /// Capabilities to take from the default ones; `ALL` for all.
    pub cap_drop: Vec<String>,
    /// Resource limits `NAME=SOFT[:HARD]`.
    pub ulimits: Vec<String>,
    /// Labels: for the user, without effect on the container.
    pub labels: BTreeMap<String, String>,
    /// Give the container a terminal.
    pub terminal: bool,
    /// Keep seccomp under gVisor too.
    pub oci_seccomp: bool,
    /// Cgroup below which the container's own is made.
    pub cgroup_parent: Option<String>,
    /// End the container after this time, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
    /// Time between that signal and SIGKILL, in milliseconds.
    pub grace_ms: Option<u64>,
    /// Forget the container once its end has been reported.
    pub remove: bool,
}

impl LaunchRequest {
    /// A request for a container from `source` that asks for nothing special.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            name: None,
            args: vec![],
            env: vec![],
            cwd: None,
            user: None,
            hostname: None,
            mounts: vec![],
            memory: None,
            cpus: None,
            pids_limit: None,
            network: None,
            read_only: false,
            cap_add: vec![],
            cap_drop: vec![],
            ulimits: vec![],
            labels: BTreeMap::new(),
            terminal: false,
            oci_seccomp: false,
            cgroup_parent: None,
            timeout_ms: None,
            stop_signal: None,
            grace_ms: None,
            remove: false,
        }
    }
}

/// A checked request: each value has its type, and none can be wrong by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    /// The container's id, made here.
    pub id: ContainerId,
    /// Where it comes from.
    pub source: Source,
    /// Its name.
    pub name: Option<ContainerName>,
    /// The command; empty for a bundle's own.
    pub args: Vec<String>,
    /// Environment entries.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// The user.
    pub user: Option<UserSpec>,
    /// Host name.
    pub hostname: Option<String>,
    /// Mounts to add.
    pub mounts: Vec<MountRequest>,
    /// Limits.
    pub limits: Limits,
    /// Network; `None` leaves it to the bundle, and means none without a bundle.
    pub network: Option<NetworkMode>,
    /// Read-only root.
    pub read_only: bool,
    /// Capabilities to add, by full name.
    pub cap_add: Vec<String>,
    /// Capabilities to take, by full name.
    pub cap_drop: Vec<String>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// A terminal.
    pub terminal: bool,
    /// Keep seccomp under gVisor.
    pub oci_seccomp: bool,
    /// Parent cgroup.
    pub cgroup_parent: Option<String>,
    /// When and how it is stopped.
    pub stopping: Stopping,
    /// Forget it after its end.
    pub remove: bool,
}

/// Limits that a cgroup enforces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU time, in microseconds a period of [`CPU_PERIOD_US`].
    pub cpu_quota_us: Option<u64>,
    /// Processes and threads; -1 for no limit.
    pub pids: Option<i64>,
}

impl Limits {
    /// Reads limits as a user writes them: memory such as `64m`, a number of CPUs such as `1.5`, a number of
    /// processes or -1. What is `None` is not limited.
    ///
    /// # Errors
    /// [`Refused`] names the first value that cannot be right.
    pub fn parse(memory: Option<&str>, cpus: Option<f64>, pids: Option<i64>) -> Result<Self, Refused> {
        let memory_bytes = memory.map(parse_memory).transpose()?;
        let cpu_quota_us = cpus.map(cpu_quota).transpose()?;
        if let Some(pids) = pids.filter(|pids| *pids != -1 && *pids < 1) {
            return Err(Refused::new(
                "--pids-limit",
                format!("{pids} is not a positive number, nor -1 for no limit"),
            ));
        }
        Ok(Self { memory_bytes, cpu_quota_us, pids })
    }

    /// These limits, with those of `newer` in place of the ones that it has.
    #[must_use]
    pub fn overlaid_with(self, newer: &Self) -> Self {
        Self {
            memory_bytes: newer.memory_bytes.or(self.memory_bytes),
            cpu_quota_us: newer.cpu_quota_us.or(self.cpu_quota_us),
            pids: newer.pids.or(self.pids),
        }
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When and how a container is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// The signal that asks it to.
    pub signal: Signal,
    /// Time between that signal and SIGKILL.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub grace: Duration,
    /// Time after which it is stopped by itself.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub timeout: Option<Duration>,
}

/// A request that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Refused {
    /// The field, as the user knows it.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl Refused {
    pub(crate) fn new(field: &str, why: impl Into<String>) -> Self {
        Self { field: field.to_owned(), why: why.into() }
    }
}

impl Diagnose for Refused {
    fn code(&self) -> Code {
        Code::InvalidValue
    }

    fn next_step(&self) -> Option<String> {
        None
    }
}

/// Checks a request and gives it an id.
///
/// # Errors
/// [`Refused`] names the first field that cannot be right.
pub fn validate(request: LaunchRequest) -> Result<ContainerPlan, Refused> {
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
    let limits = Limits::parse(request.memory.as_deref(), request.cpus, request.pids_limit)?;
    let stopping = stopping(&request)?;
    let parse = |field: &str, text: &Option<String>| match text {
        Some(text) => NetworkMode::parse(text).map(Some).map_err(|why| Refused::new(field, why)),
        None => Ok(None),
    };
    let network = parse("--network", &request.network)?;
    let name = match &request.name {
        Some(text) => {
            Some(text.parse().map_err(|e: crate::id::InvalidId| Refused::new("--name", e.to_string()))?)
        }
        None => None,
    };
    let user =
        request.user.as_deref().map(UserSpec::parse).transpose().map_err(|w| Refused::new("--user", w))?;
    let each = |field: &'static str, why: String| Refused::new(field, why);
    let mounts = request
        .mounts
        .iter()
        .map(|text| MountRequest::parse(text).map_err(|why| each("--volume", why)))
        .collect::<Result<Vec<_>, _>>()?;
    let ulimits = request
        .ulimits
        .iter()
        .map(|text| Ulimit::parse(text).map_err(|why| each("--ulimit", why)))
        .collect::<Result<Vec<_>, _>>()?;
    let capabilities = |field: &'static str, names: &[String]| {
        names
            .iter()
            .map(|name| {
                capability::full_name(name).ok_or_else(|| {
                    Refused::new(field, format!("{} is not a capability of Linux", quote(name)))
                })
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(ContainerPlan {
        id: ContainerId::generate(),
        cap_add: capabilities("--cap-add", &request.cap_add)?,
        cap_drop: capabilities("--cap-drop", &request.cap_drop)?,
        source: request.source,
        name,
        args: request.args,
        env: request.env,
        cwd: request.cwd,
        user,
        hostname: request.hostname,
        mounts,
        limits,
        network,
        read_only: request.read_only,
        ulimits,
        labels: request.labels,
        terminal: request.terminal,
        oci_seccomp: request.oci_seccomp,
        cgroup_parent: request.cgroup_parent.map(check_cgroup_parent).transpose()?,
        stopping,
        remove: request.remove,
    })
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

fn check_cgroup_parent(parent: String) -> Result<String, Refused> {
    let odd = parent.contains('\0') || parent.split('/').any(|part| part == "..");
    if odd || !parent.starts_with('/') {
        return Err(Refused::new(
            "--cgroup-parent",
            format!("{} is not an absolute path of a cgroup without `..`", quote(&parent)),
        ));
    }
    Ok(parent)
}

fn parse_memory(text: &str) -> Result<u64, Refused> {
    let bytes = parse_size(text).map_err(|why| Refused::new("--memory", why))?;
    if bytes < MEMORY_FLOOR_BYTES {
        let why = format!("{bytes} bytes is too little to start a process in: give at least 6m");
        return Err(Refused::new("--memory", why));
    }
    Ok(bytes)
}

fn cpu_quota(cpus: f64) -> Result<u64, Refused> {
    const MOST: f64 = 65536.0;
    if !(cpus > 0.0 && cpus <= MOST) {
        return Err(Refused::new("--cpus", format!("{cpus} is not a positive number of CPUs")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in 0..=MOST")]
    #[expect(clippy::cast_precision_loss, reason = "the period is a small constant")]
    let quota = (cpus * CPU_PERIOD_US as f64).round() as u64;
    if quota < CPU_QUOTA_FLOOR_US {
        return Err(Refused::new("--cpus", format!("{cpus} is less than the kernel's least of 0.01")));
    }
    Ok(quota)
}

fn stopping(request: &LaunchRequest) -> Result<Stopping, Refused> {
    let signal = match &request.stop_signal {
        Some(text) => text
            .parse()
            .map_err(|e: crate::signal::UnknownSignal| Refused::new("--stop-signal", e.to_string()))?,
        None => Signal::TERM,
    };
    Ok(Stopping {
        signal,
        grace: request.grace_ms.map_or(DEFAULT_GRACE, Duration::from_millis),
        timeout: request.timeout_ms.filter(|ms| *ms > 0).map(Duration::from_millis),
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
