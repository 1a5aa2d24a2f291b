//! What is written down of a container.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::file::write_json;
use super::{ContainerDir, StateError};
use crate::cgroup::CgroupPath;
use crate::exit::{AskedBy, Cause, ExitReport, SentSignal, is_default};
use crate::gpu::Gpu;
use crate::health::Health;
use crate::id::{ContainerId, ContainerName};
use crate::lifecycle::Status;
use crate::logs::{JournaldConfig, LogConfig};
use crate::network::{Attachment, Connection};
use crate::request::{
    HealthCheck, Limits, MemoryThreshold, MountRecord, NetworkMode, OnUnhealthy, Restarts, Source,
    StdioFiles, Stopping,
};
use crate::runtime::{Clearing, RuntimeConfig, RuntimeFlags};

/// Version of the record's format.
pub const RECORD_VERSION: u32 = 1;

/// A process that cannot be taken for another one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// When it was started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// The boot in which both mean something.
    pub boot_id: String,
}

impl ProcessId {
    /// A living process; `None` when there is none with this pid.
    #[must_use]
    pub fn of(pid: i32, boot_id: &str) -> Option<Self> {
        let start_time = crate::proc::start_time_of_living(pid)?;
        Some(Self { pid, start_time, boot_id: boot_id.to_owned() })
    }

    /// Whether the kernel still knows this very process, alive or dead.
    pub(crate) fn is_known(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id
            && crate::proc::stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time)
    }

    /// Whether this very process is stopped by a signal.
    pub(crate) fn is_stopped(&self, boot_id: &str) -> bool {
        let is_it = |stat: &crate::proc::Stat| stat.start_time == self.start_time;
        self.boot_id == boot_id
            && crate::proc::stat(self.pid).filter(is_it).is_some_and(|stat| stat.is_stopped())
    }

    /// When it began, in microseconds after boot.
    pub(crate) const fn began_us(&self) -> u64 {
        self.start_time.saturating_mul(crate::proc::TICK_US)
    }

    /// Whether this very process is alive.
    #[must_use]
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id && crate::proc::start_time_of_living(self.pid) == Some(self.start_time)
    }
}

/// What is written down of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format, readable before the rest.
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ContainerName>,
    /// How far it is.
    pub status: Status,
    /// The runtime that has it.
    pub runtime: RuntimeConfig,
    /// Flags that it needs at every call of the runtime.
    pub flags: RuntimeFlags,
    /// Whether its process is a sandbox.
    pub sandboxed: bool,
    /// Its process, or its sandbox; `None` before there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
    /// The process that supervises it.
    pub supervisor: ProcessId,
    /// Its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupPath>,
    /// Where it came from.
    pub source: Source,
    /// Its root filesystem.
    pub rootfs: PathBuf,
    /// The size of the file system of its own that has what it writes, in bytes; `None` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Its command.
    pub command: Vec<String>,
    /// What its user had mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountRecord>,
    /// Its network.
    pub network: NetworkMode,
    /// What it asks of a network of CNI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Box<Connection>>,
    /// What it has of that, while it has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Box<Attachment>>,
    /// The GPUs that it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Its limits.
    pub limits: Limits,
    /// What its cgroup may have on top of the limit of memory, for a sandbox's own needs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory_headroom_bytes: u64,
    /// When it is told that its memory gets short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_warn: Option<MemoryThreshold>,
    /// Whether that has been told, and has been so since.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory_warned: bool,
    /// For how long after each start its CPU quota does not hold yet.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional"
    )]
    pub cpu_boost: Option<Duration>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it has a pid namespace of its own.
    pub own_pid_namespace: bool,
    /// When and how it is stopped.
    pub stopping: Stopping,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it is started again, and how often it has been.
    #[serde(default, skip_serializing_if = "Restarts::is_none")]
    pub restarts: Restarts,
    /// How it is asked whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How it is, since its process was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Whether it is forgotten once its end has been reported.
    pub remove: bool,
    /// How long its report is kept then.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep_report: Duration,
    /// How its output is kept, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogConfig>,
    /// Which journald gets its output, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journald: Option<JournaldConfig>,
    /// Where its streams go when it is in the background; `None` in the foreground.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<StdioFiles>,
    /// Its pipes, by which a new supervisor finds them.
    #[serde(default, skip_serializing_if = "PipeIds::is_empty")]
    pub pipes: PipeIds,
    /// Who takes it away after an end of its own.
    pub clearing: Clearing,
    /// The signals by which cofferdam asked for its end, oldest first: written down before they are sent, so that
    /// whoever closes the record after a crash can tell them from those of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<SentSignal>,
    /// Out-of-memory kills in its cgroup that have been told, in its present run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub oom_kills: u64,
    /// Whether all that it had on the machine, but its folder and its name, has been taken away.
    #[serde(default)]
    pub cleared: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When its process was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
}

/// The pipes of a container by their inodes, which the kernel gives to no other pipe of this boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeIds {
    /// Of standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<u64>,
    /// Of standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<u64>,
    /// Of standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<u64>,
}

impl PipeIds {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Signals that a record keeps; the oldest go first.
const SENT_LIMIT: usize = 64;

impl Record {
    /// Whether the process that it names is there.
    pub(crate) fn lives(&self, boot_id: &str) -> bool {
        self.process.as_ref().is_some_and(|process| process.is_alive(boot_id))
    }

    /// What the user calls the container: its name, or the short id.
    pub(crate) fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.short().to_owned(), ToString::to_string)
    }

    /// Whether the container is to be started again after this end: its policy says so, and nobody has asked for its
    /// end.
    pub(crate) fn starts_again(&self, cause: &Cause) -> bool {
        let has_run = self.started.is_some() || self.restarts.count > 0;
        let only_killed =
            self.health_check.as_ref().is_some_and(|check| check.on_failure == OnUnhealthy::Kill);
        let is_final =
            |sent: &SentSignal| sent.asks_for_the_end() && !(sent.by == AskedBy::Unhealthy && only_killed);
        let was_asked = self.sent.iter().any(is_final);
        has_run && !was_asked && self.restarts.policy.wants(cause, self.restarts.count)
    }

    /// Says that a run has ended and that another one is to come.
    pub(crate) fn begin_restart(&mut self, ran: Duration) {
        self.restarts.count_one(ran);
        self.status = Status::Restarting;
        (self.process, self.started, self.pipes) = (None, None, PipeIds::default());
        self.health = None;
        self.sent.clear();
        self.oom_kills = 0;
        self.memory_warned = false;
    }

    /// The out-of-memory kills of a run that have not been told before its end, if there are any. They are told now.
    pub(crate) fn take_untold_kills(&mut self, report: &ExitReport) -> Option<u64> {
        let kills = report.oom_kills()?.checked_sub(self.oom_kills).filter(|kills| *kills > 0)?;
        self.oom_kills += kills;
        Some(kills)
    }

    /// Puts down a signal that is about to be sent.
    pub(crate) fn put_down(&mut self, sent: SentSignal) {
        if self.sent.len() == SENT_LIMIT {
            self.sent.remove(0);
        }
        self.sent.push(sent);
    }
}

impl ContainerDir {
    /// Writes the record.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn write_record(&self, record: &Record) -> Result<(), StateError> {
        write_json(&self.record_file(), record)
    }

    /// Reads the record; `None` when there is none yet, or the container has been removed meanwhile.
    ///
    /// # Errors
    /// [`StateError::Damaged`], [`StateError::TooNew`].
    pub fn read_record(&self) -> Result<Option<Record>, StateError> {
        read_versioned(&self.record_file(), RECORD_VERSION)
    }

    fn record_file(&self) -> PathBuf {
        self.path().join("record.json")
    }
}

/// Reads a file whose version is looked at first: a newer format is told from a damaged one.
pub(crate) fn read_versioned<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, StateError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::File { path: path.to_owned(), what: "read", source }),
    };
    let damaged = |source| StateError::Damaged { path: path.to_owned(), source };
    let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
    if version > known {
        return Err(StateError::TooNew { path: path.to_owned(), found: version, known });
    }
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}
