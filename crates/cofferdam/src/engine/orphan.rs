//! Containers whose supervisor has died.
//!
//! - It lives on: it is shown as running, and can be waited for, signalled, stopped and removed. Its end is read from
//!   the kernel where that is possible (PIDFD_GET_INFO on a pidfd that was opened before the death, since 6.15).
//! - It has ended meanwhile, or was never completed: what is left is taken away and its report says RuntimeLost.
//!
//! Invariant: a code that nobody saw is never made up.

use std::time::Duration;

use jiff::Timestamp;

use super::{Engine, EngineError, View};
use crate::error::{Code, Failure};
use crate::exit::{
    AskedBy, Cause, Death, Evidence, ExitReport, ProcessEnd, REPORT_VERSION, SentSignal, StdioReport, decide,
};
use crate::lifecycle::Status;
use crate::runtime::KillScope;
use crate::signal::Signal;
use crate::state::{ContainerDir, ContainerLock, Record};
use crate::supervise::{OwnedTarget, Remains, clear_away, runtime_words};
use crate::sys::PidFd;

/// How long init may take to reap an orphan's process, after which the kernel has its status. PID 1 of a small
/// container or VM may look only every few seconds.
const REAPED_LIMIT: Duration = Duration::from_secs(5);

impl Engine {
    /// Looks at a container without a supervisor: lets it be if it lives, and closes its record if it does not.
    pub(super) async fn adopt_orphan(
        &self,
        container: ContainerDir,
        record: Record,
    ) -> Result<Option<View>, EngineError> {
        let lives = record.process.as_ref().is_some_and(|process| process.is_alive(&self.host.boot_id));
        if lives && record.status != Status::Creating {
            return Ok(Some(View { container, record, supervised: false, report: None }));
        }
        let Some(lock) = ContainerLock::attempt(&container)? else {
            // Another process closes it right now.
            return Ok(Some(View { container, record, supervised: true, report: None }));
        };
        // It may have been closed, or removed, before we got the lock.
        if let Some(report) = container.read_report()? {
            return Ok(Some(View { container, record, supervised: false, report: Some(report) }));
        }
        let report = self.close(&container, record.clone(), None, lock).await?;
        Ok(Some(View { container, record, supervised: false, report: Some(report) }))
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
    pub(super) async fn wait_orphan(
        &self,
        view: View,
        sent: Vec<SentSignal>,
    ) -> Result<ExitReport, EngineError> {
        let View { container, record, .. } = view;
        let kernel =
            |source| EngineError::Kernel { what: "the container's process cannot be waited for", source };
        let end = match hold(&record, &self.host.boot_id) {
            Some((pid, process)) => {
                process.ended().await.map_err(kernel)?;
                let end = reaped_status(&process).await;
                end.map(|end| (pid, end))
            }
            None => None,
        };
        let waiting = container.clone();
        let lock = tokio::task::spawn_blocking(move || ContainerLock::wait(&waiting))
            .await
            .map_err(|error| kernel(std::io::Error::other(error)))??;
        if let Some(report) = container.read_report()? {
            return Ok(report);
        }
        let death = end.map(|(pid, end)| Death {
            pid,
            end,
            from_pidfd: true,
            sandboxed: record.sandboxed,
            sent,
            timed_out: None,
            memory: None,
            helper: None,
        });
        self.close(&container, record, death, lock).await
    }

    /// Signals a living orphan. The signal goes to exactly the process that the record names.
    pub(super) async fn signal_orphan(
        &self,
        view: &View,
        signal: Signal,
        scope: KillScope,
    ) -> Result<(), EngineError> {
        let Some((_, process)) = hold(&view.record, &self.host.boot_id) else { return Ok(()) };
        let direct = scope == KillScope::Init && (!view.record.sandboxed || signal == Signal::KILL);
        if direct {
            return match process.signal(signal) {
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
        let held = hold(&view.record, &self.host.boot_id);
        let mut sent = vec![];
        if let Some((_, process)) = held {
            if let Some(cgroup) = &view.record.cgroup {
                crate::cgroup::thaw(&self.host.cgroups, cgroup);
            }
            sent.push(SentSignal { signal, by, at: Timestamp::now() });
            self.signal_orphan(&view, signal, KillScope::Init).await?;
            let ended = tokio::time::timeout(grace, process.ended()).await;
            if !matches!(ended, Ok(Ok(()))) {
                sent.push(SentSignal { signal: Signal::KILL, by, at: Timestamp::now() });
                // ESRCH: it ended at the last moment.
                let _ = process.signal(Signal::KILL);
            }
        }
        self.wait_orphan(view, sent).await
    }

    /// Writes the report of an orphan that has ended and takes away what is left of it. The caller has its lock.
    async fn close(
        &self,
        container: &ContainerDir,
        mut record: Record,
        death: Option<Death>,
        _lock: ContainerLock,
    ) -> Result<ExitReport, EngineError> {
        let runtime = self.runtime_of(&record).await?;
        let target = OwnedTarget::of(container, &record);
        let remains = Remains {
            host: &self.host,
            runtime: runtime.as_ref(),
            container,
            target: &target,
            cgroup: record.cgroup.as_ref(),
        };
        let mut cleanup = vec![];
        remains.end_processes(false, &mut cleanup);
        let (cause, asked_by, mut evidence, usage) = match death {
            Some(mut death) => {
                let usage = remains.read_counters(&mut death);
                let (cause, asked_by, evidence) = decide(&death);
                (cause, asked_by, evidence, usage)
            }
            None => {
                let mut blank = unseen();
                let usage = remains.read_counters(&mut blank);
                let evidence =
                    blank.memory.map(|counters| Evidence::Memory { counters }).into_iter().collect();
                (Cause::RuntimeLost { failure: lost(&record) }, None, evidence, usage)
            }
        };
        evidence.extend(runtime_words(container));
        let mut report = ExitReport {
            version: REPORT_VERSION,
            id: container.id.clone(),
            name: record.name.clone(),
            runtime: record.runtime.name.clone(),
            cause,
            asked_by,
            evidence,
            started: record.started,
            ended: Timestamp::now(),
            usage,
            stdio: StdioReport { truncated: true, ..StdioReport::default() },
            cleanup,
        };
        container.write_report(&report)?;
        clear_away(remains, &mut report.cleanup).await;
        record.status = Status::Stopped;
        container.write_record(&record)?;
        container.write_report(&report)?;
        Ok(report)
    }
}

/// Holds the process that a record names; `None` when it has ended.
fn hold(record: &Record, boot_id: &str) -> Option<(i32, PidFd)> {
    let named = record.process.as_ref()?;
    let process = PidFd::open(named.pid).ok()?;
    // After opening: from here on the handle means this process, so this is the moment to compare.
    named.is_alive(boot_id).then_some((named.pid, process))
}

/// The exit status of a dead process that is not our child, once somebody has reaped it.
async fn reaped_status(process: &PidFd) -> Option<ProcessEnd> {
    let deadline = tokio::time::Instant::now() + REAPED_LIMIT;
    loop {
        match process.exit_info() {
            Ok(Some(raw)) => return Some(raw.into()),
            Ok(None) if tokio::time::Instant::now() < deadline => {}
            Ok(None) | Err(_) => return None,
        }
        // The kernel tells nobody but the parent that a zombie has been reaped.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn unseen() -> Death {
    Death {
        pid: 0,
        end: ProcessEnd::Exited(0),
        from_pidfd: false,
        sandboxed: false,
        sent: vec![],
        timed_out: None,
        memory: None,
        helper: None,
    }
}

fn lost(record: &Record) -> Failure {
    let supervisor = record.supervisor.pid;
    let what = if record.status == Status::Creating {
        format!("its supervisor (pid {supervisor}) died while it was being made")
    } else {
        format!("its supervisor (pid {supervisor}) died before it, and nobody saw how it ended")
    };
    Failure {
        code: Code::RuntimeLost,
        what,
        why: vec![],
        next: Some("look for who killed the supervisor: the kernel log, a memory limit around it".into()),
    }
}
