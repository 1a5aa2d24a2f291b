//! Sessions: processes in a container that are executed in the background, each with a monitor of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::net::UnixListener;

use super::exec::{ExecError, ExecRequest};
use super::logs::ContainerLog;
use super::monitor::{MonitorError, MonitorReply, MonitorTask};
use super::verbs::{AWAY_LIMIT, LOOK_AGAIN};
use super::{Engine, EngineError};
use crate::error::Failure;
use crate::event::Happening;
use crate::exit::{AskedBy, ExitReport};
use crate::id::ContainerId;
use crate::keeper::{Charge, KeeperProgram, Keeping};
use crate::lifecycle::{Status, Verb, WrongState};
use crate::logs::{LogConfig, LogWriter, ReadLimits};
use crate::request::StdioFiles;
use crate::runtime::DEFAULT_START_LIMIT;
use crate::signal::Signal;
use crate::state::{ContainerDir, ContainerLock, ProcessId, Record, SessionRecord, StateError, lock_is_free};
use crate::supervise::attach::attach;
use crate::supervise::control::{Answer, Request, Until, ask, hold};
use crate::supervise::exec::{ExecAdoption, ExecEnd, ExecLimit, ExecStart, Executing, Place};
use crate::supervise::session::{Session, report_of};
use crate::supervise::stdio::{Outputs, StdioPlan};
use crate::supervise::{
    Attached, Held, Journal, OwnedTarget, SharedLog, StartError, lost_session, supervision,
};

/// How much longer than the runtime a monitor may take to answer.
const MONITOR_SLACK: Duration = Duration::from_secs(30);
/// How long a session's supervisor may take to answer, and to end it after SIGKILL.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A session, and what is true of it now.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionView {
    /// Its folder.
    pub folder: ContainerDir,
    /// What is written down of it.
    pub record: SessionRecord,
    /// Whether it has a living supervisor.
    pub supervised: bool,
    /// How it ended, once it has.
    pub report: Option<ExitReport>,
}

impl Engine {
    /// Executes a process in a container in the background. The engine has to be one
    /// [with monitors](Engine::with_monitor). Gives the session's id.
    ///
    /// # Errors
    /// [`MonitorError`]; the container is not affected.
    pub async fn exec_in_background(
        &self,
        text: &str,
        request: ExecRequest,
        streams: StdioFiles,
    ) -> Result<ContainerId, MonitorError> {
        let container = self.state.find(text)?.id;
        let task = MonitorTask::Exec { container, request: Box::new(request), streams };
        match self.ask_monitor(task, DEFAULT_START_LIMIT.saturating_add(MONITOR_SLACK)).await? {
            MonitorReply::Made { id, .. } => Ok(id),
            MonitorReply::Failed(failure) => Err(failure.into()),
        }
    }

    /// In a monitor: starts a session.
    pub(super) async fn open_session(
        &self,
        container: &ContainerId,
        request: ExecRequest,
        streams: StdioFiles,
        keeper: KeeperProgram,
    ) -> Result<Session, MonitorError> {
        let id = ContainerId::generate();
        let (folder, lock) = self.state.create_session(&id)?;
        let keeping = Keeping::begin(self.state.clone(), keeper, Charge::Session(id.clone()));
        let opened = self.start_session(container, request, streams, (folder.clone(), lock, keeping)).await;
        if opened.is_err()
            && let Err(left) = self.state.remove_container(&folder)
        {
            tracing::error!(error = %Failure::of(&left), "the folder of a session is left");
        }
        opened
    }

    async fn start_session(
        &self,
        container: &ContainerId,
        request: ExecRequest,
        streams: StdioFiles,
        (folder, lock, keeping): (ContainerDir, ContainerLock, Keeping),
    ) -> Result<Session, MonitorError> {
        let log = LogConfig::default();
        let outputs = self.outputs_of(&folder, log, !request.terminal)?;
        let hub = Arc::clone(&outputs.hub);
        let stdio = StdioPlan::open(&streams)?;
        let (view, start, hold) = self.prepare_exec(container.as_str(), &request, stdio, outputs).await?;
        let listener = UnixListener::bind(folder.control_socket()).map_err(supervision("no control socket"));
        let listener = listener.map_err(ExecError::from)?;
        let start = ExecStart { keeping, ..start };
        let mut executing = Executing::start(start).await.map_err(ExecError::from)?;
        let record = SessionRecord {
            version: SessionRecord::VERSION,
            id: folder.id.clone(),
            container: container.clone(),
            runtime: view.record.runtime.name.clone(),
            command: request.args.clone(),
            terminal: request.terminal,
            process: ProcessId::of(executing.pid(), &self.host.boot_id),
            inside: executing.inside(),
            supervisor: self.own_process()?,
            log,
            streams,
            pipes: executing.pipes(),
            timeout: request.timeout.filter(|limit| !limit.is_zero()),
            started: Timestamp::now(),
        };
        if let Err(error) = folder.write_session(&record) {
            // Nobody would find it.
            let _ = executing.kill_tree(AskedBy::Kill).await;
            return Err(error.into());
        }
        let limit = request.limit();
        self.tell_exec(&view.record, request.args, executing.pid());
        let (state, container) = (self.state.clone(), view.record);
        Ok(Session { state, folder, lock, record, container, executing, hub, listener, limit, _hold: hold })
    }

    fn own_process(&self) -> Result<ProcessId, MonitorError> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let none = || MonitorError::Request("its own process is not in /proc".into());
        ProcessId::of(own, &self.host.boot_id).ok_or_else(none)
    }

    /// Where the output of a session goes.
    fn outputs_of(
        &self,
        folder: &ContainerDir,
        log: LogConfig,
        outlasts: bool,
    ) -> Result<Outputs, ExecError> {
        let no_log = supervision("its log cannot be opened");
        let writer = LogWriter::open(&self.state.logs_of(&folder.id), log).map_err(no_log)?;
        // The container goes on, whatever becomes of the log of a session.
        let log = SharedLog::new(writer, log.on_full, Box::new(|| {}));
        let journal = if outlasts {
            Some(Journal::open(&folder.journal()).map_err(supervision("its journal cannot be opened"))?)
        } else {
            None
        };
        Ok(Outputs { log: Some(log), journald: None, journal, outlasts, hub: Arc::default() })
    }

    /// In a monitor: becomes the supervisor of a session that lives without one.
    pub(super) async fn take_over_session(
        &self,
        id: &ContainerId,
        keeper: KeeperProgram,
    ) -> Result<Session, MonitorError> {
        let folder = self.state.session(id);
        let gone = || MonitorError::State(StateError::NoSuchSession(id.to_string()));
        let lock = ContainerLock::attempt(&folder)?;
        let lock = lock.ok_or_else(|| MonitorError::Request("it has a supervisor already".into()))?;
        let mut record = folder.read_session()?.ok_or_else(gone)?;
        if folder.read_report()?.is_some() {
            return Err(MonitorError::Request("it has ended".into()));
        }
        let container_folder = self.state.container(&record.container);
        let container = container_folder.read_record()?.ok_or_else(gone)?;
        let outputs = self.outputs_of(&folder, record.log, !record.terminal)?;
        let hub = Arc::clone(&outputs.hub);
        record.supervisor = self.own_process()?;
        folder.write_session(&record)?;
        // Of a dead supervisor.
        let _ = std::fs::remove_file(folder.control_socket());
        let listener = UnixListener::bind(folder.control_socket()).map_err(supervision("no control socket"));
        let listener = listener.map_err(ExecError::from)?;
        let keeping = Keeping::begin(self.state.clone(), keeper, Charge::Session(id.clone()));
        let executing =
            self.adopt_process((&folder, &record), (container_folder, &container), outputs, keeping).await?;
        let executing = executing.ok_or_else(|| MonitorError::Request("it has ended".into()))?;
        let limit = record.timeout.and_then(|limit| limit_since(limit, record.started));
        let (state, hold) = (self.state.clone(), hold(&self.state.container(&record.container), false).await);
        Ok(Session { state, folder, lock, record, container, executing, hub, listener, limit, _hold: hold })
    }

    async fn adopt_process(
        &self,
        (folder, record): (&ContainerDir, &SessionRecord),
        (container_folder, container): (ContainerDir, &Record),
        outputs: Outputs,
        keeping: Keeping,
    ) -> Result<Option<Executing>, MonitorError> {
        let kept = keeping.take().await.of(record.process.as_ref().map(|process| process.pid));
        let can_be = |process: &ProcessId| kept.process.is_some() || process.is_alive(&self.host.boot_id);
        let Some(process) = record.process.clone().filter(can_be) else {
            // Whoever asked may know more of its end.
            return Ok(None);
        };
        // Nobody knows how much of a file its predecessor had read.
        let stdio = StdioPlan::open(&StdioFiles { stdin: None, ..record.streams.clone() })?;
        let runtime =
            self.runtime_of(container).await.map_err(|error| ExecError::from(StartError::from(error)))?;
        let adoption = ExecAdoption {
            runtime,
            target: OwnedTarget::of(&container_folder, container),
            container: container_folder,
            process,
            inside: record.inside,
            pipes: record.pipes,
            stdio,
            place: Place::of(container),
            host: Arc::clone(&self.host),
            outputs,
            log: (self.state.logs_of(&folder.id), record.log),
            keeping,
            kept,
        };
        Ok(Executing::adopt(adoption).await.map_err(ExecError::from)?)
    }

    /// Finds a session by its id or the beginning of it. Repairs what a dead supervisor has left.
    ///
    /// # Errors
    /// [`EngineError::State`].
    pub async fn session(&self, text: &str) -> Result<SessionView, EngineError> {
        let folder = self.state.find_session(text)?;
        self.view_session(folder).await?.ok_or_else(|| StateError::NoSuchSession(text.to_owned()).into())
    }

    /// The sessions of a container, or of all, oldest first.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn sessions(&self, container: Option<&str>) -> Result<Vec<SessionView>, EngineError> {
        let container = container.map(|text| self.state.find(text)).transpose()?;
        let mut views = Vec::new();
        for folder in self.state.sessions()? {
            if let Some(view) = self.view_session(folder).await?
                && container.as_ref().is_none_or(|container| view.record.container == container.id)
            {
                views.push(view);
            }
        }
        views.sort_by(|a, b| (a.record.started, &a.folder.id).cmp(&(b.record.started, &b.folder.id)));
        Ok(views)
    }

    async fn view_session(&self, folder: ContainerDir) -> Result<Option<SessionView>, EngineError> {
        let free =
            lock_is_free(&folder).map_err(|source| EngineError::Kernel { what: "the lock", source })?;
        let Some(record) = folder.read_session()? else {
            if free && let Some(_lock) = ContainerLock::attempt(&folder)? {
                // Its maker died before it had written anything.
                self.state.remove_container(&folder)?;
            }
            return Ok(None);
        };
        let report = folder.read_report()?;
        if report.is_some() || !free {
            return Ok(Some(SessionView { folder, record, supervised: !free, report }));
        }
        self.repair_session(folder, record).await.map(Some)
    }

    /// Gives a session without a supervisor a new one, or a report.
    async fn repair_session(
        &self,
        folder: ContainerDir,
        record: SessionRecord,
    ) -> Result<SessionView, EngineError> {
        let boot_id = &self.host.boot_id;
        let held = record.process.as_ref().and_then(|process| Held::hold(process, boot_id));
        let lives = record.process.as_ref().is_some_and(|process| process.is_alive(boot_id));
        if lives || self.has_keeper().await {
            let task = MonitorTask::AdoptSession { id: folder.id.clone() };
            let supervised = self.ask_monitor(task, ANSWER_LIMIT).await.is_ok()
                || lock_is_free(&folder).is_ok_and(|free| !free);
            if lives || supervised {
                let (record, report) = (folder.read_session()?.unwrap_or(record), folder.read_report()?);
                return Ok(SessionView { folder, record, supervised, report });
            }
        }
        let end = match held {
            Some(held) => held.status().await,
            None => None,
        };
        let Some(_lock) = ContainerLock::attempt(&folder)? else {
            return Ok(SessionView { folder, record, supervised: true, report: None });
        };
        if let Some(report) = folder.read_report()? {
            return Ok(SessionView { folder, record, supervised: false, report: Some(report) });
        }
        let end = ExecEnd::of_orphan(record.process.as_ref().map_or(0, |process| process.pid), end, || {
            lost_session(&record)
        });
        let report = report_of(&record, &end);
        folder.write_report(&report)?;
        if let Some(container) = self.state.container(&record.container).read_record()? {
            let pid = record.process.as_ref().map_or(0, |process| process.pid);
            self.tell(&container, Happening::ExecExit { pid, cause: end.cause });
        }
        Ok(SessionView { folder, record, supervised: false, report: Some(report) })
    }

    /// Asks a session's supervisor; its report where it has ended.
    async fn ask_session(
        &self,
        text: &str,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<Answer, EngineError> {
        let mut view = self.session(text).await?;
        let (id, begun) = (view.folder.id.clone(), Instant::now());
        let unreachable =
            |source| EngineError::Unreachable { container: format!("session {}", id.short()), source };
        loop {
            if let Some(report) = view.report {
                return Ok(Answer::Ended(Box::new(report)));
            }
            match ask(&view.folder, request.clone(), limit).await {
                Ok(Some(Answer::Failed(failure))) => return Err(failure.into()),
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if begun.elapsed() < AWAY_LIMIT => tokio::time::sleep(LOOK_AGAIN).await,
                Ok(None) => return Err(unreachable(None)),
                Err(error) => return Err(unreachable(Some(error))),
            }
            let gone = || StateError::NoSuchSession(id.to_string());
            view = self.view_session(self.state.session(&id)).await?.ok_or_else(gone)?;
        }
    }

    /// Waits for the end of a session, at most for `limit`. Cancel safe.
    ///
    /// # Errors
    /// [`EngineError::StillRunning`] when the limit is reached.
    pub async fn wait_for_session(
        &self,
        text: &str,
        limit: Option<Duration>,
    ) -> Result<ExitReport, EngineError> {
        let still = |limit| EngineError::StillRunning { container: format!("session {text}"), limit };
        let waiting = self.ask_session(text, Request::Wait { until: Until::Exit }, None);
        let answer = match limit {
            None => waiting.await?,
            Some(limit) => tokio::time::timeout(limit, waiting).await.map_err(|_| still(limit))??,
        };
        match answer {
            Answer::Ended(report) => Ok(*report),
            _ => Err(EngineError::Unreachable { container: format!("session {text}"), source: None }),
        }
    }

    /// Sends a signal to the process of a session; SIGKILL to all that it has started, too.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn kill_session(&self, text: &str, signal: Signal, by: AskedBy) -> Result<(), EngineError> {
        let request = Request::Kill { signal, all: false, by };
        match self.ask_session(text, request, Some(ANSWER_LIMIT)).await? {
            Answer::Ended(_) => {
                let (container, verb) = (format!("session {text}"), Verb::Kill);
                Err(WrongState { container, verb, status: Status::Stopped }.into())
            }
            _ => Ok(()),
        }
    }

    /// Attaches to a session that has not ended.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn attach_to_session(
        &self,
        text: &str,
        input: bool,
    ) -> Result<(SessionView, Attached), EngineError> {
        let mut view = self.session(text).await?;
        let (id, begun) = (view.folder.id.clone(), Instant::now());
        let container = format!("session {}", id.short());
        let unreachable = |source| EngineError::Unreachable { container: container.clone(), source };
        loop {
            if view.report.is_some() {
                return Err(WrongState { container, verb: Verb::Attach, status: Status::Stopped }.into());
            }
            match attach(&view.folder, input).await.map_err(|error| unreachable(Some(error)))? {
                Some(attached) => return Ok((view, attached?)),
                // It is ending, or is being taken over.
                None if begun.elapsed() < AWAY_LIMIT => tokio::time::sleep(LOOK_AGAIN).await,
                None => return Err(unreachable(None)),
            }
            let gone = || StateError::NoSuchSession(id.to_string());
            view = self.view_session(self.state.session(&id)).await?.ok_or_else(gone)?;
        }
    }

    /// Opens what a session has written.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn session_logs(&self, text: &str, limits: ReadLimits) -> Result<ContainerLog, EngineError> {
        let view = self.session(text).await?;
        ContainerLog::of_session(self, view, limits)
    }

    /// Whether a session has ended and nobody will write to its log any more.
    pub(super) async fn session_is_over(&self, folder: ContainerDir) -> Result<bool, EngineError> {
        let view = self.view_session(folder).await?;
        Ok(view.is_none_or(|view| view.report.is_some() && !view.supervised))
    }

    /// Forgets a session that has ended, and what it wrote; with `force`, ends it first.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn remove_session(&self, text: &str, force: bool) -> Result<(), EngineError> {
        let view = self.session(text).await?;
        let id = view.folder.id.as_str();
        if view.report.is_none() {
            if !force {
                let (container, verb) = (format!("session {}", view.folder.id.short()), Verb::Remove);
                return Err(WrongState { container, verb, status: Status::Running }.into());
            }
            self.kill_session(id, Signal::KILL, AskedBy::Remove).await?;
            self.wait_for_session(id, Some(ANSWER_LIMIT)).await?;
        }
        // Its monitor lets go of it soon after its answer.
        let _lock = ContainerLock::within(&view.folder, ANSWER_LIMIT).await;
        Ok(self.state.remove_container(&view.folder)?)
    }
}

/// A limit in time that began then. A clock that was set back makes it longer, and never shorter than nothing.
fn limit_since(limit: Duration, since: Timestamp) -> Option<ExecLimit> {
    let passed = Timestamp::now().duration_since(since).try_into().unwrap_or_default();
    let at = tokio::time::Instant::now().checked_add(limit.saturating_sub(passed))?;
    Some(ExecLimit { at, limit })
}
