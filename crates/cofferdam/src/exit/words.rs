//! A death in words, for people.

use std::fmt;
use std::time::Duration;

use super::{AskedBy, Cause, Evidence, ExitReport, OomVictim, ProcessEnd};
use crate::cgroup::{MemoryCounters, OomScope};
use crate::signal::Signal;

impl ExitReport {
    fn ambiguity(&self) -> Option<&str> {
        self.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Ambiguous { explanation } => Some(explanation.as_str()),
            _ => None,
        })
    }

    /// What the user calls the container: its name, or the short id.
    pub(crate) fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.short().to_owned(), ToString::to_string)
    }

    /// One line on a death that is not a plain exit: cause, evidence, what to do. `None` for a plain exit.
    #[must_use]
    pub fn death_line(&self) -> Option<String> {
        let who = self.title();
        let text = match &self.cause {
            Cause::Exited { .. } => self.ambiguity()?.to_owned(),
            Cause::Signaled { signal } => match self.asked_by {
                Some(by) => format!("ended by {signal}, which cofferdam sent ({by})"),
                None if *signal == Signal::KILL => format!(
                    "ended by {signal} from outside. Not an out-of-memory kill of its own limit{}",
                    match self.memory().map(|memory| memory.oom_kill) {
                        None => ": no counter to tell".to_owned(),
                        Some(0) => " (oom_kill=0)".to_owned(),
                        Some(n) =>
                            format!(": the kernel's log says that oom_kill={n} was for other processes of it"),
                    },
                ),
                None if signal.is_fault() => {
                    format!(
                        "ended by {signal}{}, which a process gets for a fault of its own",
                        self.core_note()
                    )
                }
                None => format!("ended by {signal} from outside{}", self.core_note()),
            },
            Cause::OomKilled { victim } => self.oom_text(*victim),
            Cause::TimedOut { limit_ms } => {
                let limit = format_duration(Duration::from_millis(*limit_ms));
                match self.asked_by {
                    Some(AskedBy::Ttl) => {
                        format!("stopped at the end of its time to live of {limit} (--ttl)")
                    }
                    Some(AskedBy::Idle) => {
                        format!("stopped after nobody had to do with it for {limit} (--idle-timeout)")
                    }
                    _ => format!(
                        "stopped after its time limit of {limit}. Give a longer --timeout, or 0 for none"
                    ),
                }
            }
            Cause::StartFailed { failure } | Cause::RuntimeLost { failure } => {
                let next = failure.next.as_ref().map_or_else(String::new, |next| format!(". Next: {next}"));
                format!("{failure} [{}]{next}", failure.code)
            }
        };
        Some(format!("{who} exited {}: {text}", self.cause.shell_code()))
    }

    /// How many processes of it the kernel killed for lack of memory, if it did.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        self.memory().map(|memory| memory.oom_kill).filter(|kills| *kills > 0)
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
            OomVictim::Helper => " (a helper of the sandbox was killed)",
            OomVictim::Child => " (a child process was killed; the container handed its code on)",
        };
        let file = memory.file.file_name().unwrap_or_default().to_string_lossy();
        let asked = memory.limit_bytes.map(|limit| limit.saturating_sub(memory.headroom_bytes));
        let room = match memory.headroom_bytes {
            0 => String::new(),
            bytes => format!(" and {} for the sandbox", format_bytes(bytes)),
        };
        let more = || {
            let size = asked.map_or_else(|| "SIZE".to_owned(), |limit| format!("{}m", (limit / 2 * 3) >> 20));
            format!("Give it more: -m {size}")
        };
        let next = match &memory.scope {
            None | Some(OomScope::Own) => more(),
            Some(OomScope::Machine) => {
                "It was the machine that had none left: run less on it, or limit what else runs there".into()
            }
            Some(OomScope::Above { cgroup, limit_bytes }) => {
                let limit =
                    limit_bytes.map_or_else(String::new, |bytes| format!(" of {}", format_bytes(bytes)));
                let cgroup = cgroup.as_ref().map_or_else(String::new, |cgroup| format!(", {cgroup}"));
                format!("It was the limit{limit} of a cgroup above it{cgroup}: raise that one")
            }
        };
        format!(
            "out of memory{who}: limit {}{room}, peak {} ({file} oom_kill={}). {next}",
            show(asked),
            show(memory.peak_bytes),
            memory.oom_kill,
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
            Self::Ttl => "time to live",
            Self::Unhealthy => "unhealthy",
            Self::Idle => "idle for too long",
            Self::LogFull => "its log could not be written",
            Self::Forwarded => "passed on from the caller",
        })
    }
}
