//! How soon an out-of-memory kill is told: the kernel's own line in its log, against the time of our event, and against a
//! poller that looks at the counters twice a second.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::lab::{Lab, eventually};

/// How often the poller looks.
const POLL_PERIOD: Duration = Duration::from_millis(500);
/// The longest record that /dev/kmsg gives.
const RECORD_BYTES: usize = 8192;

/// What was measured.
#[derive(Debug)]
pub struct Told {
    /// From the kernel's line to our event, in microseconds, shortest first.
    pub after_us: Vec<i64>,
    /// Kills that were not told.
    pub missed: usize,
    /// Kills whose counter the poller never saw.
    pub missed_by_poller: usize,
}

impl Told {
    /// The latency, in milliseconds, that so many hundredths of the kills do not exceed.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "latencies of less than years")]
    pub fn percentile_ms(&self, percent: usize) -> Option<f64> {
        let last = self.after_us.len().checked_sub(1)?;
        Some(self.after_us[last * percent / 100] as f64 / 1000.0)
    }
}

/// Has containers killed for lack of memory, one after the other.
///
/// # Panics
/// When a container does not run, or the kernel's log cannot be read.
#[must_use]
pub fn measure(lab: &Lab, count: usize) -> Told {
    let clock = KernelClock::read();
    let mut told = Told { after_us: vec![], missed: 0, missed_by_poller: 0 };
    std::thread::scope(|scope| {
        // Dropped also where something panics: the poller would be waited for.
        let (stop, is_over) = channel::<()>();
        let poller = scope.spawn(move || poll(lab, &is_over));
        let mut ids = Vec::new();
        for _ in 0..count {
            let id = lab.run_detached(&["-m", "24m"], &["tail", "/dev/zero"]);
            let pid = lab.report(&id)["evidence"][0]["pid"].as_i64().expect("it was waited for");
            match (event_of(lab, &id), clock.kill_of(pid)) {
                (Some(at), Some(kill)) => {
                    told.after_us.push(i64::try_from(at.duration_since(kill).as_micros()).expect("no years"));
                }
                // Other kills have pushed the line out of the log.
                (Some(_), None) => {}
                (None, _) => told.missed += 1,
            }
            drop(lab.cofferdam(&["rm", &id]).expect_code(0));
            ids.push(id);
        }
        drop(stop);
        let seen = poller.join().expect("it does not panic");
        told.missed_by_poller =
            ids.iter().filter(|id| !seen.iter().any(|name| name.contains(id.as_str()))).count();
    });
    told.after_us.sort_unstable();
    told
}

fn event_of(lab: &Lab, id: &str) -> Option<Timestamp> {
    let filter = format!("container={id}");
    let args = ["events", "--since", "1h", "--until", "0s", "--format", "json"];
    let done = lab.cofferdam(&[&args[..], &["--filter", "event=oom", "--filter", &filter]].concat());
    let done = done.expect_code(0);
    let event: Value = serde_json::from_str(done.text().lines().next()?).ok()?;
    event["time"].as_str()?.parse().ok()
}

/// The names of the cgroups in which a poller sees a kill.
fn poll(lab: &Lab, is_over: &Receiver<()>) -> BTreeSet<String> {
    let parents =
        ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|top| format!("{top}{}", lab.cgroup_parent()));
    let mut seen = BTreeSet::new();
    while is_over.recv_timeout(POLL_PERIOD) == Err(RecvTimeoutError::Timeout) {
        let directories = parents.iter().flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten());
        for directory in directories.flatten() {
            let read = |file: &str| std::fs::read_to_string(directory.path().join(file)).unwrap_or_default();
            let text = read("memory.oom_control") + &read("memory.events");
            let kills = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
            if kills.filter_map(|number| number.parse::<u64>().ok()).any(|number| number > 0) {
                seen.insert(directory.file_name().to_string_lossy().into_owned());
            }
        }
    }
    seen
}

/// What the clock of the kernel's log says at a moment of the wall's.
struct KernelClock {
    /// Between the log's zero and 1970.
    boot: Timestamp,
}

impl KernelClock {
    fn read() -> Self {
        let mut log = std::fs::OpenOptions::new().write(true).open("/dev/kmsg").expect("root may write");
        let mut boot = None;
        // It takes ten lines in five seconds, of all programs together, and drops the others.
        eventually("the kernel's log takes a line", || {
            // A line gets its time before it is printed, which can take long on a serial console.
            let now = Timestamp::now();
            let marker = format!("cofferdam: a clock is read at {now}");
            // Without the end of the line, it could not be read before the next one comes.
            log.write_all(format!("{marker}\n").as_bytes()).expect("root may write");
            let found = records().into_iter().rfind(|(_, text)| *text == marker);
            boot = found.map(|(at, _)| now - Duration::from_micros(at));
            boot.is_some()
        });
        Self { boot: boot.expect("it has been found") }
    }

    /// When a process was killed for lack of memory; `None` where the log does not have it any more.
    fn kill_of(&self, pid: i64) -> Option<Timestamp> {
        let words = format!("ut of memory: Killed process {pid} ");
        let line = records().into_iter().rfind(|(_, text)| text.contains(&words));
        line.map(|(at, _)| self.boot + Duration::from_micros(at))
    }
}

/// The kernel's log: microseconds and text.
fn records() -> Vec<(u64, String)> {
    let mut options = std::fs::OpenOptions::new();
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("it is small");
    let mut log = options.read(true).custom_flags(nonblocking).open("/dev/kmsg").expect("root may read");
    let mut records = Vec::new();
    let mut bytes = vec![0; RECORD_BYTES];
    loop {
        match log.read(&mut bytes) {
            Ok(0) => return records,
            Ok(count) => {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let parsed = text.split_once(';').and_then(|(head, text)| {
                    let at = head.split(',').nth(2)?.parse().ok()?;
                    Some((at, text.lines().next().unwrap_or_default().to_owned()))
                });
                records.extend(parsed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return records,
            // A record was written over while it was being read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
            Err(error) => panic!("/dev/kmsg: {error}"),
        }
    }
}
