//! Pools of attachments that are prepared before containers ask for them, and who refills them: a process of its own, which
//! a launch starts that has left one low. Neither a container's end nor its supervisor's has to wait for it.

use std::io::Write;

use super::monitor::MonitorTask;
use super::{Engine, MonitorError};
use crate::error::Failure;
use crate::network::{CniError, Networks, Pool, PoolMarks, networks};
use crate::process::{MonitorProcess, spawn_monitor};

impl Engine {
    /// The networks of this machine, as containers of this state directory use them.
    ///
    /// # Errors
    /// Its directory of records cannot be made.
    pub fn networks(&self) -> Result<Networks, CniError> {
        networks(&self.network_dir())
    }

    /// Keeps so many attachments to a network prepared, or none any more, and sees to it now.
    ///
    /// When the future is dropped, what is half made stays until [`Engine::collect_garbage`].
    ///
    /// # Errors
    /// There is no such network, the marks make no sense, or one cannot be made; those that were made are kept.
    pub async fn set_pool(&self, network: &str, marks: Option<PoolMarks>) -> Result<(), CniError> {
        let networks = self.networks()?;
        networks.set_marks(network, marks)?;
        match marks {
            Some(marks) => networks.refill(network, PoolMarks { low: marks.high, ..marks }).await.map(drop),
            None => networks.drain(network).await,
        }
    }

    /// Has pools that are low refilled, and does not wait for it. Nothing is started where none is, or without
    /// [monitors](Engine::with_monitor).
    ///
    /// That it does not work is no fault of the launch before it: it is logged, and the next one tries again.
    pub fn refill_soon(&self) {
        // Most machines have none, and it is asked at each launch.
        if !self.network_dir().exists() {
            return;
        }
        let pools = self.networks().and_then(|networks| networks.pools());
        let started = match pools {
            Ok(pools) if pools.iter().any(Pool::is_low) => {
                self.start_refill().map_err(|error| Failure::of(&error))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::of(&error)),
        };
        if let Err(failure) = started {
            tracing::warn!(%failure, "the pools of networks are not refilled");
        }
    }

    fn start_refill(&self) -> Result<(), MonitorError> {
        let Some(monitor) = self.monitor.as_deref() else { return Ok(()) };
        let request = self.monitor_request(monitor, MonitorTask::Refill)?;
        let MonitorProcess { stdin, .. } =
            spawn_monitor(&monitor.program, &monitor.args).map_err(MonitorError::Process)?;
        // It is shorter than what a pipe takes.
        std::fs::File::from(stdin).write_all(&request).map_err(MonitorError::Process)
    }

    /// Refills what is low; the work of a process of its own.
    pub(super) async fn refill_pools(&self) -> Result<(), CniError> {
        let networks = self.networks()?;
        let mut result = Ok(());
        for Pool { network, marks, .. } in networks.pools()? {
            let refilled = networks.refill(&network, marks).await.map(drop);
            result = result.and(refilled);
        }
        result
    }
}
