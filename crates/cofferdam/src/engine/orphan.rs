//! Containers whose supervisor has died.
//!
//! - It lives on: a new supervisor is found for it (`handover`). Where there can be none, it is shown as running, and can
//!   be waited for, signalled, stopped and removed.
//! - It has ended meanwhile, or was never completed: what is left is taken away, and its report says what is known.
//!
//! How it ended is read from the kernel as long as the kernel has it: from the zombie, until its parent reaps it, and
//! from a pidfd that was opened before that (PIDFD_GET_INFO, since 6.15). Else the report says RuntimeLost.
//! Invariant: a code that nobody saw is never made up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::verbs::LOOK_AGAIN;
use super::{Engine, EngineError, View};
use crate::error::Failure;
use crate::event::Happening;
use crate::exit::{AskedBy, Cause, Death, Evidence, ExitReport, ProcessEnd, SentSignal, StdioReport, decide};
use crate::fault;
use crate::lifecycle::Status;
use crate::runtime::{Clearing, KillScope, Runtime, RuntimeError};
use crate::signal::Signal;
use crate::state::{ContainerDir, ContainerLock, Record, StateError};
use crate::supervise::{
    Held, OwnedTarget, Remains, clear_away, complete, forget, lost, release_gpus, runtime_words,
};

/// How long somebody else may take to close a record that we look at: a few calls of the runtime.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// The same for whoever waits for the end.
const CLOSING_LIMIT: Duration = Duration::from_secs(60);
/// How long a call of the runtime may take on the way to a SIGKILL that needs none.
const CALL_LIMIT: Duration = Duration::from_secs(5);

impl Engine {
    /// Looks at a container without a supervisor: gives it a new one if it lives and there can be one, and closes its
    /// record if it does not.
    pub(super) async fn repair(
        &self,
        container: ContainerDir,
        mut record: Record,
    ) -> Result<Option<View>, EngineError> {
        let lives = record.lives(&self.host.boot_id);
        if record.status == Status::Restarting || (lives && record.status != Status::Creating) {
            return self.after_handover(View { container, record, supervised: false, report: None }).await;
        }
        let held = Held::of(&record, &self.host.boot_id);
        let end = match held.filter(|_| record.status != Status::Creating) {
            Some(held) => held.status().await.map(|end| (held.pid, end)),
            None => None,
        };
        if record.status != Status::Creating {
            self.ask_keeper(&container).await;
        }
        let lock = match self.lock_of_dead(&container).await {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                match container.read_record()? {
                    Some(fresh) if self.has_come_back(&fresh) => record = fresh,
                    // Another process has been closing it for long. Dead it is all the same.
                    _ => record.status = Status::Stopped,
                }
                return Ok(Some(View { container, record, supervised: true, report: None }));
            }
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // It may have been closed before we got the lock.
        if let Some(report) = container.read_report()? {
            return Ok(Some(View { container, record, supervised: false, report: Some(report) }));
        }
        let report = self.close(&container, &mut record, end, lock).await?;
        if record.status == Status::Restarting {
            return self.after_handover(View { container, record, supervised: false, report: None }).await;
        }
        Ok(Some(View { container, record, supervised: false, report: Some(report) }))
    }

    /// Takes the lock of a container that is dead; `None` where another process keeps it for long, or has brought the
    /// container back.
    async fn lock_of_dead(&self, container: &ContainerDir) -> Result<Option<ContainerLock>, StateError> {
        let begun = Instant::now();
        loop {
            if let Some(lock) = ContainerLock::within(container, LOOK_AGAIN).await? {
                return Ok(Some(lock));
            }
            let is_back = container.read_record()?.is_some_and(|record| self.has_come_back(&record));
            if is_back || begun.elapsed() > LOOK_LIMIT {
                return Ok(None);
            }
        }
    }

    /// Whether a container that was dead is about to run again, or runs.
    fn has_come_back(&self, record: &Record) -> bool {
        record.status == Status::Restarting || record.lives(&self.host.boot_id)
    }

    /// Takes away what is left of a container whose supervisor died between its report and the end of its clean-up.
    pub(super) async fn finish_clearing(
        &self,
        container: ContainerDir,
        mut record: Record,
        mut report: ExitReport,
    ) -> Result<View, EngineError> {
        if let Some(_lock) = ContainerLock::attempt(&container)? {
            self.clear(&container, &mut record, &mut report).await?;
        }
        Ok(View { container, record, supervised: false, report: Some(report) })
    }

    /// Takes a container without a supervisor away, and forgets it or says in its record that it has ended. The caller
    /// has its lock.
    async fn clear(
        &self,
        container: &ContainerDir,
        record: &mut Record,
        report: &mut ExitReport,
    ) -> Result<(), EngineError> {
        self.tell_end(record, Happening::end(report));
        let left = self.clear_remains(container, record).await;
        fault::reached("orphan.cleared").map_err(Failure::from)?;
        record.status = Status::Stopped;
        record.cleared = left.is_empty();
        let changed = !left.is_empty();
        report.cleanup.extend(left);
        if record.remove && record.cleared {
            let mut left = vec![];
            forget(&self.state, container, record, Some(report), &mut left);
            report.cleanup.extend(left);
            self.tell(record, Happening::Remove);
            return Ok(());
        }
        if changed {
            container.write_report(report)?;
        }
        container.release_reserve();
        container.write_record(record)?;
        release_gpus(&self.state, record);
        Ok(())
    }

    /// Ends and takes away what is left of a container; says what could not be. The caller has its lock.
    pub(super) async fn clear_remains(&self, container: &ContainerDir, record: &Record) -> Vec<Failure> {
        let mut left = vec![];
        let runtime = self.runtime_of(record).await;
        let target = OwnedTarget::of(container, record);
        let remains = self.remains(container, record, &target, &runtime);
        remains.end_processes(false, &mut left).await;
        let clearing = match &runtime {
            Ok(_) => Clearing::ByRuntime,
            // All of it carries the id.
            Err(_) if record.clearing == Clearing::ByUs => Clearing::ByUs,
            Err(error) => {
                left.push(Failure::of(error));
                Clearing::ByUs
            }
        };
        clear_away(remains, clearing, &mut left).await;
        // Whoever finds it gone reads the report.
        let _ = std::fs::remove_file(container.control_socket());
        left
    }

    fn remains<'a>(
        &'a self,
        container: &'a ContainerDir,
        record: &'a Record,
        target: &'a OwnedTarget,
        runtime: &'a Result<Arc<dyn Runtime>, RuntimeError>,
    ) -> Remains<'a> {
        Remains::of(record, container, target, runtime.as_deref().ok(), &self.host)
    }

    /// Removes a folder that its maker had not come to write a record into.
    pub(super) fn sweep_unrecorded(&self, container: &ContainerDir) {
        let Ok(Some(_lock)) = ContainerLock::attempt(container) else { return };
        if matches!(container.read_record(), Ok(None)) {
            tracing::info!(container = %container.id, "removing the folder of a launch that was cut short");
            let released = self.state.release_all_names(&container.id);
            if let Err(error) = released.and_then(|()| self.state.remove_container(container)) {
                tracing::warn!(error = %Failure::of(&error), "the folder could not be removed");
            }
        }
    }

    /// Waits for the end of a living orphan, and closes its record.
    pub(super) async fn wait_orphan(&self, view: View) -> Result<ExitReport, EngineError> {
        let held = Held::of(&view.record, &self.host.boot_id);
        self.see_end(view, held).await
    }

    async fn see_end(&self, view: View, held: Option<Held>) -> Result<ExitReport, EngineError> {
        let title = view.title();
        let View { container, mut record, .. } = view;
        let kernel =
            |source| EngineError::Kernel { what: "the container's process cannot be waited for", source };
        let end = match held {
            Some(held) => {
                held.process.ended().await.map_err(kernel)?;
                held.status().await.map(|end| (held.pid, end))
            }
            None => None,
        };
        let lock = match ContainerLock::within(&container, CLOSING_LIMIT).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(EngineError::StillRunning { container: title, limit: CLOSING_LIMIT }),
            // Somebody else has closed it and forgotten it meanwhile (--rm); we saw its end all the same.
            Err(error) if error.is_gone() => {
                if let Some(report) = self.state.kept_report(container.id.as_str()) {
                    return Ok(report);
                }
                let (pid, end) = end.ok_or(StateError::NoSuchContainer(title))?;
                return Ok(report_of(&record, Some(death_of(&record, pid, end))));
            }
            Err(error) => return Err(error.into()),
        };
        match container.read_report()? {
            Some(report) => Ok(report),
            None => self.close(&container, &mut record, end, lock).await,
        }
    }

    /// Signals a living orphan. The signal goes to exactly the process that the record names.
    pub(super) async fn signal_orphan(
        &self,
        view: &View,
        signal: Signal,
        scope: KillScope,
        by: AskedBy,
    ) -> Result<(), EngineError> {
        let Some(held) = Held::of(&view.record, &self.host.boot_id) else { return Ok(()) };
        put_down(view, signal, by);
        self.signal_held(view, &held, signal, scope).await?;
        self.tell(&view.record, Happening::Kill { signal, by });
        Ok(())
    }

    async fn signal_held(
        &self,
        view: &View,
        held: &Held,
        signal: Signal,
        scope: KillScope,
    ) -> Result<(), EngineError> {
        let direct = scope == KillScope::Init && (!view.record.sandboxed || signal == Signal::KILL);
        if direct {
            return match held.process.signal(signal) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    Err(EngineError::Kernel { what: "the signal could not be sent", source: error })
                }
                _ => Ok(()),
            };
        }
        let runtime = self.runtime_of(&view.record).await?;
        let target = OwnedTarget::of(&view.container, &view.record);
        // The record must be about this container, whatever the runtime makes of a prefix.
        runtime.state(target.target()).await?;
        Ok(runtime.kill(target.target(), signal, scope).await?)
    }

    /// Stops a living orphan: a signal, a time of grace, SIGKILL.
    pub(super) async fn stop_orphan(
        &self,
        view: View,
        signal: Signal,
        grace: Duration,
        by: AskedBy,
    ) -> Result<ExitReport, EngineError> {
        let held = Held::of(&view.record, &self.host.boot_id);
        if let Some(held) = &held {
            self.thaw_orphan(&view).await;
            put_down(&view, signal, by);
            // Whatever becomes of it, SIGKILL follows.
            let polite = self.signal_held(&view, held, signal, KillScope::Init);
            match tokio::time::timeout(CALL_LIMIT, polite).await {
                Ok(Ok(())) => self.tell(&view.record, Happening::Kill { signal, by }),
                Ok(Err(error)) => tracing::warn!(error = %Failure::of(&error), "the signal was not sent"),
                Err(_) => tracing::warn!("the runtime did not send the signal in time"),
            }
            let ended = tokio::time::timeout(grace, held.process.ended()).await;
            if !matches!(ended, Ok(Ok(()))) {
                put_down(&view, Signal::KILL, by);
                // ESRCH: it ended at the last moment.
                let _ = held.process.signal(Signal::KILL);
                self.tell(&view.record, Happening::Kill { signal: Signal::KILL, by });
            }
        }
        self.see_end(view, held).await
    }

    /// A frozen process takes no signal but SIGKILL, and on cgroup v1 not even that.
    async fn thaw_orphan(&self, view: &View) {
        if view.record.status == Status::Paused {
            let resume = async {
                let target = OwnedTarget::of(&view.container, &view.record);
                self.runtime_of(&view.record).await?.resume(target.target()).await
            };
            if let Ok(Err(error)) = tokio::time::timeout(CALL_LIMIT, resume).await {
                tracing::warn!(error = %Failure::of(&error), "the container could not be thawed by its runtime");
            }
        }
        if let Some(cgroup) = &view.record.cgroup {
            crate::cgroup::thaw(&self.host.cgroups, cgroup);
        }
    }

    /// Writes the report of an orphan that has ended and takes away what is left of it. The caller has its lock. One that
    /// is to be started again by its policy is then [`Status::Restarting`], for a new supervisor.
    async fn close(
        &self,
        container: &ContainerDir,
        record: &mut Record,
        end: Option<(i32, ProcessEnd)>,
        _lock: ContainerLock,
    ) -> Result<ExitReport, EngineError> {
        // Signals may have been put down since it was read.
        if let Some(fresh) = container.read_record()? {
            *record = fresh;
        }
        let mut report = match container.read_report_of_run(record)? {
            Some(report) => report,
            None => {
                let report = self.judge(container, record, end).await;
                if let Some(kills) = record.take_untold_kills(&report) {
                    self.tell(record, Happening::Oom { kills });
                }
                report
            }
        };
        if record.starts_again(&report.cause) {
            self.clear_for_the_next(container, record, &report).await?;
            return Ok(report);
        }
        container.write_report(&report)?;
        fault::reached("orphan.reported").map_err(Failure::from)?;
        self.clear(container, record, &mut report).await?;
        Ok(report)
    }

    /// Says of an orphan's end what is known.
    async fn judge(
        &self,
        container: &ContainerDir,
        record: &Record,
        end: Option<(i32, ProcessEnd)>,
    ) -> ExitReport {
        let runtime = self.runtime_of(record).await;
        let target = OwnedTarget::of(container, record);
        let remains = self.remains(container, record, &target, &runtime);
        let mut cleanup = vec![];
        remains.end_processes(false, &mut cleanup).await;
        let counters = remains.read_counters();
        let death = end.map(|(pid, end)| {
            let mut death = death_of(record, pid, end);
            complete(&mut death, &counters, record.process.as_ref());
            death
        });
        let mut report = report_of(record, death);
        if matches!(report.cause, Cause::RuntimeLost { .. }) {
            report.evidence.extend(counters.memory.map(|counters| Evidence::Memory { counters }));
            report.evidence.extend(runtime_words(container));
        }
        (report.usage, report.cleanup) = (counters.usage, cleanup);
        report
    }

    /// Ends a run of an orphan after which another one comes.
    async fn clear_for_the_next(
        &self,
        container: &ContainerDir,
        record: &mut Record,
        report: &ExitReport,
    ) -> Result<(), EngineError> {
        container.write_last_report(report)?;
        fault::reached("orphan.reported").map_err(Failure::from)?;
        self.tell_end(record, Happening::end(report));
        for failure in self.clear_remains(container, record).await {
            tracing::warn!(container = %container.id, %failure, "something of its last run is left");
        }
        // Nobody was there to see how long it ran.
        record.begin_restart(Duration::ZERO);
        Ok(container.write_record(record)?)
    }
}

/// Writes a signal down before it is sent, as its supervisor would have done.
fn put_down(view: &View, signal: Signal, by: AskedBy) {
    let sent = SentSignal { signal, by, at: Timestamp::now() };
    if !sent.asks_for_the_end() {
        return;
    }
    let write = || -> Result<(), StateError> {
        // Whoever has the lock closes the record: the process has ended by then.
        let Some(_lock) = ContainerLock::attempt(&view.container)? else { return Ok(()) };
        let Some(mut record) = view.container.read_record()? else { return Ok(()) };
        record.put_down(sent);
        view.container.write_record(&record)
    };
    if let Err(error) = write() {
        tracing::warn!(error = %Failure::of(&error), "the signal is not in the record");
    }
}

/// The report of an orphan from its death alone; `None` where nobody saw it.
fn report_of(record: &Record, death: Option<Death>) -> ExitReport {
    let (cause, asked_by, evidence) = match death {
        Some(death) => decide(&death),
        None => (Cause::RuntimeLost { failure: lost(record) }, None, vec![]),
    };
    let stdio = StdioReport { truncated: true, ..StdioReport::default() };
    ExitReport { stdio, ..ExitReport::of(record, cause, asked_by, evidence, Timestamp::now()) }
}

/// The death of an orphan, as far as it was seen.
fn death_of(record: &Record, pid: i32, end: ProcessEnd) -> Death {
    Death {
        pid,
        end,
        from_pidfd: true,
        sandboxed: record.sandboxed,
        sent: record.sent.clone(),
        timed_out: None,
        memory: None,
        kernel_line: None,
        oom_line: None,
        helper: None,
    }
}
