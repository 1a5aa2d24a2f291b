//! Another process in a running container, supervised by the process that asked for it.

mod error;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::Instant;

pub use error::ExecError;

use super::{Engine, View};
use crate::bundle::{BundleError, CONFIG_FILE};
use crate::error::Failure;
use crate::event::Happening;
use crate::exit::AskedBy;
use crate::keeper::Keeping;
use crate::lifecycle::Verb;
use crate::request::{Refused, UserSpec, check_cwd, check_env_entry, check_string};
use crate::rootfs::{CommandError, Rootfs, check_process, resolve_user};
use crate::signal::Signal;
use crate::spec::SpecView;
use crate::state::Record;
use crate::supervise::control::hold;
pub use crate::supervise::exec::ExecEnd;
use crate::supervise::exec::{ExecFiles, ExecLimit, ExecStart, Executing, Place};
use crate::supervise::stdio::{Outputs, StdioPlan};

/// A process that a caller wants in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// How long it may run; 0 is without a limit.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub timeout: Option<Duration>,
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct RunningExec {
    executing: Executing,
    /// As long as it runs, its container is not idle.
    _hold: Option<UnixStream>,
    teller: Engine,
    record: Record,
    is_told: bool,
    limit: Option<ExecLimit>,
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
        let (view, call, hold) = self.prepare_exec(text, &request, stdio, Outputs::default()).await?;
        let executing = Executing::start(call).await?;
        let limit = request.limit();
        self.tell_exec(&view.record, request.args, executing.pid());
        Ok(RunningExec {
            executing,
            _hold: hold,
            teller: self.clone(),
            record: view.record,
            is_told: false,
            limit,
        })
    }

    pub(super) fn tell_exec(&self, record: &Record, args: Vec<String>, pid: i32) {
        self.tell(record, Happening::Exec { command: shortened(args), pid });
    }

    /// Checks what is to be executed, and writes it down for the runtime.
    pub(super) async fn prepare_exec(
        &self,
        text: &str,
        request: &ExecRequest,
        stdio: StdioPlan,
        outputs: Outputs,
    ) -> Result<(View, ExecStart, Option<UnixStream>), ExecError> {
        check(request)?;
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
        let process = process_of(&config, request, user).ok_or_else(|| BundleError::NoObject {
            path: view.container.bundle().join(CONFIG_FILE),
            what: "no process",
        })?;
        config["process"] = process.clone();
        self.check_command(rootfs, &config)?;
        let files = ExecFiles::new(&view.container);
        files.write(&process)?;
        let hold = hold(&view.container, false).await;
        let start = ExecStart {
            runtime,
            target,
            files,
            terminal: request.terminal,
            stdio,
            place: Place::of(&view.record),
            host: Arc::clone(&self.host),
            outputs,
            keeping: Keeping::default(),
        };
        Ok((view, start, hold))
    }
}

impl ExecRequest {
    /// Its time limit, from now on; 0 is none. One that is too far away to be told never comes.
    pub(super) fn limit(&self) -> Option<ExecLimit> {
        let limit = self.timeout.filter(|limit| !limit.is_zero());
        limit.and_then(|limit| Some(ExecLimit { at: Instant::now().checked_add(limit)?, limit }))
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
    /// The pid on the host that stands for it: its own under runc, a helper's under gVisor.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.executing.pid()
    }

    /// The other side of its terminal, for its size.
    #[must_use]
    pub fn terminal(&self) -> Option<&OwnedFd> {
        self.executing.terminal()
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// Why it could not be sent. That the process has ended is no error.
    pub async fn signal(&mut self, signal: Signal) -> Result<(), Failure> {
        self.executing.signal(signal, AskedBy::Forwarded).await
    }

    /// Ends the process and all that it has started, at once.
    ///
    /// # Errors
    /// Why one of them may be left.
    pub async fn kill_tree(&mut self) -> Result<(), Failure> {
        self.executing.kill_tree(AskedBy::Kill).await
    }

    /// Waits until the process has ended and its output has been handed on. Where its time limit is reached, it is ended,
    /// and all that it has started.
    ///
    /// Cancel safe: it can be called again.
    pub async fn wait(&mut self) -> ExecEnd {
        let end = self.executing.wait(self.limit).await;
        if !std::mem::replace(&mut self.is_told, true) {
            let happening = Happening::ExecExit { pid: self.pid(), cause: end.cause.clone() };
            self.teller.tell(&self.record, happening);
        }
        end
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
            timeout: None,
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
