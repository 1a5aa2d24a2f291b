//! Another process in a running container: started, signalled, waited for, and ended with all that it has started.
//!
//! Not here: who asked for it (`engine::exec`, `probing`).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::console::{ConsoleSocket, with_terminal};
use super::error::{StartError, supervision};
use super::held::Held;
use super::lost::unseen;
use super::stdio::{OurEnds, Outputs, Pumps, StdioPlan, pipes};
use super::streams::{copies, find_pipes, outlast, skip_what_is_logged};
use super::target::OwnedTarget;
use super::tree;
use crate::cgroup::{CgroupPath, processes_in};
use crate::error::{Code, Failure};
use crate::exit::{AskedBy, Cause, Death, Evidence, ProcessEnd, SentSignal, StdioReport, decide};
use crate::fault;
use crate::host::HostFacts;
use crate::keeper::{Keeping, Kept};
use crate::logs::LogConfig;
use crate::process::{Claim, Reaper};
use crate::runtime::{ExecCall, KillScope, Runtime, RuntimeError};
use crate::signal::Signal;
use crate::state::{ContainerDir, PipeIds, ProcessId, Record, write_atomically};

/// A limit in time, and when it is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExecLimit {
    pub(crate) at: Instant,
    pub(crate) limit: Duration,
}

/// How such a process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecEnd {
    /// Why.
    pub cause: Cause,
    /// Who of us asked for its end, if anybody did.
    pub asked_by: Option<AskedBy>,
    /// What the cause rests on.
    pub evidence: Vec<Evidence>,
    /// What went through its streams.
    pub stdio: StdioReport,
}

impl ExecEnd {
    /// The end of a process whose supervisor had died; `None` where nobody saw it.
    pub(crate) fn of_orphan(pid: i32, end: Option<ProcessEnd>, lost: impl FnOnce() -> Failure) -> Self {
        let stdio = StdioReport { truncated: true, ..StdioReport::default() };
        let Some(end) = end else {
            return Self {
                cause: Cause::RuntimeLost { failure: lost() },
                asked_by: None,
                evidence: vec![],
                stdio,
            };
        };
        let (cause, asked_by, evidence) = decide(&Death {
            pid,
            end,
            from_pidfd: true,
            sandboxed: false,
            sent: vec![],
            timed_out: None,
            memory: None,
            kernel_line: None,
            oom_line: None,
            helper: None,
        });
        Self { cause, asked_by, evidence, stdio }
    }
}

/// The files of one exec; they go with it.
#[derive(Debug)]
pub(crate) struct ExecFiles {
    process: PathBuf,
    pid: PathBuf,
    internal_pid: PathBuf,
    console: PathBuf,
}

impl ExecFiles {
    pub(crate) fn new(container: &ContainerDir) -> Self {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        // Short: one of them is a socket.
        let path = |kind: &str| container.path().join(format!("x{}.{kind}", &unique[..8]));
        Self { process: path("json"), pid: path("pid"), internal_pid: path("in"), console: path("tty") }
    }

    /// The pid inside the sandbox, once it has been started.
    fn inside(&self) -> Option<i32> {
        std::fs::read_to_string(&self.internal_pid).ok()?.trim().parse().ok()
    }

    /// Writes down what is to be executed.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) fn write(&self, process: &Value) -> Result<(), StartError> {
        let text = process.to_string();
        write_atomically(&self.process, |out| out.write_all(text.as_bytes()))
            .map_err(|source| StartError::Runtime(RuntimeError::File { path: self.process.clone(), source }))
    }
}

impl Drop for ExecFiles {
    fn drop(&mut self) {
        for file in [&self.process, &self.pid, &self.internal_pid, &self.console] {
            // Some were never made.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Where a process is executed.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) sandboxed: bool,
    pub(crate) cgroup: Option<CgroupPath>,
}

impl Place {
    pub(crate) fn of(record: &Record) -> Self {
        Self { sandboxed: record.sandboxed, cgroup: record.cgroup.clone() }
    }
}

/// Everything that a process is started with. Its specification has been [written](ExecFiles::write).
#[derive(Debug)]
pub(crate) struct ExecStart {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) target: OwnedTarget,
    pub(crate) files: ExecFiles,
    pub(crate) terminal: bool,
    pub(crate) stdio: StdioPlan,
    pub(crate) place: Place,
    pub(crate) host: Arc<HostFacts>,
    /// Where its output goes beside `stdio`.
    pub(crate) outputs: Outputs,
    /// Where what must outlast this process is kept.
    pub(crate) keeping: Keeping,
}

/// Everything that a process is taken over with.
#[derive(Debug)]
pub(crate) struct ExecAdoption {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) target: OwnedTarget,
    pub(crate) container: ContainerDir,
    pub(crate) process: ProcessId,
    pub(crate) inside: Option<i32>,
    pub(crate) pipes: PipeIds,
    pub(crate) stdio: StdioPlan,
    pub(crate) place: Place,
    pub(crate) host: Arc<HostFacts>,
    pub(crate) outputs: Outputs,
    /// Where its output is kept.
    pub(crate) log: (PathBuf, LogConfig),
    pub(crate) keeping: Keeping,
    pub(crate) kept: Kept,
}

/// A process that runs in a container, as a child of this one.
#[derive(Debug)]
pub(crate) struct Executing {
    handle: Handle,
    pumps: Pumps,
    pipes: PipeIds,
    terminal: Option<OwnedFd>,
    timed_out: Option<Duration>,
    keeping: Keeping,
}

#[derive(Debug)]
struct Handle {
    runtime: Arc<dyn Runtime>,
    target: OwnedTarget,
    /// Its pid inside the sandbox, where there is one.
    inside: Option<i32>,
    _files: ExecFiles,
    place: Place,
    host: Arc<HostFacts>,
    process: Claim,
    sent: Vec<SentSignal>,
}

impl Executing {
    /// Starts it.
    ///
    /// # Errors
    /// [`StartError`]; nothing of it is left in the container.
    pub(crate) async fn start(start: ExecStart) -> Result<Self, StartError> {
        let ExecStart { runtime, target, files, terminal, mut stdio, place, host, outputs, keeping } = start;
        let reaper = Reaper::get().map_err(supervision("no child subreaper"))?;
        let _window = reaper.open_window();
        let (theirs, ours) =
            pipes(stdio.stdin.is_some() && !terminal).map_err(supervision("no pipes for its streams"))?;
        let (theirs, pipes) = if outputs.outlasts {
            outlast(theirs, stdio.input.is_some()).map_err(supervision("no pipes for its streams"))?
        } else {
            (theirs, PipeIds::default())
        };
        let console = if terminal {
            Some(ConsoleSocket::bind(&files.console).map_err(supervision("no socket for its terminal"))?)
        } else {
            None
        };
        let call = runtime.exec(ExecCall {
            target: target.target(),
            process: &files.process,
            pid_file: &files.pid,
            internal_pid_file: &files.internal_pid,
            console_socket: console.as_ref().map(ConsoleSocket::path),
            stdio: theirs,
        });
        let (pid, master) = with_terminal(call, console.as_ref(), &ours).await?;
        let process = reaper.claim(pid).map_err(|error| {
            let program = runtime.config().binary.clone();
            StartError::Runtime(RuntimeError::Pid { program, verb: "exec", why: error.to_string() })
        })?;
        keeping.keep(copies(&process, &ours, master.as_ref())).await;
        let inside = files.inside().filter(|_| place.sandboxed);
        let mut handle =
            Handle { runtime, target, inside, _files: files, place, host, process, sent: vec![] };
        let input = stdio.input.take();
        match attach(ours, stdio, master, &outputs, input) {
            Ok((terminal, pumps)) => Ok(Self { handle, pumps, pipes, terminal, timed_out: None, keeping }),
            Err(error) => {
                // Nobody would see it end.
                if let Err(left) = handle.kill_tree(AskedBy::Kill).await {
                    tracing::warn!(failure = %left, "the process that was started is left in the container");
                }
                Err(error)
            }
        }
    }

    /// Takes one over whose supervisor has died. `None` where its process has gone.
    ///
    /// # Errors
    /// [`StartError`]; the process is left as it is.
    pub(crate) async fn adopt(adoption: ExecAdoption) -> Result<Option<Self>, StartError> {
        let ExecAdoption {
            runtime,
            target,
            container,
            process,
            inside,
            pipes,
            stdio,
            place,
            host,
            outputs,
            log,
            keeping,
            mut kept,
        } = adoption;
        let Some(claim) = Held::watch(&process, &host.boot_id, kept.process.take()) else { return Ok(None) };
        let ours = find_pipes(pipes, &pids_of(&process, &place, &host), &mut kept);
        keeping.keep(copies(&claim, &ours, kept.terminal.as_ref())).await;
        if let Some(journal) = &outputs.journal {
            let (folder, config) = log;
            skip_what_is_logged(&ours, journal, &folder, Some(config)).map_err(supervision("no pipe"))?;
        }
        let handle = Handle {
            runtime,
            target,
            inside,
            _files: ExecFiles::new(&container),
            place,
            host,
            process: claim,
            sent: vec![],
        };
        let mut stdio = stdio;
        let input = stdio.input.take();
        let (terminal, pumps) = attach(ours, stdio, kept.terminal, &outputs, input)?;
        Ok(Some(Self { handle, pumps, pipes, terminal, timed_out: None, keeping }))
    }

    /// The pid on the host that stands for it: its own under runc, a helper's under gVisor.
    pub(crate) fn pid(&self) -> i32 {
        self.handle.process.pid
    }

    /// Says that no successor will come.
    pub(crate) async fn let_go(&self) {
        self.keeping.done().await;
    }

    /// Its pid inside the sandbox, where there is one.
    pub(crate) fn inside(&self) -> Option<i32> {
        self.handle.inside
    }

    /// Its pipes, where they outlast this process.
    pub(crate) fn pipes(&self) -> PipeIds {
        self.pipes
    }

    /// The other side of its terminal.
    pub(crate) fn terminal(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref()
    }

    /// Sends it a signal. That it has ended is no error.
    pub(crate) async fn signal(&mut self, signal: Signal, by: AskedBy) -> Result<(), Failure> {
        self.handle.signal(signal, by).await
    }

    /// Ends it and all that it has started, at once.
    pub(crate) async fn kill_tree(&mut self, by: AskedBy) -> Result<(), Failure> {
        self.handle.kill_tree(by).await
    }

    /// Waits until it has ended and its output has been handed on; after `limit` it is ended, and all that it has started.
    ///
    /// Cancel safe: it can be called again.
    pub(crate) async fn wait(&mut self, limit: Option<ExecLimit>) -> ExecEnd {
        let end = match limit {
            None => self.ended().await,
            Some(ExecLimit { at, limit }) => match tokio::time::timeout_at(at, self.ended()).await {
                Ok(end) => end,
                Err(_) => {
                    self.timed_out = Some(limit);
                    if let Err(failure) = self.kill_tree(AskedBy::Timeout).await {
                        tracing::warn!(%failure, "something of it may be left in the container");
                    }
                    self.ended().await
                }
            },
        };
        self.pumps.container_ended();
        self.pumps.finished().await;
        let (cause, asked_by, evidence) = match end {
            Some(end) => decide(&self.death(end)),
            None => {
                (Cause::RuntimeLost { failure: unseen(&format!("process {}", self.pid())) }, None, vec![])
            }
        };
        ExecEnd { cause, asked_by, evidence, stdio: self.pumps.report() }
    }

    /// `None` is an end that nobody saw, of a process that is not our child.
    async fn ended(&mut self) -> Option<ProcessEnd> {
        let end = (&mut self.handle.process.end).await.ok();
        // Put back, so that a cancelled wait can be repeated.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        if let Some(end) = end {
            let _ = sender.send(end);
        }
        self.handle.process.end = receiver;
        end
    }

    fn death(&self, end: ProcessEnd) -> Death {
        Death {
            pid: self.pid(),
            end,
            from_pidfd: false,
            sandboxed: self.handle.place.sandboxed,
            sent: self.handle.sent.clone(),
            timed_out: self.timed_out,
            // The counter is the whole container's: it cannot tell which process was killed.
            memory: None,
            kernel_line: None,
            oom_line: None,
            helper: None,
        }
    }
}

impl Handle {
    /// Sends a signal to the process: to the one inside the sandbox where there is one, which its helper on the host
    /// only stands for.
    async fn signal(&mut self, signal: Signal, by: AskedBy) -> Result<(), Failure> {
        let Some(handle) = &self.process.pidfd else { return Ok(()) };
        self.sent.push(SentSignal { signal, by, at: Timestamp::now() });
        let result = match self.inside {
            Some(pid) => self.kill_inside(pid, signal).await,
            None => handle.signal(signal).map_err(|error| failure(signal, &error)),
        };
        if handle.has_ended().unwrap_or(false) { Ok(()) } else { result }
    }

    async fn kill_inside(&self, pid: i32, signal: Signal) -> Result<(), Failure> {
        let scope = KillScope::Process(pid);
        self.runtime.kill(self.target.target(), signal, scope).await.map_err(|error| Failure::of(&error))
    }

    async fn kill_tree(&mut self, by: AskedBy) -> Result<(), Failure> {
        let Some(root) = self.inside else {
            if let (Some(_), Some(cgroup)) = (&self.process.pidfd, &self.place.cgroup) {
                tree::kill(self.process.pid, &self.host.cgroups, cgroup);
            }
            return self.signal(Signal::KILL, by).await;
        };
        let processes = self.runtime.ps(self.target.target()).await.unwrap_or_default();
        let pairs: Vec<_> = processes.iter().map(|process| (process.pid, process.ppid)).collect();
        // The root first: it must not go on when its children have gone.
        let killed = self.signal(Signal::KILL, by).await;
        for pid in tree::below(root, &pairs) {
            // It may have ended meanwhile, and the root is the one that counts.
            let _ = self.kill_inside(pid, Signal::KILL).await;
        }
        killed
    }
}

/// Processes that may have the pipes: under gVisor it is the sandbox.
fn pids_of(process: &ProcessId, place: &Place, host: &HostFacts) -> Vec<i32> {
    let others = place.cgroup.as_ref().map(|cgroup| processes_in(&host.cgroups, cgroup));
    std::iter::once(process.pid).chain(others.into_iter().flatten()).collect()
}

/// Takes the ends of a process's streams that are ours into use.
fn attach(
    ours: OurEnds,
    stdio: StdioPlan,
    master: Option<OwnedFd>,
    outputs: &Outputs,
    input: Option<OwnedFd>,
) -> Result<(Option<OwnedFd>, Pumps), StartError> {
    fault::reached("exec.made")?;
    let terminal =
        master.as_ref().map(OwnedFd::try_clone).transpose().map_err(supervision("its terminal"))?;
    let copy = terminal.as_ref().map(OwnedFd::try_clone).transpose().map_err(supervision("its terminal"))?;
    outputs.hub.connect(input, copy);
    let pumps =
        Pumps::start(ours, stdio, master, outputs).map_err(supervision("no threads for its streams"))?;
    Ok((terminal, pumps))
}

fn failure(signal: Signal, error: &io::Error) -> Failure {
    Failure {
        code: Code::Internal,
        what: format!("{signal} could not be sent"),
        why: vec![error.to_string()],
        next: None,
    }
}
