//! What containers use now.

use super::{Engine, View};
use crate::cgroup::stats::{self, Stats};
use crate::nvidia::{GpuReading, GpuUsage, usage_of};
use crate::request::NetworkMode;

impl Engine {
    /// Reads what a container uses; `None` of one whose process is not there, or that has no cgroup of its own.
    ///
    /// Costs the reading of a dozen small files, and starts nothing.
    #[must_use]
    pub fn stats(&self, view: &View) -> Option<Stats> {
        let record = &view.record;
        let path = record.cgroup.as_ref().filter(|_| record.lives(&self.host.boot_id))?;
        let pid = record.process.as_ref().map(|process| process.pid);
        let pid = pid.filter(|_| record.network != NetworkMode::Host);
        Some(stats::read(&self.host.cgroups, path, pid))
    }

    /// What a container uses of its GPUs, by a reading of all.
    #[must_use]
    pub fn gpu_usage(&self, view: &View, readings: &[GpuReading]) -> Vec<GpuUsage> {
        let record = &view.record;
        usage_of(&record.gpus, readings, |pid| match &record.cgroup {
            Some(cgroup) => self.host.cgroups.path_of_process(pid).is_some_and(|path| cgroup.holds(&path)),
            None => record.process.as_ref().is_some_and(|process| process.pid == pid),
        })
    }
}
