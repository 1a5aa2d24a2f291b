//! What /proc tells of a process: whether it is the one that we mean, and how it looks in a table.

use std::time::Duration;

use crate::runtime::ProcessInfo;

/// Ticks of the kernel's user-visible clock in a second: `USER_HZ`, 100 on every architecture that Rust has.
const TICKS_PER_SECOND: u64 = 100;
/// One of them, in microseconds.
pub(crate) const TICK_US: u64 = 1_000_000 / TICKS_PER_SECOND;

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// One letter; `Z` and `X` are dead.
    pub(crate) state: char,
    pub(crate) ppid: i32,
    /// The session's id: the pid of its leader.
    pub(crate) session: i32,
    /// User and system time, in ticks.
    pub(crate) ticks: u64,
    /// When it was started, in ticks since boot. Together with the pid it names one process of one boot.
    pub(crate) start_time: u64,
    /// The status that its parent will get, as `waitpid` encodes it; only a dead process has one. The kernel shows it
    /// to those who may trace the process, and 0 to others.
    pub(crate) exit_code: Option<i32>,
}

impl Stat {
    /// The status of a dead process, where it can be trusted: a 0 may also mean that we may not know.
    pub(crate) fn trusted_exit_code(&self) -> Option<i32> {
        self.exit_code.filter(|status| *status != 0 || may_trace_all())
    }

    /// Whether a signal, or a tracer, has stopped it.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    /// Whether the process has ended.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Reads a process's stat; `None` when there is no such process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// When a process was started, in ticks since boot; `None` when there is no such process, or it is dead.
pub(crate) fn start_time_of_living(pid: i32) -> Option<u64> {
    stat(pid).filter(|stat| !stat.is_dead()).map(|stat| stat.start_time)
}

/// Whether this process has `CAP_SYS_PTRACE`.
fn may_trace_all() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & CAP_SYS_PTRACE != 0)
}

/// The arguments of a process; empty when it is gone, dead or a kernel thread.
pub(crate) fn arguments(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return vec![];
    }
    bytes.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// All pids on the host.
pub(crate) fn all_pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process as a table shows it; `None` when it has gone meanwhile.
pub(crate) fn describe(pid: i32) -> Option<ProcessInfo> {
    let stat = stat(pid)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let uid = field("Uid:").and_then(|ids| ids.split_whitespace().next()).unwrap_or("?").to_owned();
    let args = arguments(pid);
    let command =
        if args.is_empty() { format!("[{}]", field("Name:").unwrap_or("?")) } else { args.join(" ") };
    Some(ProcessInfo { uid, pid, ppid: stat.ppid, time: clock(stat.ticks), command })
}

fn clock(ticks: u64) -> String {
    let seconds = Duration::from_secs(ticks / TICKS_PER_SECOND).as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Parses `/proc/PID/stat`. The second field, the name, is in parentheses and may hold anything, parentheses too.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        ticks: number(14)? + number(15)?,
        start_time: number(22)?,
        exit_code: fields.get(52 - 3).and_then(|field| field.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b) (c) S 7 42 41 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 98765 1 2";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            stat,
            Stat { state: 'S', ppid: 7, session: 41, ticks: 300, start_time: 98765, exit_code: None }
        );
        assert_eq!(clock(stat.ticks), "00:00:03");
    }

    #[test]
    fn own_process_is_described() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time_of_living(own).is_some());
        assert_eq!(describe(own).unwrap().pid, own);
        assert!(all_pids().any(|pid| pid == own));
        assert_eq!(start_time_of_living(i32::MAX), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_stat(&text);
        }
    }
}
