//! Being told that memory gets short, before the kernel kills.
//!
//! - v2: `memory.high` stands at the threshold as a tripwire. The kernel wakes whoever polls `memory.events` when it is
//!   reached, and would slow the container down from there on; so it is lifted as soon as the warning is out, and laid
//!   again when enough memory is free. systemd lifts it too, whenever it writes the properties of a scope again: so it is
//!   looked at each second. Besides, a trigger on `memory.pressure` tells of a container that waits for memory (it swaps,
//!   or reads again what was dropped) without using more of it. Being slowed down by the tripwire is such a wait.
//! - v1: an eventfd that is registered for a threshold of `memory.usage_in_bytes`.
//!
//! Both count what the kernel could take back at once, files that were read above all. So either is a reason to look, and
//! the working set is what counts.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::time::Instant;

use super::ControllerDirectory;
use super::memory::read_number;
use super::notice::Notice;
use super::stats::read_memory;
use crate::exit::format_bytes;
use crate::request::{MemoryThreshold, in_whole_pages};
use crate::sys::Alarm;

/// How often it is looked at again where the kernel may not tell: under v2, and while the usage is above the threshold,
/// of which it tells once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The part of the threshold that must be free again before there is another warning.
const FREE_PARTS: u64 = 16;
/// The part of the threshold by which the kernel's account may be behind: it charges in batches.
const BATCH_PARTS: u64 = 64;
/// The part of a sandbox's headroom that it uses in any case, so that it does not count as its guest's.
const HEADROOM_PARTS: u64 = 2;
/// Waiting for memory is told when it takes a tenth of a second (microseconds: stalled, window).
const PRESSURE: &str = "some 100000 1000000";
/// For how long after a warning that is not told.
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
    notice: Notice,
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
        let threshold = in_whole_pages(threshold);
        let notice = Notice::of(&directory, "memory.usage_in_bytes", Some(threshold))?;
        let pressure = match &directory {
            ControllerDirectory::V1(_) => None,
            ControllerDirectory::V2(path) => pressure_trigger(&path.join("memory.pressure")).ok(),
        };
        let quiet_until = Instant::now() + if is_told { PRESSURE_PAUSE } else { Duration::ZERO };
        let watch = Self { directory, notice, pressure, limit, threshold, is_told, quiet_until };
        watch.lay_tripwire()?;
        Ok(watch)
    }

    /// The next warning; `None` when the cgroup has gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<MemoryWarning> {
        let mut is_stalled = false;
        loop {
            let memory = read_memory(&self.directory)?;
            if self.is_told {
                self.is_told = memory.working_set_bytes >= self.threshold - self.threshold / FREE_PARTS;
            } else if memory.working_set_bytes >= self.threshold - self.threshold / BATCH_PARTS {
                self.is_told = true;
                self.lay_tripwire().ok()?;
                return Some(self.warning(WarningReason::Usage, memory.working_set_bytes));
            }
            self.lay_tripwire().ok()?;
            if is_stalled {
                return Some(self.warning(WarningReason::Pressure, memory.working_set_bytes));
            }
            let is_v1 = matches!(self.directory, ControllerDirectory::V1(_));
            let is_seen = is_v1 && !self.is_told && memory.usage_bytes < self.threshold;
            let look_again = (!is_seen).then(|| Instant::now() + LOOK_AGAIN);
            is_stalled = self.wait(look_again).await?;
        }
    }

    /// Waits until there is a reason to look; says whether it waits for memory. `None` when the cgroup has gone.
    async fn wait(&self, look_again: Option<Instant>) -> Option<bool> {
        tokio::select! {
            rung = self.notice.comes() => rung.ok().map(|()| false),
            rung = stalls(self.pressure.as_ref(), self.quiet_until) => rung.ok().map(|()| true),
            () = until(look_again) => Some(false),
        }
    }

    fn warning(&mut self, reason: WarningReason, working_set_bytes: u64) -> MemoryWarning {
        self.quiet_until = Instant::now() + PRESSURE_PAUSE;
        MemoryWarning { reason, working_set_bytes, threshold_bytes: self.threshold, limit_bytes: self.limit }
    }

    /// v2: has the kernel tell from the threshold on, or, where that is told, slow nothing down.
    fn lay_tripwire(&self) -> io::Result<()> {
        let ControllerDirectory::V2(path) = &self.directory else { return Ok(()) };
        let file = path.join("memory.high");
        let wanted = (!self.is_told).then_some(self.threshold);
        // Writing has the kernel take back what is above: not each second.
        if read_number(&file) == wanted {
            return Ok(());
        }
        std::fs::write(file, wanted.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string()))
    }
}

fn pressure_trigger(file: &std::path::Path) -> io::Result<Alarm> {
    let mut file = OpenOptions::new().read(true).write(true).open(file)?;
    file.write_all(PRESSURE.as_bytes())?;
    Alarm::new(OwnedFd::from(file), Interest::PRIORITY)
}

/// Resolves when it waits for memory, and not for what comes before `quiet_until`. Never, where nobody tells.
async fn stalls(pressure: Option<&Alarm>, quiet_until: Instant) -> io::Result<()> {
    let Some(pressure) = pressure else { return std::future::pending().await };
    loop {
        pressure.rings().await?;
        if Instant::now() >= quiet_until {
            return Ok(());
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
