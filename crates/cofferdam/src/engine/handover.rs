//! Handing a container whose supervisor has died to a new one.
//!
//! Whoever finds it starts a monitor, as for a new container. Where many find it at once, the lock decides which monitor
//! becomes its supervisor; the others see it and go.

use std::time::Duration;

use super::monitor::{MonitorError, MonitorTask};
use super::{Engine, View};
use crate::error::Failure;
use crate::id::ContainerId;
use crate::launch;
use crate::lifecycle::Status;
use crate::request::StdioFiles;
use crate::state::{ContainerDir, ContainerLock, StateError};
use crate::supervise::stdio::StdioPlan;

/// How long a monitor may take to take a container over: it reads its log.
const HANDOVER_LIMIT: Duration = Duration::from_secs(10);
/// How long those who only look at a container may hold its lock.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

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
                crate::state::lock_is_free(container).is_ok_and(|free| !free)
            }
        }
    }

    /// In a monitor: becomes the supervisor of a container that lives without one.
    pub(super) async fn take_over(&self, id: &ContainerId) -> Result<launch::Container, MonitorError> {
        let container = self.state.container(id);
        let gone = || MonitorError::State(StateError::NoSuchContainer(id.to_string()));
        let lock = ContainerLock::within(&container, LOCK_LIMIT).await?;
        let lock = lock.ok_or_else(|| MonitorError::Request("it has a supervisor already".into()))?;
        let record = container.read_record()?.ok_or_else(gone)?;
        let lives = record.process.as_ref().is_some_and(|process| process.is_alive(&self.host.boot_id));
        let can_be = record.status == Status::Restarting || (lives && record.status != Status::Creating);
        if !can_be || container.read_report()?.is_some() {
            return Err(MonitorError::Request("it has ended".into()));
        }
        let files = record.background.clone().unwrap_or_default();
        // Nobody knows how much of a file its predecessor had read.
        let files = StdioFiles { stdin: None, ..files };
        let launcher = self.launcher(record.runtime.clone()).await?;
        let stdio = StdioPlan::open(&files)?;
        Ok(launcher.in_background(files).adopt(container, lock, record, stdio).await?)
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
