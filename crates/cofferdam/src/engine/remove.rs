//! Forgetting a container, whatever state it and its supervisor are in.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::{Engine, EngineError, View};
use crate::cgroup::CgroupPath;
use crate::error::Failure;
use crate::event::Happening;
use crate::exit::{AskedBy, ExitReport};
use crate::fault;
use crate::lifecycle::Verb;
use crate::network::end_attachment;
use crate::rootfs::overlay;
use crate::runtime::{Clearing, DEFAULT_START_LIMIT, QUERY_LIMIT, RuntimeConfig, locate};
use crate::signal::Signal;
use crate::state::{ContainerDir, ContainerLock, ProcessId, StateError};
use crate::supervise::control::{Request, ask};
use crate::supervise::{
    Marks, OwnedTarget, Remains, clear_away, discard_rootfs, end_everything, remove_state_leftovers,
};
use crate::sys::PidFd;
use crate::volume::{doom_volumes, remove_volumes};

/// How long a container that was killed may take to be gone.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);
/// How long the supervisor of a damaged record may take to end it.
const DISCARD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a supervisor whose container has ended may keep its lock when it is to be removed by force.
const FORCE_PATIENCE: Duration = Duration::from_secs(3);

/// How long a supervisor may take to say that a container has ended whose record does not say so.
const UNWRITTEN_PATIENCE: Duration = Duration::from_millis(100);
/// How many supervisors that do not answer a removal ends: the keeper starts a new one for each.
const SUPERVISORS: u32 = 3;

/// What a removal found.
#[derive(Debug, Clone, PartialEq)]
pub enum RemoveOutcome {
    /// The container is forgotten.
    Removed {
        /// Its report.
        report: Option<Box<ExitReport>>,
        /// What could not be taken away.
        left: Vec<Failure>,
    },
    /// Its record could not be read; what there was of it has been removed.
    Discarded(Failure),
}

impl Engine {
    /// Forgets a container that has ended; with `force`, ends it first. Its volumes stay.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn remove(&self, text: &str, force: bool) -> Result<RemoveOutcome, EngineError> {
        self.remove_container(text, force, false).await
    }

    /// The same, and its volumes without a name go with it, unless others use them.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn remove_with_volumes(&self, text: &str, force: bool) -> Result<RemoveOutcome, EngineError> {
        self.remove_container(text, force, true).await
    }

    async fn remove_container(
        &self,
        text: &str,
        force: bool,
        with_volumes: bool,
    ) -> Result<RemoveOutcome, EngineError> {
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
        // Before anything is ended: its supervisor may have the only word of that.
        self.state.check_writable()?;
        let report = match view.report.clone() {
            None if view.status().is_live() => Some(Box::pin(self.end(&view, force)).await?),
            report => report,
        };
        let Some(_lock) = self.lock_ended(&view, force).await? else {
            // It was removed by its own supervisor (--rm), or by another command.
            return Ok(RemoveOutcome::Removed { report: report.map(Box::new), left: vec![] });
        };
        fault::reached("remove.locked").map_err(Failure::from)?;
        let left = self.clear_again(&view).await?;
        if let Some(failure) = left.first().filter(|_| !force) {
            return Err(EngineError::Leftover { container: view.title(), failure: failure.clone() });
        }
        if with_volumes {
            doom_volumes(&view.container, &view.record)?;
            fault::reached("remove.volumes").map_err(Failure::from)?;
            remove_volumes(&view.container, &view.record)?;
        }
        if let Some(name) = &view.record.name {
            self.state.release_name(name, &view.container.id)?;
        }
        self.state.remove_sessions_of(&view.container.id);
        discard_rootfs(&view.record).map_err(|error| Failure::of(&error))?;
        self.state.remove_container(&view.container)?;
        // There may have been no space for it before.
        if let Some(report) = &report {
            self.tell_end(&view.record, Happening::end(report));
        }
        self.tell(&view.record, Happening::Remove);
        Ok(RemoveOutcome::Removed { report: report.map(Box::new), left })
    }

    /// Tries once more where the container's clean-up had failed; says what is left. The caller has its lock.
    async fn clear_again(&self, view: &View) -> Result<Vec<Failure>, EngineError> {
        match view.container.read_record()? {
            Some(record) if !record.cleared => Ok(self.clear_remains(&view.container, &record).await),
            _ => Ok(vec![]),
        }
    }

    /// Ends a container that is running by its record, by force alone.
    async fn end(&self, view: &View, force: bool) -> Result<ExitReport, EngineError> {
        if force {
            return self.end_at_once(view).await;
        }
        // It may have ended, and its supervisor have no space to write that down.
        let ended = self.wait(view.container.id.as_str(), Some(UNWRITTEN_PATIENCE)).await;
        if ended.is_err() {
            view.status().check(Verb::Remove, &view.title())?;
        }
        ended
    }

    /// Ends a container with SIGKILL; its supervisor first, if that does not answer.
    async fn end_at_once(&self, view: &View) -> Result<ExitReport, EngineError> {
        let id = view.container.id.as_str();
        let stop = || self.stop(id, Some(Signal::KILL), Some(Duration::ZERO), AskedBy::Remove);
        let limit = REMOVAL_LIMIT;
        let running = || EngineError::StillRunning { container: view.title(), limit };
        let mut last = None;
        for _ in 0..SUPERVISORS {
            match tokio::time::timeout(limit, stop()).await.map_err(|_| running())? {
                Err(error @ EngineError::Unreachable { .. }) => last = Some(error),
                ended => return ended,
            }
            self.kill_supervisor(view)?;
        }
        Err(last.unwrap_or_else(running))
    }

    /// Kills the supervisor that a container has now: the keeper may have found it a new one meanwhile.
    fn kill_supervisor(&self, view: &View) -> Result<(), StateError> {
        let record = view.container.read_record()?;
        let supervisor = record.map_or_else(|| view.record.supervisor.clone(), |record| record.supervisor);
        tracing::warn!(supervisor = supervisor.pid, "the supervisor does not answer; killing it");
        kill_process(&supervisor, &self.host.boot_id);
        Ok(())
    }

    /// Takes the lock of a container that has ended; `None` when its folder is gone. With `force`, or where only its own
    /// log is left to be written, a supervisor that keeps it is told to let go, and killed if it does not.
    async fn lock_ended(&self, view: &View, force: bool) -> Result<Option<ContainerLock>, EngineError> {
        let container = &view.container;
        // Of what goes into its own log, nobody else has anything: that is about to be removed as well.
        let is_ours = view.record.log.is_some();
        let patience = if force {
            FORCE_PATIENCE / 10
        } else if is_ours {
            FORCE_PATIENCE
        } else {
            REMOVAL_LIMIT
        };
        if let Some(lock) = lock_of(container, patience).await? {
            return Ok(lock);
        }
        if force || is_ours {
            // It may not answer, which the next look shows.
            let _ = ask(container, kill_request(), Some(FORCE_PATIENCE)).await;
            for _ in 0..SUPERVISORS {
                if let Some(lock) = lock_of(container, FORCE_PATIENCE).await? {
                    return Ok(lock);
                }
                self.kill_supervisor(view)?;
            }
            if let Some(lock) = lock_of(container, DISCARD_PATIENCE).await? {
                return Ok(lock);
            }
        }
        Err(EngineError::StillRunning { container: view.title(), limit: patience })
    }

    /// Takes away what there is of a container whose record cannot be read.
    async fn discard(&self, container: &ContainerDir) -> Result<(), EngineError> {
        // A supervisor that lives ends it best; there is usually none.
        let _ = ask(container, kill_request(), Some(DISCARD_PATIENCE)).await;
        let Some(lock) = lock_of(container, REMOVAL_LIMIT).await? else {
            let container = container.id.short().to_owned();
            return Err(EngineError::StillRunning { container, limit: REMOVAL_LIMIT });
        };
        let Some(_lock) = lock else { return Ok(()) };
        // Where it was, the record would have said: its cgroup is known by the id in its name.
        let cgroups = crate::cgroup::find(&self.host.cgroups, &container.id);
        let cgroup =
            cgroups.first().cloned().unwrap_or_else(|| CgroupPath::of_container(&container.id, None));
        for (name, root) in self.own_roots() {
            self.discard_from(container, &cgroup, name, root).await?;
        }
        if let Err(error) = crate::cgroup::remove_leftovers(&self.host.cgroups, &cgroup) {
            tracing::warn!(%error, "a cgroup is left of a container whose record is damaged");
        }
        Box::pin(end_attachment(&self.network_dir(), &container.id))
            .await
            .map_err(|error| Failure::of(&error))?;
        self.state.release_all_names(&container.id)?;
        overlay::discard(&self.rootfs_dir(), &container.id).map_err(|error| Failure::of(&error))?;
        Ok(self.state.remove_container(container)?)
    }

    /// Takes away what one state root may have of such a container.
    pub(super) async fn discard_from(
        &self,
        container: &ContainerDir,
        cgroup: &CgroupPath,
        name: String,
        root: PathBuf,
    ) -> Result<(), EngineError> {
        let mut errors = vec![];
        // The root is named after the binary.
        let program = OsString::from(&name);
        let marks = Marks {
            id: &container.id,
            root: &root,
            program: &program,
            cgroups: &self.host.cgroups,
            cgroup: Some(cgroup),
            with_strays: false,
        };
        if let Err(error) = end_everything(marks).await {
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
                runtime: Some(runtime.as_ref()),
                root: &root,
                program: &program,
                container,
                target: &target,
                cgroup: Some(cgroup),
                headroom_bytes: 0,
                connection: None,
            };
            clear_away(remains, Clearing::ByRuntime, &mut errors).await;
        }
        if let Err(error) = remove_state_leftovers(&root, &container.id) {
            tracing::warn!(root = %root.display(), %error, "the runtime's state is left");
        }
        for error in errors {
            tracing::warn!(%error, "something is left of a container whose record is damaged");
        }
        Ok(())
    }
}

fn kill_request() -> Request {
    Request::Stop { signal: Some(Signal::KILL), grace_ms: Some(0), by: AskedBy::Remove }
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

/// Takes the lock of a container. The first `None` is one that somebody keeps, the second one whose folder is gone.
async fn lock_of(
    container: &ContainerDir,
    limit: Duration,
) -> Result<Option<Option<ContainerLock>>, StateError> {
    match ContainerLock::within(container, limit).await {
        Ok(lock) => Ok(lock.map(Some)),
        Err(error) if error.is_gone() => Ok(Some(None)),
        Err(error) => Err(error),
    }
}
