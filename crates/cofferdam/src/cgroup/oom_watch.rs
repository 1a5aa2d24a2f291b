//! Being told of out-of-memory kills as they happen.
//!
//! - v2: the kernel wakes whoever polls `memory.events` (`cgroup_file_notify`), at most once in 10 ms for one file.
//! - v1: an eventfd that is registered for `memory.oom_control` is written to when an OOM begins
//!   (`mem_cgroup_oom_notify`), before anything is killed, and also when the cgroup is removed.
//!
//! Either is a reason to look; the evidence is the counter `oom_kill`. Under v2 a kill is counted before it is told, and
//! each is told. Under v1 it follows from what was told, and is counted a moment later: the counter is read for a while.
//! Not here: a kill by the whole machine's OOM killer under v1, of which the cgroup is not told. The counter has it, and
//! is read at the end in any case.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;

use super::ControllerDirectory;
use crate::sys::Alarm;

/// How long the counter is looked at after the kernel has told of something. An OOM takes so long at most to kill
/// (measured: 1 ms; a victim that is stuck in the kernel takes longer, and its counter is read at the end).
const LOOK_LIMIT: Duration = Duration::from_millis(100);
/// How often it is looked at in this time.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Tells of the kills in one cgroup.
#[derive(Debug)]
pub(crate) struct OomWatch {
    directory: ControllerDirectory,
    /// v1: the eventfd. v2: `memory.events`.
    told_by: Alarm,
    /// v1: `memory.oom_control`, for which the eventfd is registered as long as it is open.
    control: Option<File>,
    /// The kills that have been told.
    told: u64,
    /// How long the counter may still follow from what the kernel has told.
    look_until: Instant,
}

impl OomWatch {
    /// Begins to watch. `told` is the number of kills that are known.
    ///
    /// # Errors
    /// The system's: the cgroup is gone, say.
    pub(crate) fn begin(directory: ControllerDirectory, told: u64) -> io::Result<Self> {
        let (told_by, control) = match &directory {
            ControllerDirectory::V1(path) => {
                let control = File::open(path.join("memory.oom_control"))?;
                let told_by = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let registration = format!("{} {}", told_by.as_raw_fd(), control.as_raw_fd());
                std::fs::write(path.join("cgroup.event_control"), registration)?;
                (Alarm::new(told_by, Interest::READABLE)?, Some(control))
            }
            ControllerDirectory::V2(path) => {
                let events = OwnedFd::from(File::open(path.join("memory.events"))?);
                (Alarm::new(events, Interest::PRIORITY)?, None)
            }
        };
        // An OOM may have begun before it was watched.
        Ok(Self { directory, told_by, control, told, look_until: Instant::now() + LOOK_LIMIT })
    }

    /// The kills since those that were told last; `None` when the cgroup has gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<u64> {
        loop {
            let kills = self.directory.read_kills()?;
            if kills > self.told {
                return Some(kills - std::mem::replace(&mut self.told, kills));
            }
            if Instant::now() < self.look_until {
                tokio::time::sleep(LOOK_AGAIN).await;
            } else {
                self.wake_up().await.ok()?;
                self.look_until = Instant::now() + self.look_limit();
            }
        }
    }

    /// A container that lives at its limit is told of all the time under v2.
    fn look_limit(&self) -> Duration {
        if self.control.is_some() { LOOK_LIMIT } else { Duration::ZERO }
    }

    /// Resolves when the kernel has told of something since the last call. Cancel safe.
    async fn wake_up(&self) -> io::Result<()> {
        self.told_by.rings().await?;
        if self.control.is_some() {
            // EAGAIN: it has been taken.
            let _ = rustix::io::read(&self.told_by, &mut [0; 8]);
        }
        Ok(())
    }
}
