//! What the supervisor has to do with the container's cgroup: room for a sandbox, out-of-memory kills, warnings, a CPU
//! quota that comes later.

use tokio::time::Instant;

use super::error::{StartError, supervision};
use super::remains::Counters;
use super::supervisor::{Mode, NOTE_PAUSE, Supervisor};
use crate::cgroup::kernel_log::{Verdict, killed_for_memory};
use crate::cgroup::{
    CgroupPath, MemoryWarning, OomWatch, UsageWatch, WarningReason, give_parents_cpus, limits,
};
use crate::event::Happening;
use crate::exit::ExitReport;
use crate::request::Limits;
use crate::runtime::CreateCall;

impl Supervisor {
    /// Has the runtime make the container, and start it where it is to run by itself.
    ///
    /// A sandbox shows its guest the limit of its cgroup while it is made, which is thus what was asked for; the room for
    /// the sandbox itself is added before the guest runs.
    pub(super) async fn make_by_runtime(&self, call: CreateCall<'_>, mode: Mode) -> Result<i32, StartError> {
        let (runtime, target) = (self.runtime.as_ref(), call.target);
        let limits = &self.record.limits;
        if let Some(cgroup) = &self.record.cgroup
            && (limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some())
        {
            give_parents_cpus(&self.host.cgroups, cgroup).map_err(supervision("its cgroup has no CPUs"))?;
        }
        if mode == Mode::Run && self.record.memory_headroom_bytes == 0 && self.record.cpu_boost.is_none() {
            return Ok(runtime.run(call).await?);
        }
        let pid = runtime.create(call).await?;
        self.add_headroom()?;
        self.try_quota()?;
        if mode == Mode::Run {
            runtime.start(target).await?;
        }
        Ok(pid)
    }

    fn add_headroom(&self) -> Result<(), StartError> {
        let headroom = self.record.memory_headroom_bytes;
        let Some(cgroup) = self.record.cgroup.as_ref().filter(|_| headroom > 0) else { return Ok(()) };
        let held = limits::read(&self.host.cgroups, cgroup);
        let memory = Limits {
            memory_bytes: held.memory_bytes,
            memory_swap_bytes: held.memory_swap_bytes,
            ..Limits::default()
        };
        Ok(limits::write(&self.host.cgroups, cgroup, &memory.with_more_memory(headroom))?)
    }

    /// Makes sure that the CPU quota can hold once it comes: under v1 it may not be more than that of a cgroup above.
    fn try_quota(&self) -> Result<(), StartError> {
        let (Some(cgroup), Some(_)) = (&self.record.cgroup, self.record.cpu_boost) else { return Ok(()) };
        let quota = Limits { cpu_quota_us: self.record.limits.cpu_quota_us, ..Limits::default() };
        limits::write(&self.host.cgroups, cgroup, &quota)?;
        Ok(limits::lift_quota(&self.host.cgroups, cgroup)?)
    }

    /// Makes sure that the container's process is in the cgroup by which it is limited and its end is judged. One that has
    /// ended is in none any more; without a limit, only the judgement is lost.
    pub(super) fn check_place(&self, pid: i32) -> Result<(), StartError> {
        let Some(wanted) = &self.record.cgroup else { return Ok(()) };
        let Some(found) = self.host.cgroups.path_of_process(pid) else { return Ok(()) };
        // crun's is in one below the scope.
        if wanted.holds(&found) || self.host.cgroups.has_process(wanted, pid) {
            return Ok(());
        }
        let error = StartError::Elsewhere { wanted: wanted.clone(), found };
        if self.record.limits.is_empty() {
            tracing::info!(%error, "how it ends cannot be told for sure");
            return Ok(());
        }
        Err(error)
    }

    /// Begins to watch for out-of-memory kills. Where that fails, they are seen at the end.
    pub(super) fn watch_memory(&self) -> Option<OomWatch> {
        let directory = self.remains().memory_directory()?;
        let watch = OomWatch::begin(directory, self.record.oom_kills);
        watch.inspect_err(|error| tracing::debug!(%error, "its memory cannot be watched")).ok()
    }

    /// Begins to watch how much memory is in use, if that was asked for.
    pub(super) fn watch_usage(&self) -> Option<UsageWatch> {
        let threshold = self.record.memory_warn?;
        let (headroom, is_told) = (self.record.memory_headroom_bytes, self.record.memory_warned);
        let watch = UsageWatch::begin(self.remains().memory_directory()?, threshold, headroom, is_told);
        watch.inspect_err(|error| tracing::warn!(%error, "nobody will tell that its memory gets short")).ok()
    }

    pub(super) fn tell_warning(&mut self, warning: MemoryWarning) {
        self.record.memory_warned |= warning.reason == WarningReason::Usage;
        self.tell(Happening::MemoryWarning { warning });
        self.note(self.record.status);
    }

    pub(super) fn tell_kills(&mut self, kills: u64) {
        self.record.oom_kills += kills;
        self.keep_counters();
        self.tell(Happening::Oom { kills });
        self.note(self.record.status);
    }

    /// Tells at the end of kills that have not been told.
    pub(super) fn tell_last_kills(&mut self, report: &ExitReport) {
        let kills = self.record.take_untold_kills(report);
        self.untold.extend(kills.map(|kills| Happening::Oom { kills }));
    }

    /// Keeps what the cgroup of a scope has counted so far, which may be gone when the end is judged: systemd takes a scope
    /// away as soon as nothing lives in it (measured: 4 to 29 ms after the end could be seen, and sometimes before it).
    pub(super) fn keep_counters(&mut self) {
        if self.record.cgroup.as_ref().is_some_and(CgroupPath::is_scope) {
            self.counted = self.remains().read_counters().memory.or_else(|| self.counted.take());
        }
    }

    /// What the cgroup counted up to the end. Where it has gone, it is what was seen of it last, with what the kernel's log
    /// says of the end; nothing where that says nothing.
    pub(super) fn last_counters(&mut self) -> Counters {
        let mut counters = self.remains().read_counters();
        let Some(mut last) = self.counted.take().filter(|_| counters.memory.is_none()) else {
            return counters;
        };
        let process = self.record.process.as_ref();
        let in_log = || match process.map(|process| killed_for_memory(process.pid, process.began_us())) {
            Some(Verdict::Killed(_)) => Some(1),
            Some(Verdict::NotKilled) => Some(0),
            Some(Verdict::Unknown) | None => None,
        };
        let since = if counters.kernel_line.is_some() { Some(1) } else { in_log() };
        if let Some(kills) = since.or_else(|| Some(last.oom_kill).filter(|kills| *kills > 0)) {
            (last.oom_kill, last.scope, last.peak_bytes) =
                (last.oom_kill.max(kills), counters.scope.take(), None);
            counters.memory = Some(last);
        }
        counters
    }

    /// Lets the CPU quota hold from now on.
    pub(super) async fn end_boost(&mut self) {
        self.quota_at = None;
        let quota = Limits { cpu_quota_us: self.record.limits.cpu_quota_us, ..Limits::default() };
        let held = self.record.cgroup.as_ref().map(|cgroup| limits::read(&self.host.cgroups, cgroup));
        if held.is_some_and(|held| held.cpu_quota_us == quota.cpu_quota_us) {
            // A predecessor has seen to it.
            return;
        }
        if let Err(failure) = self.update(&quota).await {
            tracing::warn!(%failure, "the CPU quota does not hold yet; trying again");
            self.quota_at = Some(Instant::now() + NOTE_PAUSE);
        }
    }
}

/// Out-of-memory kills that are new; `None` when there will be no more. Never, where nobody tells.
pub(super) async fn next_kills(oom: Option<&mut OomWatch>) -> Option<u64> {
    match oom {
        Some(oom) => oom.next().await,
        None => std::future::pending().await,
    }
}

/// A warning that is new; `None` when there will be no more. Never, where nobody warns.
pub(super) async fn next_warning(usage: Option<&mut UsageWatch>) -> Option<MemoryWarning> {
    match usage {
        Some(usage) => usage.next().await,
        None => std::future::pending().await,
    }
}
