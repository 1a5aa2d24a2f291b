//! The verbs on a container: through its supervisor, or without one where it has died.

use std::io;
use std::time::Duration;

use super::{Engine, EngineError, View};
use crate::cgroup::CgroupPath;
use crate::error::Failure;
use crate::exit::{AskedBy, ExitReport};
use crate::lifecycle::{Status, Verb, WrongState};
use crate::request::Limits;
use crate::runtime::{
    DEFAULT_START_LIMIT, KillScope, ProcessInfo, QUERY_LIMIT, Runtime, RuntimeConfig, RuntimeState, locate,
};
use crate::signal::Signal;
use crate::state::{ContainerDir, ContainerLock, ProcessId, Record, StateError};
use crate::supervise::control::{Answer, Request, ask};
use crate::supervise::{Marks, OwnedTarget, Remains, clear_away, end_everything, remove_state_leftovers};
use crate::sys::PidFd;

/// How long a container that was killed may take to be gone.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);
/// How much longer than its grace an end may take, clean-up included.
const ENDING_SLACK: Duration = Duration::from_secs(30);
/// How often a question is asked again of a container whose supervisor went away while it was asked.
const ATTEMPTS: usize = 5;

/// What a removal found.
#[derive(Debug, Clone, PartialEq)]
pub enum RemoveOutcome {
    /// The container is forgotten; it had ended like this.
    Removed(Option<Box<ExitReport>>),
    /// Its record could not be read; what there was of it has been removed.
    Discarded(Failure),
}

/// What asking the supervisor led to.
enum Asked {
    Done,
    Ended(Box<ExitReport>),
    /// There is no supervisor.
    Orphan(Box<View>),
}

impl Engine {
    /// Asks a container's supervisor; falls back to the container as it is then found when there is none.
    async fn ask(&self, text: &str, view: View, request: &Request) -> Result<Asked, EngineError> {
        let mut view = view;
        let mut unreachable = None;
        for _ in 0..ATTEMPTS {
            if let Some(report) = &view.report {
                return Ok(Asked::Ended(Box::new(report.clone())));
            }
            if !view.supervised {
                return Ok(Asked::Orphan(Box::new(view)));
            }
            match ask(&view.container, request.clone(), patience(&view.record, request)).await {
                Ok(Some(Answer::Done)) => return Ok(Asked::Done),
                Ok(Some(Answer::Ended(report))) => return Ok(Asked::Ended(report)),
                Ok(Some(Answer::Failed(failure))) => return Err(failure.into()),
                // It is being made, is ending, or has died: look again.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(EngineError::Unreachable { container: view.title(), source: Some(error) });
                }
                Err(error) => unreachable = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            view = self.find(text).await?;
        }
        Err(EngineError::Unreachable { container: view.title(), source: unreachable })
    }

    /// Starts the process of a created container.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn start(&self, text: &str) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        view.status().check(Verb::Start, &title)?;
        match self.ask(text, view, &Request::Start).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(Verb::Start, title)),
            // Nobody would see it end.
            Asked::Orphan(_) => Err(EngineError::Unreachable { container: title, source: None }),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn kill(&self, text: &str, signal: Signal, all: bool) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        view.status().check(Verb::Kill, &title)?;
        match self.ask(text, view, &Request::Kill { signal, all, by: AskedBy::Kill }).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(Verb::Kill, title)),
            Asked::Orphan(view) => {
                let scope = if all { KillScope::All } else { KillScope::Init };
                self.signal_orphan(&view, signal, scope).await
            }
        }
    }

    /// Ends a container: a signal, a time of grace, SIGKILL. One that has ended already is left as it is.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn stop(
        &self,
        text: &str,
        signal: Option<Signal>,
        grace: Option<Duration>,
        by: AskedBy,
    ) -> Result<ExitReport, EngineError> {
        let view = self.find(text).await?;
        let stopping = view.record.stopping;
        let grace_ms = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        match self.ask(text, view, &Request::Stop { signal, grace_ms, by }).await? {
            Asked::Ended(report) => Ok(*report),
            Asked::Orphan(view) => {
                let (signal, grace) = (signal.unwrap_or(stopping.signal), grace.unwrap_or(stopping.grace));
                self.stop_orphan(*view, signal, grace, by).await
            }
            Asked::Done => self.wait(text, None).await,
        }
    }

    /// Waits for the end of a container, at most for `limit`.
    ///
    /// Cancel safe: giving up changes nothing.
    ///
    /// # Errors
    /// [`EngineError::StillRunning`] when the limit is reached.
    pub async fn wait(&self, text: &str, limit: Option<Duration>) -> Result<ExitReport, EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        let waiting = async {
            match self.ask(text, view, &Request::Wait).await? {
                Asked::Ended(report) => Ok(*report),
                Asked::Orphan(view) => self.wait_orphan(*view).await,
                Asked::Done => Err(EngineError::Unreachable { container: title.clone(), source: None }),
            }
        };
        match limit {
            None => waiting.await,
            Some(limit) => tokio::time::timeout(limit, waiting)
                .await
                .map_err(|_| EngineError::StillRunning { container: title.clone(), limit })?,
        }
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn pause(&self, text: &str) -> Result<(), EngineError> {
        self.freeze(text, Verb::Pause, &Request::Pause).await
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn resume(&self, text: &str) -> Result<(), EngineError> {
        self.freeze(text, Verb::Resume, &Request::Resume).await
    }

    async fn freeze(&self, text: &str, verb: Verb, request: &Request) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        view.status().check(verb, &title)?;
        match self.ask(text, view, request).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(verb, title)),
            Asked::Orphan(mut view) => {
                let _lock = ContainerLock::attempt(&view.container)?
                    .ok_or(EngineError::Unreachable { container: title, source: None })?;
                let runtime = self.runtime_of(&view.record).await?;
                let target = OwnedTarget::of(&view.container, &view.record);
                let status = if verb == Verb::Pause {
                    runtime.pause(target.target()).await?;
                    Status::Paused
                } else {
                    runtime.resume(target.target()).await?;
                    Status::Running
                };
                view.record.status = status;
                Ok(view.container.write_record(&view.record)?)
            }
        }
    }

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

    /// Changes limits of a container.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn update(&self, text: &str, limits: &Limits) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        view.status().check(Verb::Update, &title)?;
        match self.ask(text, view, &Request::Update { limits: *limits }).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(Verb::Update, title)),
            Asked::Orphan(mut view) => {
                let _lock = ContainerLock::attempt(&view.container)?
                    .ok_or(EngineError::Unreachable { container: title, source: None })?;
                let runtime = self.runtime_of(&view.record).await?;
                let target = OwnedTarget::of(&view.container, &view.record);
                runtime.update(target.target(), limits, view.container.path()).await?;
                view.record.limits = view.record.limits.overlaid_with(limits);
                Ok(view.container.write_record(&view.record)?)
            }
        }
    }

    /// The processes of a container.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn processes(&self, text: &str) -> Result<Vec<ProcessInfo>, EngineError> {
        let (_, runtime, target) = self.live(text, Verb::Top).await?;
        Ok(runtime.ps(target.target()).await?)
    }

    /// A container's state in the form of the OCI runtime specification. The truth is ours: gVisor calls a container
    /// running whose sandbox is a zombie.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn oci_state(&self, text: &str) -> Result<RuntimeState, EngineError> {
        let view = self.find(text).await?;
        let pid = view.record.process.as_ref().map(|process| process.pid);
        Ok(RuntimeState {
            id: view.container.id.to_string(),
            status: view.status(),
            pid: pid.filter(|_| view.status().is_live()),
            bundle: view.container.bundle(),
        })
    }

    /// Takes away what there is of a container whose record cannot be read.
    async fn discard(&self, container: &ContainerDir) -> Result<(), EngineError> {
        let stop = Request::Stop { signal: Some(Signal::KILL), grace_ms: Some(0), by: AskedBy::Remove };
        // A supervisor that lives ends it best; there is usually none.
        let _ = ask(container, stop, Some(ENDING_SLACK)).await;
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
                clear_away(remains, &mut errors).await;
            }
            remove_state_leftovers(&root, &container.id);
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

    pub(super) async fn live(
        &self,
        text: &str,
        verb: Verb,
    ) -> Result<(View, std::sync::Arc<dyn Runtime>, OwnedTarget), EngineError> {
        let view = self.find(text).await?;
        view.status().check(verb, &view.title())?;
        let runtime = self.runtime_of(&view.record).await?;
        let target = OwnedTarget::of(&view.container, &view.record);
        Ok((view, runtime, target))
    }
}

/// How long a supervisor may take to answer; `None` is for ever.
fn patience(record: &Record, request: &Request) -> Option<Duration> {
    match request {
        Request::Wait => None,
        Request::Stop { grace_ms, .. } => {
            let grace = grace_ms.map_or(record.stopping.grace, Duration::from_millis);
            Some(grace.saturating_add(ENDING_SLACK))
        }
        // Each is one call of the runtime, or two.
        Request::Start => Some(record.runtime.start_limit.saturating_add(QUERY_LIMIT)),
        Request::Kill { .. } | Request::Pause | Request::Resume | Request::Update { .. } => {
            Some(QUERY_LIMIT * 2)
        }
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

fn has_ended(verb: Verb, container: String) -> EngineError {
    WrongState { container, verb, status: Status::Stopped }.into()
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
