//! The monitor: a small process of its own that supervises one container and outlives whoever asked for it.
//!
//! The asker starts it (the same binary, in its hidden mode), writes one JSON request to its standard input and reads
//! one JSON answer from its standard output: the container is there, or it is not and why.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Engine;
use super::exec::{ExecError, ExecRequest};
use crate::error::{Code, Diagnose, Failure};
use crate::id::ContainerId;
use crate::keeper::{Charge, Keeper, KeeperProgram};
use crate::launch::LaunchError;
use crate::network::CniError;
use crate::process::{MonitorProcess, spawn_monitor};
use crate::request::{LaunchRequest, StdioFiles};
use crate::runtime::RuntimeConfig;
use crate::signal::Signal;
use crate::state::StateError;
use crate::supervise::session::Session;
use crate::supervise::stdio::{StdioPlan, StreamError};

/// Version of the request's format: both sides are the same binary, but an upgrade may come in between.
const MONITOR_VERSION: u32 = 3;
/// The longest request or answer, in bytes.
const MESSAGE_LIMIT: u64 = 16 << 20;
/// How much longer than the runtime a monitor may take to answer: it has to unmake a launch that failed.
const MONITOR_SLACK: Duration = Duration::from_secs(60);

/// The program that becomes a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorProgram {
    /// A binary that calls [`serve_monitor`].
    pub program: PathBuf,
    /// With these arguments.
    pub args: Vec<String>,
}

/// A container that is to run in the background.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetachRequest {
    /// The runtime.
    pub runtime: RuntimeConfig,
    /// The container.
    pub launch: LaunchRequest,
    /// Whether its process is started too.
    pub start: bool,
    /// Where its output goes.
    pub stdio: StdioFiles,
}

/// What a monitor is to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MonitorTask {
    /// Make a container.
    Launch(Box<DetachRequest>),
    /// Take one over.
    Adopt { id: ContainerId },
    /// Execute a process in a container.
    Exec { container: ContainerId, request: Box<ExecRequest>, streams: StdioFiles },
    /// Take such a process over.
    AdoptSession { id: ContainerId },
    /// Refill the pools of prepared attachments, and end.
    Refill,
    /// Be the keeper of the state directory.
    Keep,
}

impl From<Charge> for MonitorTask {
    fn from(charge: Charge) -> Self {
        match charge {
            Charge::Container(id) => Self::Adopt { id },
            Charge::Session(id) => Self::AdoptSession { id },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct MonitorRequest {
    version: u32,
    state_dir: PathBuf,
    data_dir: PathBuf,
    /// What it is itself, for the keeper.
    program: MonitorProgram,
    /// The soft limit of descriptors that it is to have, if that is not its maker's.
    descriptors: Option<u64>,
    task: MonitorTask,
}

/// A monitor's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorReply {
    /// The container is there.
    Made {
        /// Its id.
        id: ContainerId,
        /// The pid of its process, or of its sandbox; `None` where it waits to be started again.
        pid: Option<i32>,
        /// What the user should know.
        warnings: Vec<String>,
    },
    /// It is not, and nothing of it is left.
    Failed(Failure),
}

/// A monitor that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// It could not be started or talked to.
    #[error("the monitor could not be started")]
    Process(#[source] io::Error),
    /// This engine was not told which program is one.
    #[error("this engine has no monitor")]
    NoProgram,
    /// It ended without an answer.
    #[error("the monitor ended without an answer")]
    Silent,
    /// It took too long.
    #[error("the monitor did not answer within {}", crate::exit::format_duration(*.0))]
    TimedOut(Duration),
    /// It was asked for something wrong.
    #[error("the monitor does not understand its request: {0}")]
    Request(String),
    /// A file for the container's streams cannot be opened.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The launch failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The pools of networks could not be refilled.
    #[error(transparent)]
    Network(#[from] CniError),
    /// A process could not be executed in its container.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// What the monitor reported.
    #[error(transparent)]
    Reported(#[from] Failure),
}

impl Diagnose for MonitorError {
    fn code(&self) -> Code {
        match self {
            Self::Process(_) | Self::NoProgram | Self::Silent | Self::Request(_) => Code::Internal,
            Self::TimedOut(_) => Code::RuntimeTimedOut,
            Self::Stream(_) => Code::InvalidValue,
            Self::Launch(error) => error.code(),
            Self::Exec(error) => error.code(),
            Self::Network(error) => error.code(),
            Self::State(error) => error.code(),
            Self::Reported(failure) => failure.code,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Launch(error) => error.next_step(),
            Self::Exec(error) => error.next_step(),
            Self::Network(error) => Diagnose::next_step(error),
            Self::State(error) => error.next_step(),
            Self::Reported(failure) => failure.next.clone(),
            Self::Silent | Self::TimedOut(_) => {
                Some("`cofferdam ps --all` shows what there is; with nothing there, try again".into())
            }
            Self::Stream(_) => Some("of a FIFO, start the reader first".into()),
            Self::NoProgram => Some("make it with Engine::with_monitor".into()),
            Self::Process(_) | Self::Request(_) => None,
        }
    }
}

impl Engine {
    /// An engine that can start monitors: it makes containers in the background, and gives those a new supervisor whose
    /// own has died.
    #[must_use]
    pub fn with_monitor(self, monitor: MonitorProgram) -> Self {
        Self { monitor: Some(Arc::new(monitor)), ..self }
    }

    /// Makes a container that a monitor supervises. The engine has to be one [with monitors](Engine::with_monitor).
    ///
    /// When the future is dropped, or this process dies, before there is an answer, the monitor unmakes what it has
    /// made: nobody would know of the container.
    ///
    /// # Errors
    /// [`MonitorError`]; nothing is left behind.
    pub async fn detach(&self, request: DetachRequest) -> Result<MonitorReply, MonitorError> {
        self.settle_gpus(&request.launch.devices).await?;
        let limit = request.runtime.start_limit.saturating_add(MONITOR_SLACK);
        let reply = self.ask_monitor(MonitorTask::Launch(Box::new(request)), limit).await?;
        self.refill_soon();
        Ok(reply)
    }

    /// What a monitor is told, as it reads it.
    pub(super) fn monitor_request(
        &self,
        monitor: &MonitorProgram,
        task: MonitorTask,
    ) -> Result<Vec<u8>, MonitorError> {
        let request = MonitorRequest {
            version: MONITOR_VERSION,
            state_dir: self.state.path().to_owned(),
            data_dir: self.data_dir.clone(),
            program: monitor.clone(),
            descriptors: self.descriptors,
            task,
        };
        serde_json::to_vec(&request).map_err(|error| MonitorError::Process(error.into()))
    }

    /// Starts a monitor and waits for its answer.
    pub(super) async fn ask_monitor(
        &self,
        task: MonitorTask,
        limit: Duration,
    ) -> Result<MonitorReply, MonitorError> {
        let monitor = self.monitor.as_deref().ok_or(MonitorError::NoProgram)?;
        // What is late is unmade. What is there already has nothing to lose but a supervisor that comes late.
        let makes_something = matches!(task, MonitorTask::Launch(_) | MonitorTask::Exec { .. });
        let text = self.monitor_request(monitor, task)?;
        let MonitorProcess { process, stdin, stdout } =
            spawn_monitor(&monitor.program, &monitor.args).map_err(MonitorError::Process)?;
        let mut stdin = pipe::Sender::from_owned_fd(stdin).map_err(MonitorError::Process)?;
        let stdout = pipe::Receiver::from_owned_fd(stdout).map_err(MonitorError::Process)?;
        let conversation = async {
            stdin.write_all(&text).await?;
            drop(stdin);
            let mut answer = Vec::new();
            stdout.take(MESSAGE_LIMIT).read_to_end(&mut answer).await?;
            Ok::<_, io::Error>(answer)
        };
        let Ok(answer) = tokio::time::timeout(limit, conversation).await else {
            // The conversation is dropped by now, which tells the monitor to unmake what it has made.
            if makes_something
                && !matches!(tokio::time::timeout(MONITOR_SLACK, process.ended()).await, Ok(Ok(())))
            {
                // ESRCH: it has just ended. What it leaves is an orphan, which anybody closes.
                let _ = process.signal(Signal::KILL);
            }
            return Err(MonitorError::TimedOut(limit));
        };
        let answer = answer.map_err(MonitorError::Process)?;
        match serde_json::from_slice(&answer) {
            Ok(MonitorReply::Failed(failure)) => Err(failure.into()),
            Ok(reply) => Ok(reply),
            Err(_) => Err(MonitorError::Silent),
        }
    }
}

/// Is a monitor: reads the request, makes the container, answers, and supervises it to its end.
///
/// Takes this process's standard streams and session for itself. Signals by which a session or a service ends (HUP, INT,
/// TERM) do nothing to it: the container would be left without a supervisor. `stop` ends the container, and it after.
///
/// # Errors
/// [`MonitorError`], which the asker has been told already.
pub async fn serve_monitor() -> Result<(), MonitorError> {
    // A session of its own: the asker's terminal can neither signal nor hang it up. It fails only for a group leader,
    // which has no terminal to lose either.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        // A handler, which is not handed on to children as an ignored signal is. It stays when the stream goes.
        drop(signal(kind).map_err(MonitorError::Process)?);
    }
    let asker = io::stdout().as_fd().try_clone_to_owned().and_then(pipe::Sender::from_owned_fd);
    let mut asker = asker.map_err(MonitorError::Process)?;
    let mut work = None;
    let result = launch(&mut work, &asker).await;
    let reply = match &result {
        Ok(reply) => reply.clone(),
        Err(error) => Some(MonitorReply::Failed(Failure::of(error))),
    };
    let text = reply.as_ref().map_or(Ok(vec![]), serde_json::to_vec);
    let text = text.map_err(|error| MonitorError::Process(error.into()))?;
    // The asker may have gone at the last moment; the container stays.
    let _ = asker.write_all(&text).await;
    drop(asker);
    let_go_of_streams().map_err(MonitorError::Process)?;
    drop((reply, text));
    crate::sys::trim_heap();
    result?;
    match work {
        Some(Work::Container(container)) => {
            container.wait().await?;
        }
        Some(Work::Session(session)) => {
            session.attend().await;
        }
        Some(Work::Keeper(keeper, engine)) => keeper.serve(engine).await.map_err(MonitorError::Process)?,
        Some(Work::Refill(engine)) => engine.refill_pools().await?,
        None => {}
    }
    Ok(())
}

/// What a monitor supervises, or does.
enum Work {
    Container(crate::launch::Container),
    Session(Box<Session>),
    Keeper(Keeper, Engine),
    Refill(Engine),
}

/// Gives what the asker is told; a keeper has nothing to say.
async fn launch(slot: &mut Option<Work>, asker: &pipe::Sender) -> Result<Option<MonitorReply>, MonitorError> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(io::stdin(), MESSAGE_LIMIT), &mut text)
        .map_err(MonitorError::Process)?;
    let request: MonitorRequest =
        serde_json::from_slice(&text).map_err(|error| MonitorError::Request(error.to_string()))?;
    if request.version != MONITOR_VERSION {
        return Err(MonitorError::Request(format!(
            "its version is {}, not {MONITOR_VERSION}",
            request.version
        )));
    }
    let engine = Engine::open(&request.state_dir)?.with_data_dir(request.data_dir.clone());
    if request.descriptors.is_some() {
        let limit = getrlimit(Resource::Nofile);
        // It was lower before, so it can be.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: request.descriptors, ..limit });
    }
    let keeper = keeper_program(&request)?;
    if !matches!(request.task, MonitorTask::Launch(_)) {
        std::env::set_current_dir("/").map_err(MonitorError::Process)?;
    }
    let (container, warnings) = match request.task {
        MonitorTask::Launch(task) => make(&engine, *task, keeper, asker).await?,
        MonitorTask::Adopt { id } => (engine.take_over(&id, keeper).await?, vec![]),
        MonitorTask::Exec { container, request, streams } => {
            let session = engine.open_session(&container, *request, streams, keeper).await?;
            return Ok(Some(Work::take_session(slot, session)));
        }
        MonitorTask::AdoptSession { id } => {
            let session = engine.take_over_session(&id, keeper).await?;
            return Ok(Some(Work::take_session(slot, session)));
        }
        MonitorTask::Refill => {
            *slot = Some(Work::Refill(engine));
            return Ok(None);
        }
        MonitorTask::Keep => {
            // For those who look at a list of processes.
            let _ = rustix::thread::set_name(c"cofferdam-keep");
            let listening = Keeper::listen(engine.state.clone()).map_err(MonitorError::Process)?;
            let engine =
                Engine { descriptors: listening.descriptors, ..engine.with_monitor(request.program) };
            *slot = Some(Work::Keeper(listening, engine));
            return Ok(None);
        }
    };
    let reply = MonitorReply::Made { id: container.id.clone(), pid: container.started.pid, warnings };
    *slot = Some(Work::Container(container));
    Ok(Some(reply))
}

/// The keeper that this monitor starts where there is none.
fn keeper_program(request: &MonitorRequest) -> Result<KeeperProgram, MonitorError> {
    let MonitorRequest { state_dir, data_dir, program, .. } = request;
    let task = MonitorTask::Keep;
    let asked = MonitorRequest {
        version: MONITOR_VERSION,
        state_dir: state_dir.clone(),
        data_dir: data_dir.clone(),
        program: program.clone(),
        descriptors: None,
        task,
    };
    let request = serde_json::to_vec(&asked).map_err(|error| MonitorError::Process(error.into()))?;
    Ok(KeeperProgram { program: program.program.clone(), args: program.args.clone(), request })
}

impl Work {
    fn take_session(slot: &mut Option<Self>, session: Session) -> MonitorReply {
        let (id, pid) = (session.folder.id.clone(), Some(session.executing.pid()));
        *slot = Some(Self::Session(Box::new(session)));
        MonitorReply::Made { id, pid, warnings: vec![] }
    }
}

/// Makes a container; gives it, and what the user should know.
async fn make(
    engine: &Engine,
    task: DetachRequest,
    keeper: KeeperProgram,
    asker: &pipe::Sender,
) -> Result<(crate::launch::Container, Vec<String>), MonitorError> {
    let launcher = engine.launcher(task.runtime).await?.in_background(task.stdio.clone(), keeper);
    let prepared = launcher.prepare(task.launch)?;
    let stdio = StdioPlan::open(&task.stdio)?;
    // Paths of the request are relative to the asker's directory; from here on none is used, and the file system
    // that holds the directory must not be kept busy.
    std::env::set_current_dir("/").map_err(MonitorError::Process)?;
    let warnings = prepared.spec.warnings.clone();
    let asker_has_gone = async {
        // An error of the event loop would show again at the answer.
        let _ = asker.ready(Interest::ERROR).await;
    };
    let container = if task.start {
        launcher.run(prepared, stdio, asker_has_gone).await?
    } else {
        launcher.create(prepared, stdio, asker_has_gone).await?
    };
    Ok((container, warnings))
}

/// Puts /dev/null in place of the asker's streams: a shell that captures the asker's output must not wait for us.
fn let_go_of_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
