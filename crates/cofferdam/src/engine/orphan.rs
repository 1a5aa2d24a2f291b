//! Containers whose supervisor has died.
//!
//! - It lives on: it is shown as running, and can be waited for, signalled, stopped and removed.
//! - It has ended meanwhile, or was never completed: what is left is taken away, and its report says what is known.
//!
//! How it ended is read from the kernel as long as the kernel has it: from the zombie, until its parent reaps it, and
//! from a pidfd that was opened before that (PIDFD_GET_INFO, since 6.15). Else the report says RuntimeLost.
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
use crate::supervise::{Clearing, OwnedTarget, Remains, clear_away, complete, forget, runtime_words};
use crate::sys::{PidFd, from_raw_status};

/// How often the kernel is asked for the status of a process that is dead by its pidfd and not yet so in /proc.
const STATUS_ATTEMPTS: usize = 100;

/// A process of a record, held so that it cannot be taken for another one.
#[derive(Debug)]
struct Held {
    pid: i32,
    process: PidFd,
}

impl Held {
    /// Holds the process that a record names; `None` when the kernel does not know it any more.
    fn of(record: &Record, boot_id: &str) -> Option<Self> {
        let named = record.process.as_ref()?;
        let process = PidFd::open(named.pid).ok()?;
        // After opening: from here on the handle means this process, so this is the moment to compare.
        named.is_known(boot_id).then_some(Self { pid: named.pid, process })
    }

    /// The exit status of the process, which has ended; `None` where the kernel does not tell.
    async fn status(&self) -> Option<ProcessEnd> {
        for _ in 0..STATUS_ATTEMPTS {
            // Before its parent has reaped it, /proc has it; afterwards, the pidfd.
            if let Some(stat) = crate::proc::stat(self.pid).filter(crate::proc::Stat::is_dead)
                && self.process.exit_info().ok().flatten().is_none()
            {
                return from_raw_status(stat.exit_code).map(ProcessEnd::from);
            }
            match self.process.exit_info() {
                Ok(Some(raw)) => return Some(raw.into()),
                Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(_) => return None,
            }
        }
        None
    }
}

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
        let held = Held::of(&record, &self.host.boot_id);
        let Some(lock) = ContainerLock::attempt(&container)? else {
            // Another process closes it right now.
            return Ok(Some(View { container, record, supervised: true, report: None }));
        };
        // It may have been closed, or removed, before we got the lock.
        if let Some(report) = container.read_report()? {
            return Ok(Some(View { container, record, supervised: false, report: Some(report) }));
        }
        let death = match held.filter(|_| record.status != Status::Creating) {
            Some(held) => held.status().await.map(|end| death_of(&record, held.pid, end, vec![])),
            None => None,
        };
        let report = self.close(&container, record.clone(), death, lock).await?;
        Ok(Some(View { container, record, supervised: false, report: Some(report) }))
    }

    /// Takes away what is left of a container whose supervisor died between its report and the end of its clean-up.
    pub(super) async fn finish_clearing(
        &self,
        container: ContainerDir,
        record: Record,
        mut report: ExitReport,
    ) -> Result<View, EngineError> {
        if let Some(_lock) = ContainerLock::attempt(&container)? {
            let runtime = self.runtime_of(&record).await?;
            let target = OwnedTarget::of(&container, &record);
            let remains = Remains {
                host: &self.host,
                runtime: runtime.as_ref(),
                container: &container,
                target: &target,
                cgroup: record.cgroup.as_ref(),
            };
            remains.end_processes(false, &mut report.cleanup);
            clear_away(remains, Clearing::ByRuntime, &mut report.cleanup).await;
            if record.remove {
                forget(&self.state, &container, &record, &mut report.cleanup);
            } else if !report.cleanup.is_empty() {
                container.write_report(&report)?;
            }
        }
        Ok(View { container, record, supervised: false, report: Some(report) })
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
        self.see_end(view, held, vec![]).await
    }

    async fn see_end(
        &self,
        view: View,
        held: Option<Held>,
        sent: Vec<SentSignal>,
    ) -> Result<ExitReport, EngineError> {
        let View { container, record, .. } = view;
        let kernel =
            |source| EngineError::Kernel { what: "the container's process cannot be waited for", source };
        let death = match held {
            Some(held) => {
                held.process.ended().await.map_err(kernel)?;
                held.status().await.map(|end| death_of(&record, held.pid, end, sent))
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
        self.close(&container, record, death, lock).await
    }

    /// Signals a living orphan. The signal goes to exactly the process that the record names.
    pub(super) async fn signal_orphan(
        &self,
        view: &View,
        signal: Signal,
        scope: KillScope,
    ) -> Result<(), EngineError> {
        let Some(held) = Held::of(&view.record, &self.host.boot_id) else { return Ok(()) };
        self.signal_held(view, &held, signal, scope).await
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
        let mut sent = vec![];
        if let Some(held) = &held {
            if let Some(cgroup) = &view.record.cgroup {
                crate::cgroup::thaw(&self.host.cgroups, cgroup);
            }
            sent.push(SentSignal { signal, by, at: Timestamp::now() });
            self.signal_held(&view, held, signal, KillScope::Init).await?;
            let ended = tokio::time::timeout(grace, held.process.ended()).await;
            if !matches!(ended, Ok(Ok(()))) {
                sent.push(SentSignal { signal: Signal::KILL, by, at: Timestamp::now() });
                // ESRCH: it ended at the last moment.
                let _ = held.process.signal(Signal::KILL);
            }
        }
        self.see_end(view, held, sent).await
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
        let counters = remains.read_counters();
        let (cause, asked_by, mut evidence) = match death {
            Some(mut death) => {
                complete(&mut death, &counters, record.process.as_ref());
                decide(&death)
            }
            None => {
                let evidence = counters.memory.clone().map(|counters| Evidence::Memory { counters });
                (Cause::RuntimeLost { failure: lost(&record) }, None, evidence.into_iter().collect())
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
            usage: counters.usage,
            stdio: StdioReport { truncated: true, ..StdioReport::default() },
            cleanup,
        };
        container.write_report(&report)?;
        clear_away(remains, Clearing::ByRuntime, &mut report.cleanup).await;
        record.status = Status::Stopped;
        if record.remove {
            forget(&self.state, container, &record, &mut report.cleanup);
        } else {
            container.write_record(&record)?;
            container.write_report(&report)?;
        }
        Ok(report)
    }
}

/// The death of an orphan, as far as it was seen.
fn death_of(record: &Record, pid: i32, end: ProcessEnd, sent: Vec<SentSignal>) -> Death {
    Death {
        pid,
        end,
        from_pidfd: true,
        sandboxed: record.sandboxed,
        sent,
        timed_out: None,
        memory: None,
        oom_line: None,
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
