//! How a container ended: a cause with its evidence, never just a number.
//!
//! Invariant: a cause is what the evidence shows. What cannot be told apart is said to be so
//! ([`Evidence::Ambiguous`]); an exit code is never made up.
//! Not here: collecting the evidence (`supervise`). [`decide()`] is a pure function of it.

mod decide;
mod words;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use decide::{Death, HelperDeath, NotInLog, decide};
pub use words::{format_bytes, format_duration};

use crate::cgroup::{MemoryCounters, Usage};
use crate::error::{Code, Failure};
use crate::id::{ContainerId, ContainerName};
use crate::signal::Signal;
use crate::state::Record;

/// Version of the report's format on disk and on the wire.
pub const REPORT_VERSION: u32 = 1;

/// Everything that is known about the end of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Version of this format, readable before the rest.
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// Its name, where it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ContainerName>,
    /// The runtime that ran it.
    pub runtime: String,
    /// How often it had been started again before this end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restarts: u32,
    /// Why it ended.
    pub cause: Cause,
    /// Who of us asked for its end, if anybody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<AskedBy>,
    /// What the cause rests on.
    pub evidence: Vec<Evidence>,
    /// When its process was started; `None` if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When its end was seen.
    pub ended: Timestamp,
    /// What it used.
    #[serde(default)]
    pub usage: Usage,
    /// What went through its standard streams.
    #[serde(default)]
    pub stdio: StdioReport,
    /// What could not be cleaned up. Empty when nothing is left behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cleanup: Vec<Failure>,
}

/// Whether a field says nothing, and is left out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ExitReport {
    /// The report of a run, by the container's record, without what went through it.
    pub(crate) fn of(
        record: &Record,
        cause: Cause,
        asked_by: Option<AskedBy>,
        evidence: Vec<Evidence>,
        ended: Timestamp,
    ) -> Self {
        Self {
            version: REPORT_VERSION,
            id: record.id.clone(),
            name: record.name.clone(),
            runtime: record.runtime.name.clone(),
            restarts: record.restarts.count,
            cause,
            asked_by,
            evidence,
            started: record.started,
            ended,
            usage: Usage::default(),
            stdio: StdioReport::default(),
            cleanup: vec![],
        }
    }
}

/// Why a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// Its process ended by itself.
    Exited {
        /// The process's own code.
        code: u8,
    },
    /// A signal ended it.
    Signaled {
        /// The signal.
        signal: Signal,
    },
    /// The kernel killed it for lack of memory.
    OomKilled {
        /// Which process of the container was killed.
        victim: OomVictim,
    },
    /// It ran longer than it was allowed to, and was ended.
    TimedOut {
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// It never ran.
    StartFailed {
        /// What went wrong.
        failure: Failure,
    },
    /// The runtime or our supervisor died, and nobody can tell how the container ended.
    RuntimeLost {
        /// What was lost.
        failure: Failure,
    },
}

/// Which process of a container the out-of-memory killer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OomVictim {
    /// The container's own process, or under gVisor its sandbox.
    Init,
    /// Another process, whose death (137) the container's own process handed on as its exit code.
    Child,
    /// A helper of the sandbox, without which it cannot go on.
    Helper,
}

/// A request of ours that led to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskedBy {
    /// `stop`: a signal, a time of grace, SIGKILL.
    Stop,
    /// `kill`.
    Kill,
    /// `rm --force`.
    Remove,
    /// The time limit.
    Timeout,
    /// A signal that the foreground process got and passed on.
    Forwarded,
    /// The policy for a log that cannot be written.
    LogFull,
    /// The end of its time to live.
    Ttl,
    /// Nobody had to do with it for too long.
    Idle,
    /// It was not well any more.
    Unhealthy,
}

/// One fact that a cause rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Evidence {
    /// `waitpid` on the container's process (under gVisor: on its sandbox) said this.
    WaitStatus {
        /// The pid that was waited for.
        pid: i32,
        /// Its exit code, if it exited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        /// The signal, if one ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<Signal>,
        /// Whether a core file was written.
        #[serde(default)]
        core_dumped: bool,
        /// Whether it comes from the kernel's record (PIDFD_GET_INFO) because the supervisor had died.
        #[serde(default)]
        from_pidfd: bool,
    },
    /// A signal that we sent.
    SignalSent {
        /// The signal.
        signal: Signal,
        /// On whose behalf.
        by: AskedBy,
        /// When.
        at: Timestamp,
    },
    /// The memory controller's counters before the cgroup was removed.
    Memory {
        /// The counters at the end. The cgroup was made for this container, so they began at zero.
        #[serde(flatten)]
        counters: MemoryCounters,
    },
    /// The kernel's log on a process that it killed for lack of memory: which, or for whose lack.
    KernelLog {
        /// The line.
        line: String,
    },
    /// Two ends look the same from outside.
    Ambiguous {
        /// Which.
        explanation: String,
    },
    /// A helper process of the sandbox (the gofer) ended before it.
    HelperDied {
        /// What it was.
        helper: String,
        /// How it ended.
        how: String,
    },
    /// The runtime's own words.
    RuntimeSaid {
        /// A line of its log.
        line: String,
    },
}

/// What went through a container's standard streams, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioReport {
    /// Bytes that the container wrote to its standard output, or to its terminal.
    pub stdout_bytes: u64,
    /// Bytes that it wrote to its standard error.
    pub stderr_bytes: u64,
    /// Bytes of those that could not be handed on, because the reader failed.
    pub dropped_bytes: u64,
    /// Whether somebody still held the streams open after the end, so that reading was given up.
    pub truncated: bool,
}

/// How the container's process ended, as the kernel says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It exited with this code.
    Exited(u8),
    /// A signal ended it.
    Signaled {
        /// The signal.
        signal: Signal,
        /// Whether a core file was written.
        core_dumped: bool,
    },
}

/// A signal that we sent to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentSignal {
    /// The signal.
    pub signal: Signal,
    /// On whose behalf.
    pub by: AskedBy,
    /// When.
    pub at: Timestamp,
}

impl SentSignal {
    /// Whether it asked for the end: a process that exits after it may have followed it.
    #[must_use]
    pub fn asks_for_the_end(&self) -> bool {
        let by_nature =
            matches!(self.by, AskedBy::Stop | AskedBy::Remove | AskedBy::LogFull | AskedBy::Unhealthy)
                || self.by.is_a_limit();
        by_nature || self.signal.asks_for_the_end()
    }
}

impl AskedBy {
    /// Whether it is a limit in time.
    pub(crate) fn is_a_limit(self) -> bool {
        matches!(self, Self::Timeout | Self::Ttl | Self::Idle)
    }
}

impl Cause {
    /// The code that a shell sees, as docker's users know it.
    ///
    /// The container's own code; 128+n for a signal; 137 when out of memory; 124 for the time limit; 127 and 126
    /// for a command that is not found or not executable; 125 for a failure of ours or of the runtime.
    #[must_use]
    pub fn shell_code(&self) -> u8 {
        match self {
            Self::Exited { code } => *code,
            Self::Signaled { signal } => signal.shell_code(),
            Self::OomKilled { .. } => Signal::KILL.shell_code(),
            Self::TimedOut { .. } => 124,
            Self::StartFailed { failure } => shell_code_of_failure(failure.code),
            Self::RuntimeLost { .. } => 125,
        }
    }

    /// The code for programs: like [`Cause::shell_code`], but -1 where there was no process that could have had one.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::StartFailed { failure } if shell_code_of_failure(failure.code) == 125 => -1,
            Self::RuntimeLost { .. } => -1,
            _ => i32::from(self.shell_code()),
        }
    }

    /// A word for tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::Signaled { .. } => "signaled",
            Self::OomKilled { .. } => "oom-killed",
            Self::TimedOut { .. } => "timed-out",
            Self::StartFailed { .. } => "start-failed",
            Self::RuntimeLost { .. } => "runtime-lost",
        }
    }
}

/// The code that a shell sees when a launch fails with this error.
#[must_use]
pub fn shell_code_of_failure(code: Code) -> u8 {
    match code {
        Code::CommandNotFound => 127,
        Code::CommandNotExecutable => 126,
        _ => 125,
    }
}

impl ExitReport {
    /// The report's exit code for programs; see [`Cause::code`].
    #[must_use]
    pub fn code(&self) -> i32 {
        self.cause.code()
    }
}

impl From<crate::sys::RawExit> for ProcessEnd {
    fn from(raw: crate::sys::RawExit) -> Self {
        match raw {
            crate::sys::RawExit::Exited(code) => Self::Exited(code),
            crate::sys::RawExit::Signaled { signal, core_dumped } => Self::Signaled {
                // The kernel has no signals beyond 64.
                signal: Signal::from_number(signal).unwrap_or(Signal::KILL),
                core_dumped,
            },
        }
    }
}

#[cfg(test)]
mod tests;
