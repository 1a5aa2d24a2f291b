//! The task that owns a container from the runtime's first call on.
//!
//! ```text
//!   make ──ok──> watch ──> finish ──> report
//!     └──error──> unmake ──> StartError
//! ```
//!
//! Invariant: only this task changes the container; everybody else sends a [`Command`].

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::console::{ConsoleSocket, with_terminal};
use super::control::{self, Answer, Command, Request};
use super::finish::{Remains, clear_away, complete, forget, runtime_words};
use super::stdio::{Pumps, StdioPlan, pipes};
use crate::bundle::read_config;
use crate::error::{Code, Diagnose, Failure};
use crate::exit::{
    AskedBy, Cause, Death, ExitReport, HelperDeath, ProcessEnd, REPORT_VERSION, SentSignal, decide,
};
use crate::fault::{self, Fault};
use crate::host::HostFacts;
use crate::id::ContainerId;
use crate::lifecycle::{Status, Verb};
use crate::process::{Claim, ClaimError, Reaper};
use crate::request::Limits;
use crate::rootfs::{Rootfs, check_process};
use crate::runtime::{CreateCall, KillScope, Runtime, RuntimeError, RuntimeFlags, Target};
use crate::signal::Signal;
use crate::spec::SpecView;
use crate::state::{ContainerDir, ContainerLock, ProcessId, Record, StateDir, StateError};
use crate::sys::PidFd;

/// How long a sandbox may live on after its gofer was killed, before it is ended too.
const GOFER_GRACE: Duration = Duration::from_secs(2);
/// How long the report waits for a slow reader of the container's output, before it is written without the last bytes.
const REPORT_PATIENCE: Duration = Duration::from_millis(100);

/// What a runtime is told of a container, owned.
#[derive(Debug, Clone)]
pub(crate) struct OwnedTarget {
    id: ContainerId,
    flags: RuntimeFlags,
    log: PathBuf,
}

impl OwnedTarget {
    pub(crate) fn of(container: &ContainerDir, record: &Record) -> Self {
        Self { id: container.id.clone(), flags: record.flags.clone(), log: container.runtime_log() }
    }

    /// For a container of which nothing but the id is known.
    pub(crate) fn bare(container: &ContainerDir) -> Self {
        Self { id: container.id.clone(), flags: RuntimeFlags::default(), log: container.runtime_log() }
    }

    pub(crate) fn target(&self) -> Target<'_> {
        Target { id: &self.id, flags: &self.flags, log: &self.log }
    }
}

/// How far a launch goes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Until the process waits to be started.
    Create,
    /// Until the process runs.
    Run,
}

/// Everything that a supervisor begins with: a folder, locked, with its bundle and its record.
#[derive(Debug)]
pub(crate) struct Launching {
    pub(crate) state: StateDir,
    pub(crate) host: Arc<HostFacts>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) container: ContainerDir,
    pub(crate) lock: ContainerLock,
    pub(crate) record: Record,
    pub(crate) stdio: StdioPlan,
    pub(crate) mode: Mode,
}

/// What there is once a container has been made.
#[derive(Debug)]
pub struct Started {
    /// The pid of its process, or of its sandbox.
    pub pid: i32,
    /// The other side of its terminal, for its size.
    pub terminal: Option<OwnedFd>,
}

/// A container that could not be made. Everything that had been made was unmade.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The kernel refused something that supervision needs.
    #[error("the container cannot be supervised: {what}")]
    Supervision {
        /// What was refused.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The caller gave up.
    #[error("the launch was cancelled")]
    Cancelled,
    /// A test made a step fail.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Diagnose for StartError {
    fn code(&self) -> Code {
        match self {
            Self::Runtime(error) => error.code(),
            Self::Supervision { .. } | Self::Fault(_) => Code::Internal,
            Self::State(error) => error.code(),
            Self::Cancelled => Code::Cancelled,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Runtime(error) => error.next_step(),
            Self::State(error) => error.next_step(),
            Self::Supervision { .. } | Self::Cancelled | Self::Fault(_) => None,
        }
    }
}

pub(crate) fn supervision(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Supervision { what, source }
}

/// The task's state.
#[derive(Debug)]
pub(crate) struct Supervisor {
    state: StateDir,
    host: Arc<HostFacts>,
    runtime: Arc<dyn Runtime>,
    container: ContainerDir,
    /// Given back when the supervisor ends: the last thing that it does.
    _lock: ContainerLock,
    record: Record,
    target: OwnedTarget,
    reaper: &'static Reaper,
    sent: Vec<SentSignal>,
    timed_out: Option<Duration>,
    start_failure: Option<Failure>,
    kill_at: Option<(Instant, AskedBy)>,
    end_at: Option<Instant>,
    /// Callers who wait for the end.
    waiting: Vec<oneshot::Sender<Answer>>,
}

/// A container that the runtime has made.
#[derive(Debug)]
struct Made {
    init: Claim,
    gofer: Option<Claim>,
    pumps: Pumps,
    terminal: Option<OwnedFd>,
}

impl Supervisor {
    /// Supervises a container to its end. `started` is told of the launch, once; the report is the result.
    ///
    /// The launch is cancelled and unmade when `cancelled` resolves before it is complete.
    pub(crate) async fn supervise(
        launching: Launching,
        commands: (mpsc::Sender<Command>, mpsc::Receiver<Command>),
        started: oneshot::Sender<Result<Started, StartError>>,
        cancelled: oneshot::Receiver<()>,
    ) -> Option<ExitReport> {
        let Launching { state, host, runtime, container, lock, record, stdio, mode } = launching;
        let reaper = match Reaper::get() {
            Ok(reaper) => reaper,
            Err(error) => {
                forget(&state, &container, &record, &mut vec![]);
                // The caller may have gone.
                let _ = started.send(Err(supervision("no child subreaper")(error)));
                return None;
            }
        };
        let target = OwnedTarget::of(&container, &record);
        let mut supervisor = Self {
            state,
            host,
            runtime,
            container,
            _lock: lock,
            record,
            target,
            reaper,
            sent: vec![],
            timed_out: None,
            start_failure: None,
            kill_at: None,
            end_at: None,
            waiting: vec![],
        };
        let (sender, mut receiver) = commands;
        let made = tokio::select! {
            made = supervisor.make(stdio, mode) => made,
            _ = cancelled => Err(StartError::Cancelled),
        };
        let mut made = match made {
            Ok(made) => made,
            Err(error) => {
                supervisor.unmake().await;
                // The caller may have gone.
                let _ = started.send(Err(error));
                return None;
            }
        };
        let server = match supervisor.listen() {
            Ok(listener) => tokio::spawn(control::serve(listener, sender)),
            Err(error) => {
                supervisor.unmake().await;
                // The caller may have gone.
                let _ = started.send(Err(error));
                return None;
            }
        };
        // The caller may have gone; the container stays.
        let _ = started.send(Ok(Started { pid: made.init.pid, terminal: made.terminal.take() }));
        let death = supervisor.watch(&mut made, &mut receiver).await;
        let report = supervisor.finish(made.pumps, death, &mut receiver).await;
        server.abort();
        Some(report)
    }

    fn listen(&self) -> Result<UnixListener, StartError> {
        fault::reached("launch.socket")?;
        UnixListener::bind(self.container.control_socket()).map_err(supervision("no control socket"))
    }

    /// Calls the runtime and takes over what it has made.
    async fn make(&mut self, stdio: StdioPlan, mode: Mode) -> Result<Made, StartError> {
        // From here on the statuses of processes that we did not start are kept: the container may be dead before
        // its pid is known.
        let _window = self.reaper.open_window();
        let terminal = self.record.terminal;
        let (theirs, ours) =
            pipes(stdio.stdin.is_some() && !terminal).map_err(supervision("no pipes for its streams"))?;
        let console = if terminal {
            let socket = ConsoleSocket::bind(&self.container.console_socket());
            Some(socket.map_err(supervision("no socket for its terminal"))?)
        } else {
            None
        };
        let (bundle, pid_file) = (self.container.bundle(), self.container.pid_file());
        let runtime = Arc::clone(&self.runtime);
        let call = CreateCall {
            target: self.target.target(),
            bundle: &bundle,
            pid_file: &pid_file,
            console_socket: console.as_ref().map(ConsoleSocket::path),
            stdio: theirs,
        };
        let call = async {
            match mode {
                Mode::Create => runtime.create(call).await,
                Mode::Run => runtime.run(call).await,
            }
        };
        let (pid, master) = with_terminal(call, console.as_ref(), &ours).await?;
        fault::reached("launch.made")?;
        let init = self.claim(pid)?;
        let gofer = if self.record.sandboxed { self.claim_gofer() } else { None };
        self.record.process = ProcessId::of(pid, &self.host.boot_id);
        self.record.status = if mode == Mode::Run { Status::Running } else { Status::Created };
        if mode == Mode::Run {
            self.has_started();
        }
        fault::reached("launch.claimed")?;
        self.container.write_record(&self.record)?;
        let terminal =
            master.as_ref().map(OwnedFd::try_clone).transpose().map_err(supervision("its terminal"))?;
        let pumps = Pumps::start(ours, stdio, master).map_err(supervision("no threads for its streams"))?;
        Ok(Made { init, gofer, pumps, terminal })
    }

    fn has_started(&mut self) {
        self.record.started = Some(Timestamp::now());
        self.end_at = self.record.stopping.timeout.map(|limit| Instant::now() + limit);
    }

    fn claim(&self, pid: i32) -> Result<Claim, StartError> {
        self.reaper.claim(pid).map_err(|error| match error {
            ClaimError::Handle { source, .. } => supervision("its process cannot be held")(source),
            ClaimError::NotOurs(_) | ClaimError::Taken(_) => StartError::Runtime(RuntimeError::Pid {
                program: self.runtime.config().binary.clone(),
                verb: "create",
                why: error.to_string(),
            }),
        })
    }

    /// Finds the process that serves a sandbox its files. A sandbox that is dead already has none to lose.
    fn claim_gofer(&self) -> Option<Claim> {
        let is_gofer =
            |pid: &i32| crate::proc::arguments(*pid).first().is_some_and(|name| name == "runsc-gofer");
        let pid = self.reaper.strays().into_iter().find(is_gofer)?;
        self.reaper.claim(pid).ok()
    }

    /// Waits for the end of the container and serves callers meanwhile.
    async fn watch(&mut self, made: &mut Made, commands: &mut mpsc::Receiver<Command>) -> Death {
        let pid = made.init.pid;
        let mut helper = None;
        let mut gofer = made.gofer.take();
        let end = loop {
            let deadline = [self.kill_at.map(|(at, _)| at), self.end_at].into_iter().flatten().min();
            tokio::select! {
                biased;
                end = &mut made.init.end => break end,
                end = gofer_end(gofer.as_mut()) => {
                    gofer = None;
                    if let Some(death) = end {
                        tracing::warn!(gofer = %death.helper, "the sandbox lost its gofer");
                        helper = Some(death);
                        self.kill_at = Some((Instant::now() + GOFER_GRACE, AskedBy::Stop));
                    }
                }
                () = sleep_until(deadline) => self.on_deadline(made, helper.is_some()).await,
                Some(command) = commands.recv() => self.handle(command, made).await,
            }
        };
        Death {
            pid,
            end: end.expect("the reaper's thread lives as long as the process and answers every watch"),
            from_pidfd: false,
            sandboxed: self.record.sandboxed,
            sent: std::mem::take(&mut self.sent),
            timed_out: self.timed_out,
            memory: None,
            oom_line: None,
            helper,
        }
    }

    async fn on_deadline(&mut self, made: &Made, gofer_is_dead: bool) {
        let now = Instant::now();
        if let Some((at, by)) = self.kill_at
            && at <= now
        {
            self.kill_at = None;
            if gofer_is_dead {
                // Not a signal that anybody asked for: the evidence is the gofer's death.
                if let Some(process) = &made.init.pidfd {
                    // ESRCH: it has just ended.
                    let _ = process.signal(Signal::KILL);
                }
                return;
            }
            self.thaw().await;
            self.send(made, Signal::KILL, !self.record.own_pid_namespace, by)
                .await
                .unwrap_or_else(log_failure);
        }
        if self.end_at.is_some_and(|at| at <= now) {
            self.end_at = None;
            self.timed_out = self.record.stopping.timeout;
            let (signal, grace) = (self.record.stopping.signal, self.record.stopping.grace);
            self.begin_stop(made, signal, grace, AskedBy::Timeout).await.unwrap_or_else(log_failure);
        }
    }

    async fn handle(&mut self, command: Command, made: &Made) {
        let Command { request, reply } = command;
        let outcome = match request {
            Request::Wait => {
                self.waiting.push(reply);
                return;
            }
            Request::Stop { signal, grace_ms, by } => {
                let stopping = self.record.stopping;
                let grace = grace_ms.map_or(stopping.grace, Duration::from_millis);
                match self.begin_stop(made, signal.unwrap_or(stopping.signal), grace, by).await {
                    Ok(()) => {
                        self.waiting.push(reply);
                        return;
                    }
                    Err(failure) => Err(failure),
                }
            }
            Request::Kill { signal, all, by } => match self.check(Verb::Kill) {
                Ok(()) => self.send(made, signal, all, by).await,
                Err(failure) => Err(failure),
            },
            Request::Start => self.start(made).await,
            Request::Pause => self.pause().await,
            Request::Resume => self.resume().await,
            Request::Update { limits } => self.update(&limits).await,
        };
        // The caller may have gone.
        let _ = reply.send(match outcome {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        });
    }

    fn check(&self, verb: Verb) -> Result<(), Failure> {
        let name = self
            .record
            .name
            .as_ref()
            .map_or_else(|| self.container.id.short().to_owned(), ToString::to_string);
        self.record.status.check(verb, &name).map_err(|error| Failure::of(&error))
    }

    /// Writes down what has changed. The container goes on when that fails; the next command asks us, not the disk.
    fn note(&mut self, status: Status) {
        self.record.status = status;
        if let Err(error) = self.container.write_record(&self.record) {
            tracing::warn!(error = %Failure::of(&error), "the record could not be written");
        }
    }

    async fn start(&mut self, made: &Made) -> Result<(), Failure> {
        self.check(Verb::Start)?;
        let started = match self.look_again() {
            Ok(()) => self.runtime.start(self.target.target()).await.map_err(|error| Failure::of(&error)),
            Err(failure) => Err(failure),
        };
        match started {
            Ok(()) => {
                self.has_started();
                self.note(Status::Running);
                Ok(())
            }
            Err(failure) => {
                self.start_failure = Some(failure.clone());
                // runsc's sandbox has ended by itself; runc's process still waits.
                if let Some(process) = &made.init.pidfd {
                    // ESRCH: it has ended.
                    let _ = process.signal(Signal::KILL);
                }
                self.remains().end_processes(true, &mut vec![]);
                Err(failure)
            }
        }
    }

    /// Whether the command is still there: under runc, one that has gone since looks like the container's own exit 1.
    fn look_again(&self) -> Result<(), Failure> {
        let (Ok(rootfs), Ok(config)) =
            (Rootfs::open(&self.record.rootfs), read_config(&self.container.bundle()))
        else {
            return Ok(());
        };
        check_process(&rootfs, SpecView::of(&config), &self.host).map_err(|error| Failure::of(&error))
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        self.check(Verb::Pause)?;
        self.runtime.pause(self.target.target()).await.map_err(|error| Failure::of(&error))?;
        self.note(Status::Paused);
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), Failure> {
        self.check(Verb::Resume)?;
        self.runtime.resume(self.target.target()).await.map_err(|error| Failure::of(&error))?;
        self.note(Status::Running);
        Ok(())
    }

    async fn update(&mut self, limits: &Limits) -> Result<(), Failure> {
        self.check(Verb::Update)?;
        let scratch = self.container.path();
        self.runtime
            .update(self.target.target(), limits, scratch)
            .await
            .map_err(|error| Failure::of(&error))?;
        self.record.limits = self.record.limits.overlaid_with(limits);
        self.note(self.record.status);
        Ok(())
    }

    /// A frozen container cannot be ended: thaw it first.
    async fn thaw(&mut self) {
        if self.record.status == Status::Paused {
            self.resume().await.unwrap_or_else(log_failure);
        }
    }

    async fn begin_stop(
        &mut self,
        made: &Made,
        signal: Signal,
        grace: Duration,
        by: AskedBy,
    ) -> Result<(), Failure> {
        self.thaw().await;
        let started = self.record.status != Status::Created;
        // A process that has not started has no handler for the signal, and nothing to lose.
        let (signal, grace) = if started { (signal, grace) } else { (Signal::KILL, Duration::ZERO) };
        self.kill_at = Some((Instant::now() + grace, by));
        self.send(made, signal, false, by).await
    }

    /// Sends a signal and remembers it: it decides how an ambiguous end is read.
    async fn send(&mut self, made: &Made, signal: Signal, all: bool, by: AskedBy) -> Result<(), Failure> {
        // Before it is sent: the container may be dead when the call returns.
        self.sent.push(SentSignal { signal, by, at: Timestamp::now() });
        let Some(process) = &made.init.pidfd else { return Ok(()) };
        // SIGKILL to the sandbox works even when it hangs; other signals are for the guest inside.
        let direct = !all && (!self.record.sandboxed || signal == Signal::KILL);
        let result = if direct {
            return signal_directly(process, signal);
        } else {
            let scope = if all { KillScope::All } else { KillScope::Init };
            self.runtime.kill(self.target.target(), signal, scope).await
        };
        match result {
            Ok(()) => Ok(()),
            // It ended between the question and the answer.
            Err(_) if process.has_ended().unwrap_or(false) => Ok(()),
            Err(error) => {
                self.sent.pop();
                Err(Failure::of(&error))
            }
        }
    }

    fn remains(&self) -> Remains<'_> {
        Remains {
            host: &self.host,
            runtime: self.runtime.as_ref(),
            container: &self.container,
            target: &self.target,
            cgroup: self.record.cgroup.as_ref(),
        }
    }

    /// Takes away everything that a launch has made. Errors are logged: the launch's own error is the one to report.
    async fn unmake(&self) {
        let mut errors = vec![];
        let remains = self.remains();
        remains.end_processes(true, &mut errors);
        remains.end_children(self.reaper, &mut errors).await;
        clear_away(remains, &mut errors).await;
        forget(&self.state, &self.container, &self.record, &mut errors);
        for error in errors {
            tracing::error!(container = %self.container.id, %error, "a failed launch left something behind");
        }
    }

    /// Evidence, report, clean-up, in this order.
    async fn finish(
        mut self,
        mut pumps: Pumps,
        mut death: Death,
        commands: &mut mpsc::Receiver<Command>,
    ) -> ExitReport {
        let ended = Timestamp::now();
        pumps.container_ended();
        let mut cleanup = vec![];
        if !self.record.own_pid_namespace {
            self.remains().end_processes(true, &mut cleanup);
        }
        self.remains().end_children(self.reaper, &mut cleanup).await;
        let counters = self.remains().read_counters();
        complete(&mut death, &counters, self.record.process.as_ref());
        let (mut cause, mut asked_by, mut evidence) = decide(&death);
        if let Some(failure) = self.start_failure.take() {
            (cause, asked_by) = (Cause::StartFailed { failure }, None);
        }
        if matches!(cause, Cause::RuntimeLost { .. } | Cause::StartFailed { .. }) {
            evidence.extend(runtime_words(&self.container));
        }
        let drained = tokio::time::timeout(REPORT_PATIENCE, pumps.finished()).await.is_ok();
        let mut report = ExitReport {
            version: REPORT_VERSION,
            id: self.container.id.clone(),
            name: self.record.name.clone(),
            runtime: self.record.runtime.name.clone(),
            cause,
            asked_by,
            evidence,
            started: self.record.started,
            ended,
            usage: counters.usage,
            stdio: pumps.report(),
            cleanup,
        };
        self.write_report(&mut report);
        clear_away(self.remains(), &mut report.cleanup).await;
        if !drained {
            // The container is gone; only its last output waits for its reader, however long that takes.
            pumps.finished().await;
        }
        report.stdio = pumps.report();
        self.conclude(&mut report, drained);
        self.answer_all(&report, commands);
        report
    }

    fn write_report(&mut self, report: &mut ExitReport) {
        if let Err(error) = self.container.write_report(report) {
            report.cleanup.push(Failure::of(&error));
        }
        self.note(Status::Stopped);
        if let Err(error) = fault::reached("end.reported") {
            tracing::debug!(%error, "a test");
        }
    }

    /// Forgets the container, or completes its report on disk.
    fn conclude(&mut self, report: &mut ExitReport, drained: bool) {
        if let Err(error) = fault::reached("end.deleted") {
            tracing::debug!(%error, "a test");
        }
        if self.record.remove {
            forget(&self.state, &self.container, &self.record, &mut report.cleanup);
        } else if (!report.cleanup.is_empty() || !drained)
            && let Err(error) = self.container.write_report(report)
        {
            report.cleanup.push(Failure::of(&error));
        }
    }

    fn answer_all(&mut self, report: &ExitReport, commands: &mut mpsc::Receiver<Command>) {
        commands.close();
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Ok(Command { request, reply }) = commands.try_recv() {
            match request {
                Request::Wait | Request::Stop { .. } => waiting.push(reply),
                Request::Start
                | Request::Kill { .. }
                | Request::Pause
                | Request::Resume
                | Request::Update { .. } => {
                    let failure = self.check(Verb::Kill).err();
                    // The caller may have gone.
                    let _ = reply.send(failure.map_or(Answer::Done, Answer::Failed));
                }
            }
        }
        for reply in waiting {
            // The caller may have gone.
            let _ = reply.send(Answer::Ended(Box::new(report.clone())));
        }
    }
}

/// Resolves when the gofer has ended; with its death if that was not a plain exit. Never, without a gofer.
async fn gofer_end(gofer: Option<&mut Claim>) -> Option<HelperDeath> {
    let Some(gofer) = gofer else { return std::future::pending().await };
    let end = (&mut gofer.end).await.ok()?;
    // A gofer exits by itself when the sandbox closes its connection, which may be seen before the sandbox's end.
    (end != ProcessEnd::Exited(0)).then(|| HelperDeath { helper: format!("gofer (pid {})", gofer.pid), end })
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn signal_directly(process: &PidFd, signal: Signal) -> Result<(), Failure> {
    match process.signal(signal) {
        // It ended meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Ok(()) => Ok(()),
        Err(error) => Err(Failure {
            code: Code::Internal,
            what: format!("{signal} could not be sent"),
            why: vec![error.to_string()],
            next: None,
        }),
    }
}

fn log_failure(failure: Failure) {
    tracing::warn!(%failure, "a request could not be carried out");
}
