//! Handing a container whose supervisor has died to a new one.
//!
//! Whoever finds it starts a monitor, as for a new container. Where many find it at once, the lock decides which monitor
//! becomes its supervisor; the others see it and go.

use std::time::{Duration, Instant};

use super::monitor::{MonitorError, MonitorTask};
use super::verbs::LOOK_AGAIN;
use super::{Engine, View};
use crate::error::Failure;
use crate::id::ContainerId;
use crate::keeper::{Charge, KeeperProgram, Keeping, Kept, Successors};
use crate::launch;
use crate::lifecycle::Status;
use crate::request::StdioFiles;
use crate::state::{ContainerDir, ContainerLock, Record, StateError, lock_is_free};
use crate::supervise::stdio::StdioPlan;

/// How long a monitor may take to take a container over: it reads its log.
const HANDOVER_LIMIT: Duration = Duration::from_secs(10);
/// How long those who only look at a container may hold its lock.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// How long the keeper may take to answer, and a monitor of its own to begin.
const KEEPER_LIMIT: Duration = Duration::from_secs(1);

/// In a keeper.
impl Successors for Engine {
    async fn start(&self, charge: Charge) {
        // It may have ended, or have been handed over by a command.
        if let Err(error) = self.ask_monitor(charge.into(), HANDOVER_LIMIT).await {
            tracing::debug!(error = %Failure::of(&error), "it was not handed over");
        }
    }

    fn are_needed(&self, charge: &Charge) -> bool {
        let (folder, recorded) = match charge {
            Charge::Container(id) => {
                let folder = self.state.container(id);
                let recorded = folder.read_record().map(|record| record.is_some());
                (folder, recorded)
            }
            Charge::Session(id) => {
                let folder = self.state.session(id);
                let recorded = folder.read_session().map(|record| record.is_some());
                (folder, recorded)
            }
        };
        // What cannot be read may be mended.
        recorded.unwrap_or(true) && folder.read_report().map_or(true, |report| report.is_none())
    }
}

impl Engine {
    /// Starts a monitor for a container that lives without one, and waits until it has a supervisor. `false` where it
    /// has none all the same.
    pub(super) async fn hand_over(&self, container: &ContainerDir) -> bool {
        if self.monitor.is_none() {
            return false;
        }
        let task = MonitorTask::Adopt { id: container.id.clone() };
        match self.ask_monitor(task, HANDOVER_LIMIT).await {
            Ok(_) => true,
            Err(error) => {
                let error = Failure::of(&error);
                tracing::debug!(container = %container.id, %error, "it was not handed over");
                // Another monitor may have been faster.
                lock_is_free(container).is_ok_and(|free| !free)
            }
        }
    }

    /// In a monitor: becomes the supervisor of a container that lives without one, or of what a dead one has left.
    pub(super) async fn take_over(
        &self,
        id: &ContainerId,
        keeper: KeeperProgram,
    ) -> Result<launch::Container, MonitorError> {
        let container = self.state.container(id);
        let gone = || MonitorError::State(StateError::NoSuchContainer(id.to_string()));
        loop {
            let lock = ContainerLock::within(&container, LOCK_LIMIT).await?;
            let lock = lock.ok_or_else(|| MonitorError::Request("it has a supervisor already".into()))?;
            let record = container.read_record()?.ok_or_else(gone)?;
            let keeping = Keeping::begin(self.state.clone(), keeper.clone(), Charge::Container(id.clone()));
            let kept = keeping.take().await.of(record.process.as_ref().map(|process| process.pid));
            if self.wants_supervisor(&container, &record, &kept)? {
                let files = record.background.clone().unwrap_or_default();
                // Nobody knows how much of a file its predecessor had read.
                let files = StdioFiles { stdin: None, ..files };
                let launcher = self.launcher(record.runtime.clone()).await?;
                let stdio = StdioPlan::open(&files)?;
                let launcher = launcher.in_background(files, keeper);
                return Ok(launcher.adopt(container, lock, record, stdio, (keeping, kept)).await?);
            }
            let ended = || MonitorError::Request("it has ended".into());
            if kept.process.is_none() && container.read_report()?.is_none() {
                // Whoever asked may know more of its end.
                return Err(ended());
            }
            keeping.done().await;
            drop(lock);
            // What its supervisor has left is taken away now, and not by the next command.
            match self.view(container.clone()).await {
                Ok(Some(view)) if view.record.status == Status::Restarting => {}
                _ => return Err(ended()),
            }
        }
    }

    /// Whether there is a process, the last words of one at the keeper, or another run to come.
    fn wants_supervisor(
        &self,
        container: &ContainerDir,
        record: &Record,
        kept: &Kept,
    ) -> Result<bool, StateError> {
        if container.read_report()?.is_some() {
            return Ok(false);
        }
        Ok(match record.status {
            Status::Restarting => true,
            Status::Creating => false,
            _ if record.lives(&self.host.boot_id) => true,
            _ => kept.process.is_some() && container.read_report_of_run(record)?.is_none(),
        })
    }

    /// Has the keeper's new monitor take over what a dead container has left: how it ended, and what it said last.
    pub(super) async fn ask_keeper(&self, container: &ContainerDir) {
        if !self.has_keeper().await {
            return;
        }
        if self.monitor.is_some() {
            self.hand_over(container).await;
            return;
        }
        // The keeper has seen the death as well, and starts one by itself.
        let begun = Instant::now();
        while begun.elapsed() < KEEPER_LIMIT && lock_is_free(container).is_ok_and(|free| free) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether there is a keeper.
    pub(super) async fn has_keeper(&self) -> bool {
        let connecting = tokio::net::UnixStream::connect(self.state.keeper_socket());
        matches!(tokio::time::timeout(KEEPER_LIMIT, connecting).await, Ok(Ok(_)))
    }

    /// A container that lives without a supervisor, as it is once a new one has been started.
    pub(super) async fn after_handover(&self, view: View) -> Result<Option<View>, super::EngineError> {
        if !self.hand_over(&view.container).await {
            return Ok(Some(view));
        }
        let View { container, .. } = view;
        let record = container.read_record()?;
        let report = container.read_report()?;
        Ok(record.map(|record| View { container, record, supervised: true, report }))
    }
}
