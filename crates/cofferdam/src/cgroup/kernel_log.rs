//! Which processes the kernel's out-of-memory killer says that it killed.
//!
//! The counter of a cgroup says that something in it was killed, not what. The kernel writes each kill to its log, with
//! the pid, and this line is not rate-limited (`__oom_kill_process`, unlike the long report before it).
//! Invariant: where the log cannot be trusted to be complete, the answer is that nobody knows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// The longest record that /dev/kmsg gives (`CONSOLE_EXT_LOG_MAX`).
const RECORD_BYTES: usize = 8192;
/// Records that are read at most: more than the largest ring buffer holds.
const RECORDS: usize = 1 << 20;
/// How long the line may take to appear after the death: it is written after the signal is sent.
const LINE_LIMIT: Duration = Duration::from_millis(50);
/// How far the log's clock may be from the others: a second, and a thousandth of the time since boot.
const DRIFT_US: u64 = 1_000_000;
const DRIFT_PARTS: u64 = 1000;
/// Inode of the initial pid namespace (`PROC_PID_INIT_INO`): the log's pids are its pids.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What the log says of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel killed it for lack of memory, and wrote this line.
    Killed(String),
    /// The log is complete since the process began, and does not say so.
    NotKilled,
    /// The log cannot be read, or does not reach back far enough.
    Unknown,
}

/// Looks a process up that began so many microseconds after boot, time in suspension included.
pub(crate) fn killed_for_memory(pid: i32, began_us: u64) -> Verdict {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino()) != INITIAL_PID_NAMESPACE
    {
        return Verdict::Unknown;
    }
    // The log's clock stands still in suspension, and is not kept in step with the others.
    let began_us = began_us.saturating_sub(suspended_us());
    let drift_us = DRIFT_US + began_us / DRIFT_PARTS;
    let deadline = Instant::now() + LINE_LIMIT;
    loop {
        let Some(log) = read() else { return Verdict::Unknown };
        // An older line is about a process that had the same pid before.
        if let Some((_, line)) = log.kills.get(&pid).filter(|(at, _)| at.saturating_add(drift_us) >= began_us)
        {
            return Verdict::Killed(line.clone());
        }
        if log.oldest_us > began_us {
            return Verdict::Unknown;
        }
        if Instant::now() >= deadline {
            return Verdict::NotKilled;
        }
        std::thread::yield_now();
    }
}

/// The last kill in a cgroup whose path has this part: the kernel's line on what led to it. The kernel leaves such lines
/// out when there are many, so none proves nothing.
pub(crate) fn last_kill_in(part: &str) -> Option<KillLine> {
    read()?.causes.into_iter().filter_map(|line| KillLine::parse(&line)).rfind(|kill| {
        // Of the cgroup itself or of one below it.
        kill.task_memcg.split('/').any(|name| name == part)
    })
}

/// A line such as `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/a,task_memcg=/a/b,task=tail,pid=2467,uid=0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KillLine {
    /// The line.
    pub(crate) line: String,
    /// The cgroup whose limit was reached; `None` when the machine's memory was.
    pub(crate) oom_memcg: Option<String>,
    /// The cgroup of the process that was killed.
    pub(crate) task_memcg: String,
}

impl KillLine {
    fn parse(line: &str) -> Option<Self> {
        // A cgroup's name may have a comma in it, so the keys are looked for.
        let between = |from: &str, to: &str| {
            let (_, rest) = line.split_once(from)?;
            Some(rest.split_once(to)?.0.to_owned())
        };
        let task_memcg = between("task_memcg=", ",task=")?;
        Some(Self { line: line.to_owned(), oom_memcg: between(",oom_memcg=", ",task_memcg="), task_memcg })
    }
}

/// How long this boot has been in suspension, in microseconds.
fn suspended_us() -> u64 {
    let now = |clock| {
        let time = rustix::time::clock_gettime(clock);
        u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1000).unwrap_or_default()
    };
    now(rustix::time::ClockId::Boottime).saturating_sub(now(rustix::time::ClockId::Monotonic))
}

struct Log {
    /// When its oldest record was written, in microseconds after boot.
    oldest_us: u64,
    /// When each kill was written, and its line, by pid; the last one where a pid was used again.
    kills: BTreeMap<i32, (u64, String)>,
    /// The lines on what led to kills, oldest first.
    causes: Vec<String>,
}

fn read() -> Option<Log> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, "/dev/kmsg", flags, Mode::empty()).ok()?;
    let mut log = Log { oldest_us: u64::MAX, kills: BTreeMap::new(), causes: vec![] };
    let mut record = vec![0; RECORD_BYTES];
    for _ in 0..RECORDS {
        match rustix::io::read(&file, &mut record[..]) {
            Ok(0) | Err(Errno::AGAIN) => return Some(log),
            Ok(count) => log.take(&record[..count]),
            // The record was written over while it was being read; the next read goes on after the gap.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(log)
}

impl Log {
    /// Takes a record in: `priority,sequence,microseconds,flags;text`.
    fn take(&mut self, record: &[u8]) {
        let text = String::from_utf8_lossy(record);
        let Some((head, text)) = text.split_once(';') else { return };
        let Some(at) = head.split(',').nth(2).and_then(|field| field.parse::<u64>().ok()) else { return };
        self.oldest_us = self.oldest_us.min(at);
        let line = text.lines().next().unwrap_or_default();
        if let Some(pid) = victim(line) {
            self.kills.insert(pid, (at, line.to_owned()));
        }
        if line.starts_with("oom-kill:") {
            self.causes.push(line.to_owned());
        }
    }
}

/// The pid in a line such as `Memory cgroup out of memory: Killed process 2467 (tail) total-vm:34352kB, …`.
fn victim(line: &str) -> Option<i32> {
    let (_, rest) = line.split_once("ut of memory")?;
    let (_, rest) = rest.split_once("Killed process ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kills_are_read_from_verbatim_records() {
        let mut log = Log { oldest_us: u64::MAX, kills: BTreeMap::new(), causes: vec![] };
        log.take(b"6,1200,5711222000,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=tail,pid=2467,uid=0\n");
        log.take(b"3,1201,5711222304,-;Memory cgroup out of memory: Killed process 2467 (tail) total-vm:34352kB, anon-rss:32256kB\n SUBSYSTEM=x\n");
        log.take(b"3,1202,5711314858,-;Out of memory: Killed process 2544 (a b) total-vm:1kB\n");
        log.take(b"garbage");
        assert_eq!(log.kills.keys().copied().collect::<Vec<_>>(), [2467, 2544]);
        assert_eq!(log.oldest_us, 5_711_222_000);
        assert!(log.kills[&2467].1.ends_with("anon-rss:32256kB"));
    }

    #[test]
    fn whose_limit_it_was_is_read_off() {
        // Verbatim from kernel 6.18, and one of a whole machine.
        let line = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,q,task_memcg=/p,q/cofferdam-x,task=tail,pid=2467,uid=0";
        let kill = KillLine::parse(line).unwrap();
        assert_eq!((kill.oom_memcg.as_deref(), kill.task_memcg.as_str()), (Some("/p,q"), "/p,q/cofferdam-x"));
        let line = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/x,task=a,pid=1,uid=0";
        assert_eq!(KillLine::parse(line).unwrap().oom_memcg, None);
        assert_eq!(KillLine::parse("oom-kill:"), None);
    }

    #[test]
    fn a_living_process_was_not_killed() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!matches!(killed_for_memory(own, u64::MAX), Verdict::Killed(_)));
        assert_ne!(killed_for_memory(own, 0), Verdict::NotKilled, "no log reaches back to before the boot");
    }

    proptest! {
        #[test]
        fn no_record_panics(record: Vec<u8>) {
            let mut log = Log { oldest_us: 0, kills: BTreeMap::new(), causes: vec![] };
            log.take(&record);
            let _ = KillLine::parse(&String::from_utf8_lossy(&record));
        }
    }
}
