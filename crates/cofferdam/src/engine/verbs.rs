//! The verbs on a container: through its supervisor, or without one where it has died.

use std::io;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use super::{Engine, EngineError, View};
use crate::event::Happening;
use crate::exit::{AskedBy, ExitReport};
use crate::lifecycle::{Status, Verb, WrongState};
use crate::request::Limits;
use crate::runtime::{KillScope, ProcessInfo, QUERY_LIMIT, Runtime, RuntimeState};
use crate::signal::Signal;
use crate::state::{ContainerLock, Record, StateError};
use crate::supervise::control::{Answer, Request, Until, ask, hold};
use crate::supervise::{OwnedTarget, change_limits};

/// How much longer than its grace an end may take, clean-up included.
const ENDING_SLACK: Duration = Duration::from_secs(30);
/// How long a supervisor may hold the lock of a container that has been made, without listening: it is ending it.
pub(super) const AWAY_LIMIT: Duration = Duration::from_secs(5);
/// How long after a look another one is taken.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Thaws a container when it is dropped ([`Engine::thaw_after`]).
#[derive(Debug)]
pub struct Thaw {
    /// Its supervisor sees that it is closed, also by a SIGKILL.
    _connection: Option<UnixStream>,
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
    async fn ask(&self, mut view: View, request: &Request) -> Result<Asked, EngineError> {
        let begun = Instant::now();
        let (container, title) = (view.container.clone(), view.title());
        loop {
            if let Some(report) = &view.report {
                return Ok(Asked::Ended(Box::new(report.clone())));
            }
            if !view.supervised {
                return Ok(Asked::Orphan(Box::new(view)));
            }
            // It would take the question and never answer. Whoever waits may wait for it to go on.
            if !matches!(request, Request::Wait { .. })
                && view.record.supervisor.is_stopped(&self.host.boot_id)
            {
                let source = io::Error::other("it is stopped (SIGSTOP)");
                return Err(EngineError::Unreachable { container: title, source: Some(source) });
            }
            let unreachable = match ask(&container, request.clone(), patience(&view.record, request)).await {
                Ok(Some(Answer::Done)) => return Ok(Asked::Done),
                Ok(Some(Answer::Ended(report))) => return Ok(Asked::Ended(report)),
                Ok(Some(Answer::Failed(failure))) => return Err(failure.into()),
                // It is being made, is ending, or has died: look again. Nobody attaches here.
                Ok(None | Some(Answer::Attached { .. })) => None,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(EngineError::Unreachable { container: title, source: Some(error) });
                }
                Err(error) => Some(error),
            };
            let limit = match view.record.status {
                Status::Creating => view.record.runtime.start_limit.saturating_add(ENDING_SLACK),
                _ => AWAY_LIMIT,
            };
            if begun.elapsed() >= limit {
                return Err(EngineError::Unreachable { container: title, source: unreachable });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            // By its folder and not by what the user typed, which may come to mean another one.
            view = match self.view(container.clone()).await? {
                Some(view) => view,
                None => {
                    // It asked to be forgotten (--rm), and whoever has closed it has done so.
                    let report = self.state.kept_report(container.id.as_str());
                    let gone = || StateError::NoSuchContainer(title.clone());
                    return report.map(|report| Asked::Ended(Box::new(report))).ok_or_else(|| gone().into());
                }
            };
        }
    }

    /// Starts the process of a created container.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn start(&self, text: &str) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        match self.ask(view, &Request::Start).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(Verb::Start, title)),
            // Nobody would see it end.
            Asked::Orphan(view) => {
                view.status().check(Verb::Start, &title)?;
                Err(EngineError::Unreachable { container: title, source: None })
            }
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn kill(&self, text: &str, signal: Signal, all: bool) -> Result<(), EngineError> {
        self.kill_by(text, signal, all, AskedBy::Kill).await
    }

    /// Sends a signal on somebody's behalf.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn kill_by(
        &self,
        text: &str,
        signal: Signal,
        all: bool,
        by: AskedBy,
    ) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        match self.ask(view, &Request::Kill { signal, all, by }).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(Verb::Kill, title)),
            Asked::Orphan(view) => {
                view.status().check(Verb::Kill, &title)?;
                let scope = if all { KillScope::All } else { KillScope::Init };
                self.signal_orphan(&view, signal, scope, by).await
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
        let (title, stopping) = (view.title(), view.record.stopping);
        let grace_ms = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        match self.ask(view, &Request::Stop { signal, grace_ms, by }).await? {
            Asked::Ended(report) => Ok(*report),
            Asked::Orphan(view) => {
                let (signal, grace) = (signal.unwrap_or(stopping.signal), grace.unwrap_or(stopping.grace));
                self.stop_orphan(*view, signal, grace, by).await
            }
            Asked::Done => Err(EngineError::Unreachable { container: title, source: None }),
        }
    }

    /// Waits for the end of a container, at most for `limit`.
    ///
    /// Cancel safe: giving up changes nothing.
    ///
    /// # Errors
    /// [`EngineError::StillRunning`] when the limit is reached.
    pub async fn wait(&self, text: &str, limit: Option<Duration>) -> Result<ExitReport, EngineError> {
        let ended = self.wait_until(text, Until::Exit, limit).await?;
        ended.ok_or_else(|| EngineError::Unreachable { container: text.to_owned(), source: None })
    }

    /// Waits until something is true of a container, at most for `limit`; gives its report where it has ended for good,
    /// which ends every wait.
    ///
    /// Cancel safe: giving up changes nothing.
    ///
    /// # Errors
    /// [`EngineError::StillRunning`] when the limit is reached.
    pub async fn wait_until(
        &self,
        text: &str,
        until: Until,
        limit: Option<Duration>,
    ) -> Result<Option<ExitReport>, EngineError> {
        let view = match self.find(text).await {
            Err(EngineError::State(StateError::NoSuchContainer(_)))
                if self.state.kept_report(text).is_some() =>
            {
                return Ok(self.state.kept_report(text));
            }
            view => view?,
        };
        let title = view.title();
        let waiting = async {
            match self.ask(view, &Request::Wait { until }).await? {
                Asked::Done => Ok(None),
                Asked::Ended(report) => Ok(Some(*report)),
                Asked::Orphan(view) if until == Until::Running && view.status() == Status::Running => {
                    Ok(None)
                }
                Asked::Orphan(view) => self.wait_orphan(*view).await.map(Some),
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

    /// Has a container thawed when what this gives is dropped, or this process dies. To be asked for before it is frozen for a
    /// while. A container without a supervisor is left as it is.
    pub async fn thaw_after(&self, view: &View) -> Thaw {
        Thaw { _connection: hold(&view.container, true).await }
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
        match self.ask(view, request).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(verb, title)),
            Asked::Orphan(mut view) => {
                view.status().check(verb, &title)?;
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
                let what = if verb == Verb::Pause { Happening::Pause } else { Happening::Unpause };
                self.tell(&view.record, what);
                Ok(view.container.write_record(&view.record)?)
            }
        }
    }

    /// Changes limits of a container.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn update(&self, text: &str, limits: &Limits) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        match self.ask(view, &Request::Update { limits: limits.clone() }).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(Verb::Update, title)),
            Asked::Orphan(mut view) => {
                view.status().check(Verb::Update, &title)?;
                let _lock = ContainerLock::attempt(&view.container)?
                    .ok_or(EngineError::Unreachable { container: title, source: None })?;
                let runtime = self.runtime_of(&view.record).await?;
                let target = OwnedTarget::of(&view.container, &view.record);
                let runtime = (runtime.as_ref(), target.target());
                let limits =
                    change_limits(runtime, &self.host, &view.container, &mut view.record, limits).await?;
                self.tell(&view.record, Happening::Update { limits });
                Ok(view.container.write_record(&view.record)?)
            }
        }
    }

    /// Changes what a container may reach that was started with `--egress`.
    ///
    /// # Errors
    /// [`EngineError`]; it is held to what it was held to.
    pub async fn change_egress(&self, text: &str, policy: &str) -> Result<(), EngineError> {
        let view = self.find(text).await?;
        let title = view.title();
        match self.ask(view, &Request::Egress { policy: policy.to_owned() }).await? {
            Asked::Done => Ok(()),
            Asked::Ended(_) => Err(has_ended(Verb::Update, title)),
            // Names are resolved by its supervisor alone, so it needs one.
            Asked::Orphan(_) => Err(EngineError::Unreachable { container: title, source: None }),
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

    /// What a container uses, in the runtime's own words (`events --stats`).
    ///
    /// # Errors
    /// [`EngineError`]; [`RuntimeError::Lacks`](crate::runtime::RuntimeError::Lacks) where the binary has no such
    /// command.
    pub async fn runtime_stats(&self, text: &str) -> Result<serde_json::Value, EngineError> {
        let (_, runtime, target) = self.live(text, Verb::Top).await?;
        Ok(runtime.stats(target.target()).await?)
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
        Request::Wait { .. } => None,
        Request::Stop { grace_ms, .. } => {
            let grace = grace_ms.map_or(record.stopping.grace, Duration::from_millis);
            Some(grace.saturating_add(ENDING_SLACK))
        }
        // Each is one call of the runtime, or two.
        Request::Start => Some(record.runtime.start_limit.saturating_add(QUERY_LIMIT)),
        Request::Kill { .. }
        | Request::Pause
        | Request::Resume
        | Request::Update { .. }
        | Request::Egress { .. }
        | Request::Attach { .. }
        | Request::Hold { .. } => Some(QUERY_LIMIT * 2),
    }
}

fn has_ended(verb: Verb, container: String) -> EngineError {
    WrongState { container, verb, status: Status::Stopped }.into()
}
