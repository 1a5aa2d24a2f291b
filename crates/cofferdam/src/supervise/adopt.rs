//! Taking over a container whose supervisor has died: its process is held, its pipes are found, and its log goes on.
//!
//! Invariant: a container that cannot be taken over is left as it is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::control::Command;
use super::error::{StartError, supervision};
use super::held::Held;
use super::hub::Hub;
use super::stdio::{OurEnds, Outputs, Pumps, StdioPlan};
use super::streams::{copies, find_pipes, skip_what_is_logged};
use super::supervisor::{Launching, Made, Started, Supervisor};
use crate::cgroup::processes_in;
use crate::error::Failure;
use crate::event::Happening;
use crate::exit::ExitReport;
use crate::fault;
use crate::keeper::Kept;
use crate::lifecycle::Status;
use crate::process::Claim;
use crate::state::ProcessId;

/// How long the runtime may take to say in what state the container is. Whoever wants it meanwhile waits.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

impl Supervisor {
    /// Supervises a container from now to its end, whose supervisor has died. `started` is told once whether it is so.
    pub(crate) async fn adopt(
        launching: Launching,
        kept: Kept,
        (sender, commands): (mpsc::Sender<Command>, mpsc::Receiver<Command>),
        started: oneshot::Sender<Result<Started, StartError>>,
    ) -> Option<ExitReport> {
        let (mut supervisor, stdio, _) = Self::new(launching);
        supervisor.adopted = true;
        let hub = Arc::<Hub>::default();
        let opened = if supervisor.record.status == Status::Restarting {
            supervisor.clear_half_made().await;
            // There is no process, and a successor is to go on all the same.
            supervisor.keeping.keep(Kept::default()).await;
            supervisor.become_supervisor().map(|()| None)
        } else {
            if supervisor.record.lives(&supervisor.host.boot_id) {
                supervisor.ask_for_status().await;
            }
            supervisor.take_over(stdio, kept, &sender, &hub).await.map(Some)
        };
        let (made, listener) = match opened.and_then(|made| Ok((made, supervisor.listen()?))) {
            Ok(opened) => opened,
            Err(error) => {
                // The caller may have gone.
                let _ = started.send(Err(error));
                return None;
            }
        };
        supervisor.tell(Happening::Adopt { pid: made.as_ref().map(|made| made.init.pid) });
        Some(supervisor.attend(made, listener, (sender, commands), started, hub).await)
    }

    /// Its predecessor may have died between a call of the runtime and writing down what came of it.
    async fn ask_for_status(&mut self) {
        let asked = tokio::time::timeout(STATUS_LIMIT, self.runtime.state(self.target.target())).await;
        let Ok(answer) = asked else {
            tracing::warn!(limit = ?STATUS_LIMIT, "the runtime does not tell its state in time");
            return;
        };
        match answer {
            Ok(state) if state.status.is_live() && state.status != Status::Creating => {
                if state.status != Status::Created && self.record.started.is_none() {
                    self.has_started();
                }
                self.record.status = state.status;
            }
            // It has just ended, or the runtime fails: the record is the better source.
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %Failure::of(&error), "the runtime does not tell its state"),
        }
    }

    /// Takes the container's process and its pipes into this process's hands.
    async fn take_over(
        &mut self,
        mut stdio: StdioPlan,
        mut kept: Kept,
        commands: &mpsc::Sender<Command>,
        hub: &Arc<Hub>,
    ) -> Result<Made, StartError> {
        let no_process = || supervision("its process")(io::ErrorKind::NotFound.into());
        let process = self.record.process.clone().ok_or_else(no_process)?;
        let init = Held::watch(&process, &self.host.boot_id, kept.process.take()).ok_or_else(no_process)?;
        let gofer = if self.record.sandboxed { self.find_gofer() } else { None };
        self.limit_run();
        let ours = self.find_pipes(&mut kept);
        let log = self.open_log(commands)?;
        let journald = self.open_journald()?;
        let journal = self.open_journal()?;
        if let Some(journal) = &journal {
            let folder = self.state.logs_of(&self.container.id);
            skip_what_is_logged(&ours, journal, &folder, self.record.log).map_err(supervision("no pipe"))?;
        }
        fault::reached("adopt.found")?;
        self.become_supervisor()?;
        fault::reached("adopt.recorded")?;
        self.reopen_gate().await;
        self.keeping.keep(copies(&init, &ours, kept.terminal.as_ref())).await;
        let copy = || kept.terminal.as_ref().map(OwnedFd::try_clone).transpose();
        hub.connect(stdio.input.take(), copy().map_err(supervision("its terminal"))?);
        let outputs = Outputs { log, journald, journal, outlasts: self.is_outlasted(), hub: Arc::clone(hub) };
        let pumps = Pumps::start(ours, stdio, kept.terminal, &outputs)
            .map_err(supervision("no threads for its streams"))?;
        self.keep_counters();
        let (oom, warning) = (self.watch_memory(), self.watch_usage());
        Ok(Made { init, gofer, pumps, terminal: None, oom, warning })
    }

    fn become_supervisor(&mut self) -> Result<(), StartError> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let itself = ProcessId::of(own, &self.host.boot_id);
        self.record.supervisor =
            itself.ok_or_else(|| supervision("its own process")(io::ErrorKind::NotFound.into()))?;
        self.container.write_record(&self.record)?;
        // Of a dead supervisor.
        let _ = std::fs::remove_file(self.container.control_socket());
        Ok(())
    }

    fn find_gofer(&self) -> Option<Claim> {
        let id = self.container.id.as_str();
        let is_gofer = |pid: &i32| {
            let args = crate::proc::arguments(*pid);
            args.first().is_some_and(|name| name == "runsc-gofer") && args.iter().any(|arg| arg.contains(id))
        };
        let pid = crate::proc::all_pids().find(is_gofer)?;
        Held::watch(&ProcessId::of(pid, &self.host.boot_id)?, &self.host.boot_id, None)
    }

    /// Our ends of the container's pipes: as they were kept, or reopened where a process of it still has them.
    fn find_pipes(&self, kept: &mut Kept) -> OurEnds {
        let mut pids: Vec<i32> = self.record.process.iter().map(|process| process.pid).collect();
        if let Some(cgroup) = &self.record.cgroup {
            pids.extend(processes_in(&self.host.cgroups, cgroup));
        }
        find_pipes(self.record.pipes, &pids, kept)
    }
}
