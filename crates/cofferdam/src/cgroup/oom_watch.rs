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

use std::io;
use std::time::{Duration, Instant};

use super::ControllerDirectory;
use super::notice::Notice;

/// How long the counter is looked at after the kernel has told of something. An OOM takes so long at most to kill
/// (measured: 1 ms; a victim that is stuck in the kernel takes longer, and its counter is read at the end).
const LOOK_LIMIT: Duration = Duration::from_millis(100);
/// How often it is looked at in this time.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Tells of the kills in one cgroup.
#[derive(Debug)]
pub(crate) struct OomWatch {
    directory: ControllerDirectory,
    notice: Notice,
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
        let notice = Notice::of(&directory, "memory.oom_control", None)?;
        // An OOM may have begun before it was watched.
        Ok(Self { directory, notice, told, look_until: Instant::now() + LOOK_LIMIT })
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
                self.notice.comes().await.ok()?;
                self.look_until = Instant::now() + self.look_limit();
            }
        }
    }

    /// How long to look after a notice: under v2 once, where a container that lives at its limit is told of all the time.
    fn look_limit(&self) -> Duration {
        match self.directory {
            ControllerDirectory::V1(_) => LOOK_LIMIT,
            ControllerDirectory::V2(_) => Duration::ZERO,
        }
    }
}
