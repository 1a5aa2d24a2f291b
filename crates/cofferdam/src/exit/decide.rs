//! From what was seen of a death to its cause: a pure function.

use std::time::Duration;

use super::{AskedBy, Cause, Evidence, OomVictim, ProcessEnd, SentSignal};
use crate::cgroup::MemoryCounters;
use crate::error::{Code, Failure};
use crate::signal::Signal;

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
    /// The kernel's line on what led to the last out-of-memory kill in it: whose limit it was, and the process.
    pub kernel_line: Option<String>,
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
    let mut evidence = what_was_seen(death);
    let oom_kills = death.memory.as_ref().map_or(0, |memory| memory.oom_kill);
    let asked_by = death.sent.iter().rev().find(|sent| sent.asks_for_the_end()).map(|sent| sent.by);
    if let Some(limit) = death.timed_out {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let limit = death.sent.iter().map(|sent| sent.by).find(|by| by.is_a_limit());
        return (Cause::TimedOut { limit_ms }, limit.or(Some(AskedBy::Timeout)), evidence);
    }
    match death.end {
        ProcessEnd::Signaled { signal, .. }
            if death.may_be_oom_kill()
                && death.sender_of(signal).is_none()
                && death.oom_line != Some(Err(NotInLog)) =>
        {
            evidence.extend(which_was_killed(death));
            match &death.helper {
                Some(helper) => lost_helper(death, helper, evidence),
                None => (Cause::OomKilled { victim: OomVictim::Init }, None, evidence),
            }
        }
        ProcessEnd::Signaled { signal, .. } => match &death.helper {
            Some(helper) if death.sender_of(signal).is_none() => lost_helper(death, helper, evidence),
            _ => (Cause::Signaled { signal }, death.sender_of(signal), evidence),
        },
        ProcessEnd::Exited(code) => {
            if let Some(helper) = &death.helper {
                return lost_helper(death, helper, evidence);
            }
            if code == Signal::KILL.shell_code() && oom_kills > 0 && death.sender_of(Signal::KILL).is_none() {
                evidence.push(handed_on());
                return (Cause::OomKilled { victim: OomVictim::Child }, None, evidence);
            }
            let guest_signal = code.checked_sub(128).and_then(|n| Signal::from_number(i32::from(n)));
            let Some(signal) = guest_signal.filter(|_| death.sandboxed) else {
                return (Cause::Exited { code }, asked_by, evidence);
            };
            let sent_by = death.sender_of(signal);
            evidence.push(same_under_gvisor(code, signal, sent_by));
            match sent_by {
                Some(by) => (Cause::Signaled { signal }, Some(by), evidence),
                None => (Cause::Exited { code }, asked_by, evidence),
            }
        }
    }
}

fn handed_on() -> Evidence {
    let explanation = "the kernel killed a process of it for lack of memory, and it exited with 137 itself: whether it \
                       handed that one's end on, or another one's, nobody has seen";
    Evidence::Ambiguous { explanation: explanation.into() }
}

fn same_under_gvisor(code: u8, signal: Signal, sent_by: Option<AskedBy>) -> Evidence {
    let sent = if sent_by.is_some() { "cofferdam had sent that signal" } else { "cofferdam had not sent it" };
    let explanation = format!(
        "gVisor reports a guest that exits {code} and one that {signal} ends in the same way; {sent}"
    );
    Evidence::Ambiguous { explanation }
}

impl Death {
    /// Who of us sent this signal last.
    fn sender_of(&self, signal: Signal) -> Option<AskedBy> {
        self.sent.iter().rev().find(|sent| sent.signal == signal).map(|sent| sent.by)
    }

    /// Whether SIGKILL ended it and the kernel has killed some process of its cgroup for lack of memory, by the counter or,
    /// where that is gone, by the log. Which one, the counter does not say.
    #[must_use]
    pub fn may_be_oom_kill(&self) -> bool {
        let killed = matches!(self.end, ProcessEnd::Signaled { signal, .. } if signal == Signal::KILL);
        killed
            && (self.kernel_line.is_some() || self.memory.as_ref().is_some_and(|memory| memory.oom_kill > 0))
    }
}

/// What is known of which process the kernel killed. Of a sandbox, any will do: it does not live on without one.
fn which_was_killed(death: &Death) -> Option<Evidence> {
    match &death.oom_line {
        Some(Ok(line)) => Some(Evidence::KernelLog { line: line.clone() }),
        _ if death.sandboxed => None,
        _ => Some(Evidence::Ambiguous {
            explanation:
                "the kernel killed a process of it for lack of memory, and its log does not say which: \
                          another one might have been, and SIGKILL have come from outside"
                    .into(),
        }),
    }
}

fn what_was_seen(death: &Death) -> Vec<Evidence> {
    let mut evidence = vec![wait_status(death)];
    let sent = death.sent.iter().copied();
    evidence.extend(sent.map(|SentSignal { signal, by, at }| Evidence::SignalSent { signal, by, at }));
    evidence.extend(death.memory.clone().map(|counters| Evidence::Memory { counters }));
    evidence.extend(death.kernel_line.clone().map(|line| Evidence::KernelLog { line }));
    evidence
}

fn wait_status(death: &Death) -> Evidence {
    let (code, signal, core_dumped) = match death.end {
        ProcessEnd::Exited(code) => (Some(code), None, false),
        ProcessEnd::Signaled { signal, core_dumped } => (None, Some(signal), core_dumped),
    };
    Evidence::WaitStatus { pid: death.pid, code, signal, core_dumped, from_pidfd: death.from_pidfd }
}

fn lost_helper(
    death: &Death,
    helper: &HelperDeath,
    mut evidence: Vec<Evidence>,
) -> (Cause, Option<AskedBy>, Vec<Evidence>) {
    let how = helper.end.to_string();
    evidence.push(Evidence::HelperDied { helper: helper.helper.clone(), how: how.clone() });
    let was_killed = matches!(helper.end, ProcessEnd::Signaled { signal: Signal::KILL, .. });
    // It is in the container's cgroup, like the sandbox; with `memory.oom.group` the kernel kills both.
    let kills = death.memory.as_ref().map_or(0, |memory| memory.oom_kill);
    if was_killed && kills > 0 {
        let victim = if kills > 1 { OomVictim::Init } else { OomVictim::Helper };
        return (Cause::OomKilled { victim }, None, evidence);
    }
    let failure = Failure {
        code: Code::RuntimeLost,
        what: format!("the sandbox lost its {}, which {how}", helper.helper),
        why: vec![],
        next: Some("look for who killed it: the kernel log, a memory limit around cofferdam itself".into()),
    };
    (Cause::RuntimeLost { failure }, None, evidence)
}
