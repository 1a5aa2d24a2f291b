//! Another process in a running container, supervised by the process that asked for it.

mod error;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::net::UnixStream;

pub use error::ExecError;

use super::Engine;
use crate::bundle::{BundleError, CONFIG_FILE};
use crate::error::{Code, Failure};
use crate::event::Happening;
use crate::exit::{AskedBy, Cause, Death, Evidence, ProcessEnd, SentSignal, StdioReport, decide};
use crate::fault;
use crate::lifecycle::Verb;
use crate::process::{Claim, Reaper};
use crate::request::{Refused, UserSpec, check_cwd, check_env_entry, check_string};
use crate::rootfs::{CommandError, Rootfs, check_process, resolve_user};
use crate::runtime::{ExecCall, KillScope, Runtime, RuntimeError};
use crate::signal::Signal;
use crate::spec::SpecView;
use crate::state::{ContainerDir, Record, write_atomically};
use crate::supervise::console::{ConsoleSocket, with_terminal};
use crate::supervise::control::hold;
use crate::supervise::stdio::{OurEnds, Outputs, Pumps, StdioPlan, pipes};
use crate::supervise::{OwnedTarget, StartError, supervision};

/// A process that a caller wants in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Environment entries that are added to the container's, or replace them.
    pub env: Vec<String>,
    /// Working directory; the container's without it.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`; the container's without it.
    pub user: Option<String>,
    /// A terminal.
    pub terminal: bool,
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct RunningExec {
    /// The pid on the host that stands for it: its own under runc, a helper's under gVisor.
    pub pid: i32,
    /// The other side of its terminal, for its size.
    pub terminal: Option<OwnedFd>,
    runtime: Arc<dyn Runtime>,
    target: OwnedTarget,
    process: Claim,
    pumps: Pumps,
    files: ExecFiles,
    sandboxed: bool,
    sent: Vec<SentSignal>,
    /// As long as it runs, its container is not idle.
    _hold: Option<UnixStream>,
    /// Who writes its end down, once.
    teller: Option<(Engine, Record)>,
}

/// How such a process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecEnd {
    /// Why.
    pub cause: Cause,
    /// What the cause rests on.
    pub evidence: Vec<Evidence>,
    /// What went through its streams.
    pub stdio: StdioReport,
}

/// The files of one exec; they go with it.
#[derive(Debug)]
struct ExecFiles {
    process: PathBuf,
    pid: PathBuf,
    internal_pid: PathBuf,
    console: PathBuf,
}

impl ExecFiles {
    fn new(container: &ContainerDir) -> Self {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        // Short: one of them is a socket.
        let path = |kind: &str| container.path().join(format!("x{}.{kind}", &unique[..8]));
        Self { process: path("json"), pid: path("pid"), internal_pid: path("in"), console: path("tty") }
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

impl Engine {
    /// Runs another process in a running container. This process supervises it and becomes a child subreaper.
    ///
    /// # Errors
    /// [`ExecError`]; the container is not affected.
    pub async fn exec(
        &self,
        text: &str,
        request: ExecRequest,
        stdio: StdioPlan,
    ) -> Result<RunningExec, ExecError> {
        check(&request)?;
        let (view, runtime, target) = self.live(text, Verb::Exec).await?;
        let rootfs = &view.record.rootfs;
        let user = match &request.user {
            Some(text) => {
                let spec = UserSpec::parse(text).map_err(|why| Refused::new("--user", why))?;
                let user = resolve_user(&Rootfs::open(rootfs)?, &spec)?;
                let gids = user.additional_gids;
                Some(serde_json::json!({ "uid": user.uid, "gid": user.gid, "additionalGids": gids }))
            }
            None => None,
        };
        let mut config = crate::bundle::read_config(&view.container.bundle())?;
        let process = process_of(&config, &request, user).ok_or_else(|| BundleError::NoObject {
            path: view.container.bundle().join(CONFIG_FILE),
            what: "no process",
        })?;
        config["process"] = process.clone();
        self.check_command(rootfs, &config)?;
        let files = ExecFiles::new(&view.container);
        let text = process.to_string();
        write_atomically(&files.process, |out| out.write_all(text.as_bytes())).map_err(|source| {
            StartError::Runtime(RuntimeError::File { path: files.process.clone(), source })
        })?;
        let sandboxed = view.record.sandboxed;
        let hold = hold(&view.container).await;
        let mut process = start(runtime, target, files, request.terminal, stdio, sandboxed).await?;
        let command = shortened(request.args);
        self.tell(&view.record, Happening::Exec { command, pid: process.pid });
        process._hold = hold;
        process.teller = Some((self.clone(), view.record));
        Ok(process)
    }
}

impl Engine {
    /// Decides whether the process can be executed, where that can be known.
    fn check_command(&self, rootfs: &Path, config: &Value) -> Result<(), CommandError> {
        let capabilities = config.pointer("/process/capabilities/bounding").and_then(Value::as_array);
        let may_mount = capabilities.into_iter().flatten().any(|capability| capability == "CAP_SYS_ADMIN");
        match Rootfs::open(rootfs) {
            Ok(rootfs) if !may_mount => check_process(&rootfs, SpecView::of(config), &self.host),
            // The container may have mounted something over what we see, or the directory has gone: not for us to say.
            _ => Ok(()),
        }
    }
}

/// A command as an event has it: its arguments may be as long as all other events together.
fn shortened(args: Vec<String>) -> Vec<String> {
    const ARGUMENTS: usize = 16;
    const CHARACTERS: usize = 100;
    args.into_iter().take(ARGUMENTS).map(|arg| arg.chars().take(CHARACTERS).collect()).collect()
}

async fn start(
    runtime: Arc<dyn Runtime>,
    target: OwnedTarget,
    files: ExecFiles,
    terminal: bool,
    stdio: StdioPlan,
    sandboxed: bool,
) -> Result<RunningExec, StartError> {
    let reaper = Reaper::get().map_err(supervision("no child subreaper"))?;
    let _window = reaper.open_window();
    let (theirs, ours) =
        pipes(stdio.stdin.is_some() && !terminal).map_err(supervision("no pipes for its streams"))?;
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
    match attach(ours, stdio, master) {
        Ok((terminal, pumps)) => Ok(RunningExec {
            pid,
            terminal,
            runtime,
            target,
            process,
            pumps,
            files,
            sandboxed,
            sent: vec![],
            _hold: None,
            teller: None,
        }),
        Err(error) => {
            // Nobody would see it end.
            if let Err(left) =
                send(runtime.as_ref(), &target, &files, &process, sandboxed, Signal::KILL).await
            {
                tracing::warn!(failure = %left, "the process that was started is left in the container");
            }
            Err(error)
        }
    }
}

/// Takes the ends of a process's streams that are ours into use.
fn attach(
    ours: OurEnds,
    stdio: StdioPlan,
    master: Option<OwnedFd>,
) -> Result<(Option<OwnedFd>, Pumps), StartError> {
    fault::reached("exec.made")?;
    let terminal =
        master.as_ref().map(OwnedFd::try_clone).transpose().map_err(supervision("its terminal"))?;
    let pumps = Pumps::start(ours, stdio, master, &Outputs::default())
        .map_err(supervision("no threads for its streams"))?;
    Ok((terminal, pumps))
}

/// Sends a signal to the process of an exec: to the one inside the sandbox where there is one, which its helper on the
/// host only stands for. That it has ended is no error.
async fn send(
    runtime: &dyn Runtime,
    target: &OwnedTarget,
    files: &ExecFiles,
    process: &Claim,
    sandboxed: bool,
    signal: Signal,
) -> Result<(), Failure> {
    let Some(handle) = &process.pidfd else { return Ok(()) };
    let inside = std::fs::read_to_string(&files.internal_pid).ok().and_then(|pid| pid.trim().parse().ok());
    let result = match inside.filter(|_| sandboxed) {
        Some(pid) => {
            let scope = KillScope::Process(pid);
            runtime.kill(target.target(), signal, scope).await.map_err(|error| Failure::of(&error))
        }
        None => handle.signal(signal).map_err(|error| failure(signal, &error)),
    };
    if handle.has_ended().unwrap_or(false) { Ok(()) } else { result }
}

fn check(request: &ExecRequest) -> Result<(), Refused> {
    if request.args.first().is_none_or(String::is_empty) {
        return Err(Refused::new("COMMAND", "there is no command"));
    }
    request.args.iter().try_for_each(|argument| check_string("COMMAND", argument))?;
    request.env.iter().try_for_each(|entry| check_env_entry(entry))?;
    request.cwd.as_deref().map_or(Ok(()), check_cwd)
}

/// The OCI process of an exec: the container's own, with what was asked for.
fn process_of(config: &Value, request: &ExecRequest, user: Option<Value>) -> Option<Value> {
    let mut process = config.get("process")?.clone();
    process["args"] = request.args.clone().into();
    process["terminal"] = request.terminal.into();
    if let Some(cwd) = &request.cwd {
        process["cwd"] = cwd.as_str().into();
    }
    if let Some(user) = user {
        process["user"] = user;
    }
    let mut env: Vec<String> = process["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let mut entries = request.env.clone();
    if request.terminal && !env.iter().chain(&entries).any(|entry| entry.starts_with("TERM=")) {
        entries.push("TERM=xterm".into());
    }
    for entry in entries {
        let key = entry.split_once('=').map_or(entry.as_str(), |(key, _)| key);
        env.retain(|old| old.split_once('=').is_none_or(|(name, _)| name != key));
        env.push(entry);
    }
    process["env"] = env.into();
    Some(process)
}

impl RunningExec {
    /// Sends a signal to the process.
    ///
    /// # Errors
    /// Why it could not be sent. That the process has ended is no error.
    pub async fn signal(&mut self, signal: Signal) -> Result<(), Failure> {
        if self.process.pidfd.is_some() {
            self.sent.push(SentSignal { signal, by: AskedBy::Forwarded, at: Timestamp::now() });
        }
        send(self.runtime.as_ref(), &self.target, &self.files, &self.process, self.sandboxed, signal).await
    }

    /// Waits until the process has ended and its output has been handed on.
    ///
    /// Cancel safe: it can be called again.
    pub async fn wait(&mut self) -> ExecEnd {
        let end = (&mut self.process.end)
            .await
            .expect("the reaper's thread lives as long as the process and answers every watch");
        // Put back, so that a cancelled wait can be repeated.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let _ = sender.send(end);
        self.process.end = receiver;
        self.pumps.container_ended();
        self.pumps.finished().await;
        let (cause, _, evidence) = decide(&self.death(end));
        if let Some((engine, record)) = self.teller.take() {
            engine.tell(&record, Happening::ExecExit { pid: self.pid, cause: cause.clone() });
        }
        ExecEnd { cause, evidence, stdio: self.pumps.report() }
    }

    fn death(&self, end: ProcessEnd) -> Death {
        Death {
            pid: self.pid,
            end,
            from_pidfd: false,
            sandboxed: self.sandboxed,
            sent: self.sent.clone(),
            timed_out: None,
            // The counter is the whole container's: it cannot tell which process was killed.
            memory: None,
            oom_line: None,
            helper: None,
        }
    }
}

fn failure(signal: Signal, error: &io::Error) -> Failure {
    Failure {
        code: Code::Internal,
        what: format!("{signal} could not be sent"),
        why: vec![error.to_string()],
        next: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_the_containers_process_with_other_words() {
        let config = serde_json::json!({ "process": {
            "args": ["init"], "cwd": "/", "env": ["PATH=/bin", "A=1"], "user": { "uid": 0, "gid": 0 },
            "capabilities": { "bounding": ["CAP_CHOWN"] }, "noNewPrivileges": true,
        } });
        let request = ExecRequest {
            args: vec!["ls".into()],
            env: vec!["A=2".into()],
            cwd: Some("/tmp".into()),
            terminal: true,
            user: None,
        };
        let process = process_of(&config, &request, None).unwrap();
        assert_eq!(process["args"], serde_json::json!(["ls"]));
        assert_eq!(process["env"], serde_json::json!(["PATH=/bin", "A=2", "TERM=xterm"]));
        assert_eq!(process["capabilities"]["bounding"][0], "CAP_CHOWN");
        assert_eq!(process["noNewPrivileges"], true);
        assert!(process_of(&serde_json::json!({}), &request, None).is_none());
    }

    #[test]
    fn a_wrong_request_is_refused() {
        assert!(check(&ExecRequest::default()).is_err());
        let request = ExecRequest { args: vec!["a".into()], ..ExecRequest::default() };
        check(&request).unwrap();
        assert!(check(&ExecRequest { cwd: Some("x".into()), ..request.clone() }).is_err());
        assert!(check(&ExecRequest { env: vec!["x".into()], ..request }).is_err());
    }
}
