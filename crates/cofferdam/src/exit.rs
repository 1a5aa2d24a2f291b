//! How a container ended: a cause with its evidence, never just a number.
//!
//! Invariant: a cause is what the evidence shows. What cannot be told apart is said to be so
//! ([`Evidence::Ambiguous`]); an exit code is never made up.
//! Not here: collecting the evidence (`supervise`). [`decide`] is a pure function of it.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cgroup::{MemoryCounters, Usage};
use crate::error::{Code, Failure};
use crate::id::{ContainerId, ContainerName};
use crate::signal::Signal;

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
    /// The kernel's log names the process that it killed for lack of memory.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentSignal {
    /// The signal.
    pub signal: Signal,
    /// On whose behalf.
    pub by: AskedBy,
    /// When.
    pub at: Timestamp,
}

/// Everything that was seen of a death.
#[derive(Debug, Clone)]
pub struct Death {
    /// The pid that was waited for.
    pub pid: i32,
    /// How it ended.
    pub end: ProcessEnd,
    /// Whether the status is the kernel's record of a process that was not our child.
    pub from_pidfd: bool,
    /// Whether the process stands for a sandbox, which reports a guest's signal as exit code 128+n.
    pub sandboxed: bool,
    /// The signals that we sent, oldest first.
    pub sent: Vec<SentSignal>,
    /// The time limit, if it was reached.
    pub timed_out: Option<Duration>,
    /// The counters after the end; `None` where there are none.
    pub memory: Option<MemoryCounters>,
    /// Whether the kernel's log says that it killed this very process for lack of memory: its line, or that it does
    /// not. `None` where the log was not asked, or cannot tell.
    pub oom_line: Option<Result<String, NotInLog>>,
    /// How a helper of the sandbox died before it, if one did.
    pub helper: Option<HelperDeath>,
}

/// The kernel's log is complete, and names no kill of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotInLog;

/// The death of a sandbox's helper process, before the sandbox's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperDeath {
    /// What it was, such as `gofer (pid 12)`.
    pub helper: String,
    /// How it ended.
    pub end: ProcessEnd,
}

/// Decides the cause of a death from what was seen of it.
#[must_use]
pub fn decide(death: &Death) -> (Cause, Option<AskedBy>, Vec<Evidence>) {
    let mut evidence = vec![wait_status(death)];
    evidence.extend(death.sent.iter().map(|sent| Evidence::SignalSent {
        signal: sent.signal,
        by: sent.by,
        at: sent.at,
    }));
    let oom_kills = death.memory.as_ref().map_or(0, |memory| memory.oom_kill);
    if let Some(counters) = death.memory.clone() {
        evidence.push(Evidence::Memory { counters });
    }
    let asked_by = death.sent.last().map(|sent| sent.by);
    if let Some(limit) = death.timed_out {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        return (Cause::TimedOut { limit_ms }, Some(AskedBy::Timeout), evidence);
    }
    let was_sent =
        |signal: Signal| death.sent.iter().rev().find(|sent| sent.signal == signal).map(|sent| sent.by);
    match death.end {
        ProcessEnd::Signaled { signal, .. }
            if death.may_be_oom_kill()
                && was_sent(signal).is_none()
                && death.oom_line != Some(Err(NotInLog)) =>
        {
            if let Some(Ok(line)) = death.oom_line.clone() {
                evidence.push(Evidence::KernelLog { line });
            }
            (Cause::OomKilled { victim: OomVictim::Init }, None, evidence)
        }
        ProcessEnd::Signaled { signal, .. } => match &death.helper {
            Some(helper) if was_sent(signal).is_none() => lost_helper(helper, evidence),
            _ => (Cause::Signaled { signal }, was_sent(signal), evidence),
        },
        ProcessEnd::Exited(code) => {
            if let Some(helper) = &death.helper {
                return lost_helper(helper, evidence);
            }
            if code == Signal::KILL.shell_code() && oom_kills > 0 && was_sent(Signal::KILL).is_none() {
                return (Cause::OomKilled { victim: OomVictim::Child }, None, evidence);
            }
            let guest_signal = code.checked_sub(128).and_then(|n| Signal::from_number(i32::from(n)));
            let Some(signal) = guest_signal.filter(|_| death.sandboxed) else {
                return (Cause::Exited { code }, asked_by, evidence);
            };
            let sent_by = was_sent(signal);
            evidence.push(Evidence::Ambiguous {
                explanation: format!(
                    "gVisor reports a guest that exits {code} and one that {signal} ends in the same way; {}",
                    if sent_by.is_some() {
                        "cofferdam had sent that signal"
                    } else {
                        "cofferdam had not sent it"
                    }
                ),
            });
            match sent_by {
                Some(by) => (Cause::Signaled { signal }, Some(by), evidence),
                None => (Cause::Exited { code }, asked_by, evidence),
            }
        }
    }
}

impl Death {
    /// Whether SIGKILL ended it and the kernel has killed some process of its cgroup for lack of memory. Which one,
    /// the counter does not say.
    #[must_use]
    pub fn may_be_oom_kill(&self) -> bool {
        let killed = matches!(self.end, ProcessEnd::Signaled { signal, .. } if signal == Signal::KILL);
        killed && self.memory.as_ref().is_some_and(|memory| memory.oom_kill > 0)
    }
}

fn wait_status(death: &Death) -> Evidence {
    let (code, signal, core_dumped) = match death.end {
        ProcessEnd::Exited(code) => (Some(code), None, false),
        ProcessEnd::Signaled { signal, core_dumped } => (None, Some(signal), core_dumped),
    };
    Evidence::WaitStatus { pid: death.pid, code, signal, core_dumped, from_pidfd: death.from_pidfd }
}

fn lost_helper(helper: &HelperDeath, mut evidence: Vec<Evidence>) -> (Cause, Option<AskedBy>, Vec<Evidence>) {
    let how = helper.end.to_string();
    evidence.push(Evidence::HelperDied { helper: helper.helper.clone(), how: how.clone() });
    let failure = Failure {
        code: Code::RuntimeLost,
        what: format!("the sandbox lost its {}, which {how}", helper.helper),
        why: vec![],
        next: Some("look for who killed it: the kernel log, a memory limit around cofferdam itself".into()),
    };
    (Cause::RuntimeLost { failure }, None, evidence)
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

    fn ambiguity(&self) -> Option<&str> {
        self.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Ambiguous { explanation } => Some(explanation.as_str()),
            _ => None,
        })
    }

    /// One line on a death that is not a plain exit: cause, evidence, what to do. `None` for a plain exit.
    #[must_use]
    pub fn death_line(&self) -> Option<String> {
        let who = self.name.as_ref().map_or_else(|| self.id.short().to_owned(), ToString::to_string);
        let text = match &self.cause {
            Cause::Exited { .. } => self.ambiguity()?.to_owned(),
            Cause::Signaled { signal } => match self.asked_by {
                Some(by) => format!("ended by {signal}, which cofferdam sent ({by})"),
                None => format!(
                    "ended by {signal} from outside{}. Not an out-of-memory kill of its own limit{}",
                    self.core_note(),
                    match self.memory().map(|memory| memory.oom_kill) {
                        None => ": no counter to tell".to_owned(),
                        Some(0) => " (oom_kill=0)".to_owned(),
                        Some(n) =>
                            format!(": the kernel's log says that oom_kill={n} was for other processes of it"),
                    },
                ),
            },
            Cause::OomKilled { victim } => self.oom_text(*victim),
            Cause::TimedOut { limit_ms } => format!(
                "stopped after its time limit of {}. Give a longer --timeout, or 0 for none",
                format_duration(Duration::from_millis(*limit_ms))
            ),
            Cause::StartFailed { failure } | Cause::RuntimeLost { failure } => {
                let next = failure.next.as_ref().map_or_else(String::new, |next| format!(". Next: {next}"));
                format!("{failure} [{}]{next}", failure.code)
            }
        };
        Some(format!("{who} exited {}: {text}", self.cause.shell_code()))
    }

    fn memory(&self) -> Option<&MemoryCounters> {
        self.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Memory { counters } => Some(counters),
            _ => None,
        })
    }

    fn core_note(&self) -> &'static str {
        let dumped = |e: &Evidence| matches!(e, Evidence::WaitStatus { core_dumped: true, .. });
        if self.evidence.iter().any(dumped) { " (core dumped)" } else { "" }
    }

    fn oom_text(&self, victim: OomVictim) -> String {
        let show = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), format_bytes);
        let Some(memory) = self.memory() else { return "out of memory".into() };
        let who = match victim {
            OomVictim::Init => "",
            OomVictim::Child => " (a child process was killed; the container handed its code on)",
        };
        format!(
            "out of memory{who}: limit {}, peak {} ({} oom_kill={}). Give it more: -m {}",
            show(memory.limit_bytes),
            show(memory.peak_bytes),
            memory.file.file_name().unwrap_or_default().to_string_lossy(),
            memory.oom_kill,
            memory
                .limit_bytes
                .map_or_else(|| "SIZE".to_owned(), |limit| format!("{}m", (limit * 3 / 2) >> 20)),
        )
    }
}

/// Bytes for people: binary units, one decimal.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// A length of time for people.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    format!("{:#}", jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX))
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited {code}"),
            Self::Signaled { signal, core_dumped: false } => write!(f, "was ended by {signal}"),
            Self::Signaled { signal, core_dumped: true } => write!(f, "was ended by {signal} (core dumped)"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited {code}"),
            Self::Signaled { signal } => write!(f, "ended by {signal}"),
            Self::OomKilled { .. } => f.write_str("killed by the kernel, out of memory"),
            Self::TimedOut { limit_ms } => {
                write!(
                    f,
                    "ended after its time limit of {}",
                    format_duration(Duration::from_millis(*limit_ms))
                )
            }
            Self::StartFailed { failure } => write!(f, "never ran: {failure}"),
            Self::RuntimeLost { failure } => write!(f, "lost: {failure}"),
        }
    }
}

impl fmt::Display for AskedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Remove => "rm --force",
            Self::Timeout => "time limit",
            Self::Forwarded => "passed on from the caller",
        })
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
#[path = "exit_tests.rs"]
mod tests;
