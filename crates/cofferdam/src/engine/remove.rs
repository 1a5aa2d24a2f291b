//! Forgetting a container, whatever state it and its supervisor are in.

use std::io;
use std::time::Duration;

use super::{Engine, EngineError, View};
use crate::cgroup::CgroupPath;
use crate::error::Failure;
use crate::exit::{AskedBy, ExitReport};
use crate::lifecycle::Verb;
use crate::runtime::{DEFAULT_START_LIMIT, QUERY_LIMIT, RuntimeConfig, locate};
use crate::signal::Signal;
use crate::state::{ContainerDir, ContainerLock, ProcessId, StateError};
use crate::supervise::control::{Request, ask};
use crate::supervise::{
    Clearing, Marks, OwnedTarget, Remains, clear_away, end_everything, remove_state_leftovers,
};
use crate::sys::PidFd;

/// How long a container that was killed may take to be gone.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);
/// How long the supervisor of a damaged record may take to end it.
const DISCARD_PATIENCE: Duration = Duration::from_secs(10);

/// What a removal found.
#[derive(Debug, Clone, PartialEq)]
pub enum RemoveOutcome {
    /// The container is forgotten; it had ended like this.
    Removed(Option<Box<ExitReport>>),
    /// Its record could not be read; what there was of it has been removed.
    Discarded(Failure),
}

impl Engine {
    /// Forgets a container that has ended; with `force`, ends it first.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn remove(&self, text: &str, force: bool) -> Result<RemoveOutcome, EngineError> {
        let view = match self.find(text).await {
            Ok(view) => view,
            Err(EngineError::State(error @ (StateError::Damaged { .. } | StateError::TooNew { .. })))
                if force =>
            {
                let container = self.state.find(text)?;
                self.discard(&container).await?;
                return Ok(RemoveOutcome::Discarded(Failure::of(&error)));
            }
            Err(error) => return Err(error),
        };
        let mut report = view.report.clone();
        if view.status().is_live() {
            if !force {
                view.status().check(Verb::Remove, &view.title())?;
            }
            report = Some(self.end_at_once(text, &view).await?);
        }
        let Some(_lock) = wait_for_lock(&view.container).await? else {
            // It was removed by its own supervisor (--rm), or by another command.
            return Ok(RemoveOutcome::Removed(report.map(Box::new)));
        };
        if let Some(name) = &view.record.name {
            self.state.release_name(name, &view.container.id)?;
        }
        self.state.remove_container(&view.container)?;
        Ok(RemoveOutcome::Removed(report.map(Box::new)))
    }

    /// Ends a container with SIGKILL; its supervisor first, if that does not answer.
    async fn end_at_once(&self, text: &str, view: &View) -> Result<ExitReport, EngineError> {
        let stop = || self.stop(text, Some(Signal::KILL), Some(Duration::ZERO), AskedBy::Remove);
        let limit = REMOVAL_LIMIT;
        let running = || EngineError::StillRunning { container: view.title(), limit };
        match tokio::time::timeout(limit, stop()).await.map_err(|_| running())? {
            Err(EngineError::Unreachable { .. }) => {
                tracing::warn!(
                    supervisor = view.record.supervisor.pid,
                    "the supervisor does not answer; killing it"
                );
                kill_process(&view.record.supervisor, &self.host.boot_id);
                tokio::time::timeout(limit, stop()).await.map_err(|_| running())?
            }
            ended => ended,
        }
    }

    /// Takes away what there is of a container whose record cannot be read.
    async fn discard(&self, container: &ContainerDir) -> Result<(), EngineError> {
        let stop = Request::Stop { signal: Some(Signal::KILL), grace_ms: Some(0), by: AskedBy::Remove };
        // A supervisor that lives ends it best; there is usually none.
        let _ = ask(container, stop, Some(DISCARD_PATIENCE)).await;
        let Some(_lock) = wait_for_lock(container).await? else { return Ok(()) };
        // Where it was, the record would have said: its cgroup is known by the id in its name.
        let cgroups = crate::cgroup::find(&self.host.cgroups, &container.id);
        let cgroup =
            cgroups.first().cloned().unwrap_or_else(|| CgroupPath::of_container(&container.id, None));
        for (name, root) in self.own_roots() {
            let mut errors = vec![];
            let marks = Marks {
                id: &container.id,
                root: &root,
                cgroups: &self.host.cgroups,
                cgroup: Some(&cgroup),
                with_strays: false,
            };
            if let Err(error) = end_everything(marks) {
                tracing::warn!(%error, "processes are left of a container whose record is damaged");
            }
            // A root that is named after no runtime was one of a binary given by its path, which nobody knows now.
            if let Ok((_, binary)) = locate(&name, std::env::var_os("PATH").as_deref()) {
                let config = RuntimeConfig {
                    name,
                    binary,
                    root: root.clone(),
                    platform: None,
                    start_limit: DEFAULT_START_LIMIT,
                };
                let runtime = crate::runtime::open(config, &self.state.cache()).await?;
                let target = OwnedTarget::bare(container);
                let remains = Remains {
                    host: &self.host,
                    runtime: runtime.as_ref(),
                    container,
                    target: &target,
                    cgroup: Some(&cgroup),
                };
                clear_away(remains, Clearing::ByRuntime, &mut errors).await;
            }
            if let Err(error) = remove_state_leftovers(&root, &container.id) {
                tracing::warn!(root = %root.display(), %error, "the runtime's state is left");
            }
            for error in errors {
                tracing::warn!(%error, "something is left of a container whose record is damaged");
            }
        }
        if let Err(error) = crate::cgroup::remove_leftovers(&self.host.cgroups, &cgroup) {
            tracing::warn!(%error, "a cgroup is left of a container whose record is damaged");
        }
        self.state.release_all_names(&container.id)?;
        Ok(self.state.remove_container(container)?)
    }
}

/// Kills exactly the process that is meant, if it is there, and waits until it is gone.
fn kill_process(named: &ProcessId, boot_id: &str) {
    let Ok(process) = PidFd::open(named.pid) else { return };
    if named.is_alive(boot_id) {
        // ESRCH: it has gone by itself.
        let _ = process.signal(Signal::KILL);
        let _ = process.wait_ended(QUERY_LIMIT);
    }
}

/// Waits until the supervisor has let go of a container. `None` when the container's folder is gone.
async fn wait_for_lock(container: &ContainerDir) -> Result<Option<ContainerLock>, EngineError> {
    let waiting = container.clone();
    let lock = tokio::task::spawn_blocking(move || ContainerLock::wait(&waiting));
    let kernel = |source| EngineError::Kernel { what: "the container's lock", source };
    match tokio::time::timeout(REMOVAL_LIMIT, lock).await {
        Ok(Ok(Ok(lock))) => Ok(Some(lock).filter(|_| container.path().exists())),
        Ok(Ok(Err(StateError::File { source, .. }))) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(error)) => Err(kernel(io::Error::other(error))),
        Err(_) => Err(EngineError::StillRunning {
            container: container.id.short().to_owned(),
            limit: REMOVAL_LIMIT,
        }),
    }
}
