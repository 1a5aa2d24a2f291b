//! The task that owns a container from the runtime's first call on.
//!
//! ```text
//!   make ──ok──> watch ──> finish ──> report
//!     └──error──> unmake ──> StartError
//! ```
//!
//! Invariant: only this task changes the container; everybody else sends a [`Command`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::console::{ConsoleSocket, with_terminal};
use super::control::{Answer, Command, Until};
use super::error::{StartError, supervision};
use super::hub::Hub;
use super::limits::TimeLimits;
use super::network::Serving;
use super::probing::Probing;
use super::remains::{Remains, clear_away, forget};
use super::stdio::{OurEnds, Outputs, Pumps, StdioPlan, pipes};
use super::streams::{copies, outlast};
use super::target::OwnedTarget;
use crate::cgroup::{MemoryCounters, OomWatch, UsageWatch};
use crate::error::Failure;
use crate::event::Happening;
use crate::exit::{AskedBy, ExitReport};
use crate::fault;
use crate::health::Health;
use crate::host::HostFacts;
use crate::keeper::Keeping;
use crate::lifecycle::{Status, Verb};
use crate::network::HeldPorts;
use crate::process::{Claim, ClaimError, Reaper, Seat};
use crate::runtime::{Clearing, ContainerStdio, CreateCall, Runtime, RuntimeError};
use crate::state::{ContainerDir, ContainerLock, ProcessId, Record, StateDir};

/// How long after a record could not be written it is tried again.
pub(super) const NOTE_PAUSE: Duration = Duration::from_secs(1);
/// Events that wait for room on the disk at most. The end of the container is not among them: it always waits.
const UNTOLD_LIMIT: usize = 1024;

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
    /// Whether nobody waits for the result: what is not written down is lost.
    pub(crate) unattended: bool,
    /// Where what must outlast this process is kept.
    pub(crate) keeping: Keeping,
    pub(crate) reaper: &'static Reaper,
    pub(crate) seat: Seat,
}

/// What there is once a container has been made.
#[derive(Debug)]
pub struct Started {
    /// The pid of its process, or of its sandbox; `None` where it waits to be started again.
    pub pid: Option<i32>,
    /// The other side of its terminal, for its size.
    pub terminal: Option<OwnedFd>,
}

/// The task's state.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(super) state: StateDir,
    pub(super) host: Arc<HostFacts>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) container: ContainerDir,
    /// Given back when the supervisor ends: the last thing that it does.
    _lock: ContainerLock,
    pub(super) record: Record,
    pub(super) unattended: bool,
    pub(super) keeping: Keeping,
    /// Whether the container had another supervisor, and is thus not our child.
    pub(super) adopted: bool,
    pub(super) target: OwnedTarget,
    pub(super) reaper: &'static Reaper,
    _seat: Seat,
    pub(super) timed_out: Option<Duration>,
    pub(super) start_failure: Option<Failure>,
    pub(super) kill_at: Option<(Instant, AskedBy)>,
    pub(super) limits: TimeLimits,
    /// What its cgroup had counted when it was looked at last.
    pub(super) counted: Option<MemoryCounters>,
    /// When the CPU quota is to hold.
    pub(super) quota_at: Option<Instant>,
    /// Whether what watches the usage of memory is to begin anew.
    pub(super) memory_limit_has_changed: bool,
    /// When the record is written again, which could not be.
    pub(super) note_at: Option<Instant>,
    /// The probes of its health, while it runs and if there are any.
    pub(super) probing: Option<Probing>,
    /// Events that could not be written down yet, oldest first.
    pub(super) untold: Vec<Happening>,
    /// Callers who wait for something.
    pub(super) waiting: Vec<(Until, oneshot::Sender<Answer>)>,
    /// The report of the last run, while the next one has not ended.
    pub(super) last_report: Option<ExitReport>,
    /// Its ports of the host, so that no other program takes them.
    pub(super) held_ports: HeldPorts,
    /// Its gate, while it runs and has one.
    pub(super) serving: Option<Serving>,
}

/// A container that the runtime has made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) init: Claim,
    pub(super) gofer: Option<Claim>,
    pub(super) pumps: Pumps,
    pub(super) terminal: Option<OwnedFd>,
    /// Tells of out-of-memory kills.
    pub(super) oom: Option<OomWatch>,
    /// Tells that memory gets short.
    pub(super) warning: Option<UsageWatch>,
}

impl Supervisor {
    /// Supervises a container to its end. `started` is told of the launch, once; the report is the result.
    ///
    /// The launch is cancelled and unmade when `cancelled` resolves before it is complete.
    pub(crate) async fn supervise(
        launching: Launching,
        (sender, commands): (mpsc::Sender<Command>, mpsc::Receiver<Command>),
        started: oneshot::Sender<Result<Started, StartError>>,
        cancelled: oneshot::Receiver<()>,
    ) -> Option<ExitReport> {
        let (mut supervisor, stdio, mode) = Self::new(launching);
        let hub = Arc::<Hub>::default();
        let made = tokio::select! {
            made = supervisor.make(stdio, mode, &sender, &hub) => made,
            _ = cancelled => Err(StartError::Cancelled),
        };
        let opened = made.and_then(|made| Ok((made, supervisor.listen()?)));
        let (made, listener) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let error = supervisor.explain(error);
                supervisor.unmake(&error).await;
                // The caller may have gone.
                let _ = started.send(Err(error));
                return None;
            }
        };
        supervisor.tell_made(&made);
        Some(supervisor.attend(Some(made), listener, (sender, commands), started, hub).await)
    }

    pub(super) fn new(launching: Launching) -> (Self, StdioPlan, Mode) {
        let Launching {
            state,
            host,
            runtime,
            container,
            lock,
            record,
            stdio,
            mode,
            unattended,
            keeping,
            reaper,
            seat,
        } = launching;
        let target = OwnedTarget::of(&container, &record);
        let supervisor = Self {
            state,
            host,
            runtime,
            container,
            _lock: lock,
            record,
            unattended,
            keeping,
            adopted: false,
            target,
            reaper,
            _seat: seat,
            timed_out: None,
            start_failure: None,
            kill_at: None,
            limits: TimeLimits::default(),
            counted: None,
            quota_at: None,
            memory_limit_has_changed: false,
            note_at: None,
            probing: None,
            untold: vec![],
            waiting: vec![],
            last_report: None,
            held_ports: HeldPorts::default(),
            serving: None,
        };
        (supervisor, stdio, mode)
    }

    pub(super) fn listen(&self) -> Result<UnixListener, StartError> {
        fault::reached("launch.socket")?;
        UnixListener::bind(self.container.control_socket()).map_err(supervision("no control socket"))
    }

    /// Calls the runtime and takes over what it has made.
    pub(super) async fn make(
        &mut self,
        mut stdio: StdioPlan,
        mode: Mode,
        commands: &mpsc::Sender<Command>,
        hub: &Arc<Hub>,
    ) -> Result<Made, StartError> {
        let log = self.open_log(commands)?;
        let journald = self.open_journald()?;
        self.connect().await?;
        // From here on the statuses of processes that we did not start are kept: the container may be dead before
        // its pid is known.
        let _window = self.reaper.open_window();
        let terminal = self.record.terminal;
        let (theirs, ours) = self.make_pipes(&stdio).map_err(supervision("no pipes for its streams"))?;
        let journal = self.open_journal()?;
        let console = if terminal {
            let socket = ConsoleSocket::bind(&self.container.console_socket());
            Some(socket.map_err(supervision("no socket for its terminal"))?)
        } else {
            None
        };
        let (bundle, pid_file) = (self.container.bundle(), self.container.pid_file());
        let call = CreateCall {
            target: self.target.target(),
            bundle: &bundle,
            pid_file: &pid_file,
            console_socket: console.as_ref().map(ConsoleSocket::path),
            stdio: theirs,
        };
        let call = self.make_by_runtime(call, mode);
        let (pid, master) = with_terminal(call, console.as_ref(), &ours).await?;
        fault::reached("launch.made")?;
        let init = self.claim(pid)?;
        self.check_place(pid)?;
        let gofer = if self.record.sandboxed { self.claim_gofer() } else { None };
        // One that is dead already may have lost its pid to another.
        self.record.process = init.pidfd.as_ref().and_then(|_| ProcessId::of(pid, &self.host.boot_id));
        self.record.status = if mode == Mode::Run { Status::Running } else { Status::Created };
        if mode == Mode::Run {
            self.has_started();
        }
        fault::reached("launch.claimed")?;
        self.container.write_record(&self.record)?;
        self.keeping.keep(copies(&init, &ours, master.as_ref())).await;
        let copy =
            || master.as_ref().map(OwnedFd::try_clone).transpose().map_err(supervision("its terminal"));
        let terminal = copy()?;
        hub.connect(stdio.input.take(), copy()?);
        let outputs = Outputs { log, journald, journal, outlasts: self.is_outlasted(), hub: Arc::clone(hub) };
        let pumps =
            Pumps::start(ours, stdio, master, &outputs).map_err(supervision("no threads for its streams"))?;
        self.keep_counters();
        let (oom, warning) = (self.watch_memory(), self.watch_usage());
        Ok(Made { init, gofer, pumps, terminal, oom, warning })
    }

    /// Makes the container's pipes, which outlast this process if it is in the background.
    fn make_pipes(&mut self, stdio: &StdioPlan) -> std::io::Result<(ContainerStdio, OurEnds)> {
        let (theirs, ours) = pipes(stdio.stdin.is_some() && !self.record.terminal)?;
        if !self.is_outlasted() {
            return Ok((theirs, ours));
        }
        let (theirs, ids) = outlast(theirs, stdio.input.is_some())?;
        self.record.pipes = ids;
        Ok((theirs, ours))
    }

    /// Tells of a container that has been made.
    pub(super) fn tell_made(&mut self, made: &Made) {
        self.tell(Happening::Create { runtime: self.record.runtime.name.clone(), pid: made.init.pid });
        if self.record.started.is_some() {
            self.tell(Happening::Start);
        }
        self.answer_those_who_wait();
    }

    pub(super) fn has_started(&mut self) {
        self.record.started = Some(Timestamp::now());
        self.record.health = self.record.health_check.as_ref().map(|_| Health::default());
        self.limit_run();
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

    pub(super) fn check(&self, verb: Verb) -> Result<(), Failure> {
        self.record.status.check(verb, &self.record.title()).map_err(|error| Failure::of(&error))
    }

    /// Writes down what has changed. The container goes on when that fails; the next command asks us, not the disk.
    pub(super) fn note(&mut self, status: Status) {
        self.record.status = status;
        self.note_at = None;
        if let Err(error) = self.container.write_record(&self.record) {
            tracing::warn!(error = %Failure::of(&error), "the record could not be written; trying again");
            self.note_at = Some(Instant::now() + NOTE_PAUSE);
        }
        self.flush_events();
        self.answer_those_who_wait();
    }

    /// Writes down what has happened. The container goes on when that fails; it is tried again.
    pub(super) fn tell(&mut self, what: Happening) {
        if self.untold.len() >= UNTOLD_LIMIT {
            tracing::warn!(%what, "an event is lost: too many wait to be written down");
            return;
        }
        self.untold.push(what);
        self.flush_events();
    }

    /// Writes down what has not been; says whether nothing is left.
    pub(super) fn flush_events(&mut self) -> bool {
        while let Some(what) = self.untold.first() {
            let told = self.state.append_event(&self.container.id, self.record.name.as_ref(), what.clone());
            if let Err(error) = told {
                tracing::warn!(error = %Failure::of(&error), "an event could not be written down; trying again");
                self.note_at = Some(Instant::now() + NOTE_PAUSE);
                return false;
            }
            self.untold.remove(0);
        }
        true
    }

    pub(super) fn remains(&self) -> Remains<'_> {
        Remains::of(&self.record, &self.container, &self.target, Some(self.runtime.as_ref()), &self.host)
    }

    /// What a launch failed for, if the runtime's own words do not say it: a memory limit that was too small for it.
    pub(super) fn explain(&self, error: StartError) -> StartError {
        let StartError::Runtime(source @ RuntimeError::Failed(..)) = error else { return error };
        match self.remains().read_counters().memory.filter(|memory| memory.oom_kill > 0) {
            Some(counters) => {
                let (sandboxed, counters) = (self.record.sandboxed, Box::new(counters));
                StartError::OutOfMemory { sandboxed, counters, source }
            }
            None => StartError::Runtime(source),
        }
    }

    /// Takes away everything that a launch has made. Errors are logged: the launch's own error is the one to report.
    async fn unmake(&self, cause: &StartError) {
        self.take_back(cause).await;
        self.keeping.done().await;
        let mut errors = vec![];
        forget(&self.state, &self.container, &self.record, None, &mut errors);
        self.log_leftovers(errors);
    }

    /// Takes away what the runtime has made of a container that could not be made.
    pub(super) async fn take_back(&self, cause: &StartError) {
        let mut errors = vec![];
        // A runtime that hung once is not called again where that is not needed.
        let clearing = match cause {
            StartError::Cancelled | StartError::Runtime(RuntimeError::TimedOut { .. }) => {
                self.record.clearing
            }
            _ => Clearing::ByRuntime,
        };
        let remains = self.remains();
        remains.end_processes(true, &mut errors).await;
        remains.end_children(self.reaper, &mut errors).await;
        clear_away(remains, clearing, &mut errors).await;
        self.log_leftovers(errors);
    }

    fn log_leftovers(&self, errors: Vec<Failure>) {
        for error in errors {
            tracing::error!(container = %self.container.id, %error, "a failed launch left something behind");
        }
    }
}
