//! Being told that memory gets short, before the kernel kills.
//!
//! - v2: `memory.high` stands at the threshold as a tripwire. The kernel wakes whoever polls `memory.events` when it is
//!   reached, and would slow the container down from there on; so it is lifted as soon as the warning is out, and laid
//!   again when enough memory is free. Besides, a trigger on `memory.pressure` tells of a container that waits for memory
//!   (it swaps, or reads again what was dropped) without using more of it.
//! - v1: an eventfd that is registered for a threshold of `memory.usage_in_bytes`.
//!
//! Both count what the kernel could take back at once, files that were read above all. So either is a reason to look, and
//! the working set is what counts.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::time::Instant;

use super::ControllerDirectory;
use super::stats::read_memory;
use crate::exit::format_bytes;
use crate::request::MemoryThreshold;
use crate::sys::Alarm;

/// How often it is looked at again while the usage is above the threshold, of which the kernel tells once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The part of the threshold that must be free again before there is another warning.
const FREE_PARTS: u64 = 16;
/// The part of the threshold by which the kernel's account may be behind: it charges in batches.
const BATCH_PARTS: u64 = 64;
/// The part of a sandbox's headroom that it uses in any case, so that it does not count as its guest's.
const HEADROOM_PARTS: u64 = 2;
/// Waiting for memory is told when it takes a tenth of a second (microseconds: stalled, window).
const PRESSURE: &str = "some 100000 1000000";
/// How long such a warning holds.
const PRESSURE_PAUSE: Duration = Duration::from_secs(10);

/// Memory gets short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryWarning {
    /// By what it was seen.
    pub reason: WarningReason,
    /// Memory in use that the kernel cannot take back without harm, in bytes.
    pub working_set_bytes: u64,
    /// From where on it is told, in bytes.
    pub threshold_bytes: u64,
    /// The limit, in bytes.
    pub limit_bytes: u64,
}

/// By what it was seen that memory gets short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningReason {
    /// The threshold is reached.
    Usage,
    /// It waits for memory (PSI).
    Pressure,
}

impl fmt::Display for MemoryWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            WarningReason::Usage => "usage",
            WarningReason::Pressure => "pressure",
        };
        let (used, limit) = (format_bytes(self.working_set_bytes), format_bytes(self.limit_bytes));
        write!(f, "reason={reason} working_set={used:?} limit={limit:?}")
    }
}

/// Tells when the memory of one cgroup gets short.
#[derive(Debug)]
pub(crate) struct UsageWatch {
    directory: ControllerDirectory,
    /// v1: the eventfd. v2: `memory.events`.
    told_by: Alarm,
    /// v1: `memory.usage_in_bytes`, for which the eventfd is registered as long as it is open.
    _usage: Option<File>,
    /// v2: the trigger on `memory.pressure`, where the kernel has it.
    pressure: Option<Alarm>,
    limit: u64,
    threshold: u64,
    /// Whether the threshold is reached, and has been told.
    is_told: bool,
    /// Until when waiting for memory is not told again.
    quiet_until: Instant,
}

impl UsageWatch {
    /// Begins to watch. The threshold is one of the limit without the headroom of a sandbox. `is_told` says that the threshold was reached, and that this has been told.
    ///
    /// # Errors
    /// The system's; there is no limit.
    pub(crate) fn begin(
        directory: ControllerDirectory,
        threshold: MemoryThreshold,
        headroom: u64,
        is_told: bool,
    ) -> io::Result<Self> {
        let limit = directory.read_memory_limit();
        let limit = limit.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no limit"))?;
        let threshold = threshold.bytes(limit.saturating_sub(headroom)) + headroom / HEADROOM_PARTS;
        let (told_by, usage, pressure) = match &directory {
            ControllerDirectory::V1(path) => {
                let usage = File::open(path.join("memory.usage_in_bytes"))?;
                let told_by = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let registration = format!("{} {} {threshold}", told_by.as_raw_fd(), usage.as_raw_fd());
                std::fs::write(path.join("cgroup.event_control"), registration)?;
                (Alarm::new(told_by, Interest::READABLE)?, Some(usage), None)
            }
            ControllerDirectory::V2(path) => {
                let events = OwnedFd::from(File::open(path.join("memory.events"))?);
                let pressure = pressure_trigger(&path.join("memory.pressure"));
                (Alarm::new(events, Interest::PRIORITY)?, None, pressure.ok())
            }
        };
        let watch = Self {
            directory,
            told_by,
            _usage: usage,
            pressure,
            limit,
            threshold,
            is_told,
            quiet_until: Instant::now(),
        };
        watch.lay_tripwire(Some(threshold).filter(|_| !is_told))?;
        Ok(watch)
    }

    /// The next warning; `None` when the cgroup has gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<MemoryWarning> {
        loop {
            let memory = read_memory(&self.directory)?;
            if self.is_told {
                if memory.working_set_bytes < self.threshold - self.threshold / FREE_PARTS {
                    self.is_told = false;
                    self.lay_tripwire(Some(self.threshold)).ok()?;
                    continue;
                }
            } else if memory.working_set_bytes >= self.threshold - self.threshold / BATCH_PARTS {
                self.is_told = true;
                self.lay_tripwire(None).ok()?;
                return Some(self.warning(WarningReason::Usage, memory.working_set_bytes));
            }
            let is_above = self.is_told || memory.usage_bytes >= self.threshold;
            let look_again = is_above.then(|| Instant::now() + LOOK_AGAIN);
            if self.wait(look_again).await? {
                self.quiet_until = Instant::now() + PRESSURE_PAUSE;
                return Some(self.warning(WarningReason::Pressure, memory.working_set_bytes));
            }
        }
    }

    /// Waits until there is a reason to look; says whether it waits for memory. `None` when the cgroup has gone.
    async fn wait(&self, look_again: Option<Instant>) -> Option<bool> {
        let is_v1 = matches!(self.directory, ControllerDirectory::V1(_));
        tokio::select! {
            rung = self.told_by.rings() => {
                rung.ok()?;
                if is_v1 {
                    // EAGAIN: it has been taken.
                    let _ = rustix::io::read(&self.told_by, &mut [0; 8]);
                }
                Some(false)
            }
            rung = stalls(self.pressure.as_ref(), self.quiet_until) => rung.ok().map(|()| true),
            () = until(look_again) => Some(false),
        }
    }

    fn warning(&self, reason: WarningReason, working_set_bytes: u64) -> MemoryWarning {
        MemoryWarning { reason, working_set_bytes, threshold_bytes: self.threshold, limit_bytes: self.limit }
    }

    /// v2: has the kernel tell from so many bytes on; `None` is never.
    fn lay_tripwire(&self, bytes: Option<u64>) -> io::Result<()> {
        let ControllerDirectory::V2(path) = &self.directory else { return Ok(()) };
        let text = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        std::fs::write(path.join("memory.high"), text)
    }
}

fn pressure_trigger(file: &std::path::Path) -> io::Result<Alarm> {
    let mut file = OpenOptions::new().read(true).write(true).open(file)?;
    file.write_all(PRESSURE.as_bytes())?;
    Alarm::new(OwnedFd::from(file), Interest::PRIORITY)
}

/// Resolves when it waits for memory, not before `quiet_until`. Never, where nobody tells.
async fn stalls(pressure: Option<&Alarm>, quiet_until: Instant) -> io::Result<()> {
    let Some(pressure) = pressure else { return std::future::pending().await };
    tokio::time::sleep_until(quiet_until).await;
    pressure.rings().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
