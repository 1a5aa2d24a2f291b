//! What all drivers share: calling the binary and judging how the call ended.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{
    CommandFailure, ContainerStdio, Features, Lacks, ListedContainer, QUERY_LIMIT, RuntimeConfig,
    RuntimeError, RuntimeKind, RuntimeState, Target, log, parse_list, parse_state,
};
use crate::error::Code;
use crate::exit::ProcessEnd;
use crate::process::{self, Completed, Invocation, Streams};
use crate::request::Limits;
use crate::signal::Signal;
use crate::spec::SpecEditor;

/// A runtime's binary with its configuration.
#[derive(Debug)]
pub(super) struct Binary {
    pub(super) config: RuntimeConfig,
    pub(super) features: Features,
}

/// One call of a runtime.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: &'static str,
    /// The container; `None` for `list`.
    pub(super) target: Option<Target<'a>>,
    /// Flags and arguments of the verb, the container's id not included.
    pub(super) args: Vec<OsString>,
    /// Arguments after the container's id.
    pub(super) after_id: Vec<OsString>,
    /// The container's streams; `None` to capture what the runtime prints.
    pub(super) stdio: Option<ContainerStdio>,
    pub(super) limit: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new<const N: usize>(verb: &'static str, target: Target<'a>, args: [&str; N]) -> Self {
        let args = args.into_iter().map(OsString::from).collect();
        Self { verb, target: Some(target), args, after_id: vec![], stdio: None, limit: QUERY_LIMIT }
    }

    pub(super) fn starting(self, config: &RuntimeConfig, stdio: ContainerStdio) -> Self {
        Self { stdio: Some(stdio), limit: config.start_limit, ..self }
    }
}

impl Binary {
    /// Calls the runtime and takes anything but exit code 0 for a failure.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Completed, RuntimeError> {
        let args = self.arguments(&call);
        let shown = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let streams = match call.stdio {
            Some(ContainerStdio { stdin, stdout, stderr }) => Streams::Given { stdin, stdout, stderr },
            None => Streams::Captured,
        };
        let program = &self.config.binary;
        let log = call.target.map(|target| (target.log, log::length(target.log)));
        let invocation = Invocation { program, args, streams, limit: call.limit };
        let done =
            process::run(invocation).await.map_err(|error| RuntimeError::from_invoke(error, call.verb))?;
        if done.end == ProcessEnd::Exited(0) {
            return Ok(done);
        }
        let failure = CommandFailure {
            program: program.clone(),
            verb: call.verb,
            args: shown,
            end: done.end,
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
            reason: None,
        };
        let error = RuntimeError::failed(failure, log);
        Err(match call.target {
            Some(target) => error.or_no_container(target.id.as_str()),
            None => error,
        })
    }

    fn arguments(&self, call: &Call<'_>) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--root".into(), self.config.root.clone().into()];
        if let Some(target) = call.target {
            // The reason of a failure is read from here; what is on standard error may be the container's.
            args.extend(["--log".into(), target.log.into(), "--log-format".into(), OsString::from("json")]);
            args.extend(target.flags.0.iter().map(OsString::from));
        }
        args.push(call.verb.into());
        args.extend(call.args.iter().cloned());
        if let Some(target) = call.target {
            args.push(target.id.as_str().into());
        }
        args.extend(call.after_id.iter().cloned());
        args
    }

    /// Asks for a container's state, and makes sure that the answer is about that container.
    pub(super) async fn state(&self, target: Target<'_>) -> Result<RuntimeState, RuntimeError> {
        let done = self.call(Call::new("state", target, [])).await?;
        let garbled = |why: String| RuntimeError::garbled(&self.config.binary, "state", why, &done.stdout);
        let state = parse_state(&done.stdout).map_err(garbled)?;
        if state.id != target.id.as_str() {
            return Err(garbled(format!("it is about the container {:?}", state.id)));
        }
        Ok(state)
    }

    /// Removes a container; that it is gone already is success.
    pub(super) async fn delete(&self, target: Target<'_>, force: bool) -> Result<(), RuntimeError> {
        let call =
            if force { Call::new("delete", target, ["--force"]) } else { Call::new("delete", target, []) };
        match self.call(call).await {
            Ok(_) | Err(RuntimeError::NoContainer(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal through the runtime.
    pub(super) async fn kill(
        &self,
        target: Target<'_>,
        signal: Signal,
        flags: &[&str],
    ) -> Result<(), RuntimeError> {
        let mut call = Call::new("kill", target, []);
        call.args = flags.iter().map(OsString::from).collect();
        call.after_id = vec![signal.number().to_string().into()];
        self.call(call).await.map(drop)
    }

    /// All containers below the runtime's root.
    pub(super) async fn list(&self, flag: &str) -> Result<Vec<ListedContainer>, RuntimeError> {
        let call = Call {
            verb: "list",
            target: None,
            args: vec![flag.into(), "json".into()],
            after_id: vec![],
            stdio: None,
            limit: QUERY_LIMIT,
        };
        let done = self.call(call).await?;
        parse_list(&done.stdout)
            .map_err(|why| RuntimeError::garbled(&self.config.binary, "list", why, &done.stdout))
    }

    /// What the runtime's own `events --stats` gives.
    pub(super) async fn stats(&self, target: Target<'_>) -> Result<Value, RuntimeError> {
        self.need_command("events", None)?;
        let done = self.call(Call::new("events", target, ["--stats"])).await?;
        serde_json::from_slice(&done.stdout).map_err(|error| {
            RuntimeError::garbled(&self.config.binary, "events", error.to_string(), &done.stdout)
        })
    }

    /// Changes limits through the runtime, which reads them from a file in `scratch`.
    pub(super) async fn update(
        &self,
        target: Target<'_>,
        limits: &Limits,
        scratch: &Path,
    ) -> Result<(), RuntimeError> {
        self.need_command("update", (self.features.kind == RuntimeKind::Runsc).then_some("20260202"))?;
        let file = scratch.join("resources.json");
        let mut resources = SpecEditor::new(json!({}));
        for (path, value, option) in limits.resources() {
            resources.set(path, value, option);
        }
        let text = resources.value().to_string();
        crate::state::write_atomically(&file, |out| out.write_all(text.as_bytes()))
            .map_err(|source| RuntimeError::File { path: file.clone(), source })?;
        let mut call = Call::new("update", target, ["--resources"]);
        call.args.push(file.clone().into());
        let result = self.call(call).await.map(drop);
        // Left behind, it would go with the container's folder.
        let _ = std::fs::remove_file(&file);
        result
    }

    /// Reads the pid that the runtime wrote.
    pub(super) fn read_pid(&self, verb: &'static str, file: &Path) -> Result<i32, RuntimeError> {
        let wrong = |why: String| RuntimeError::Pid { program: self.config.binary.clone(), verb, why };
        let text =
            std::fs::read(file).map_err(|error| wrong(format!("the pid file cannot be read: {error}")))?;
        parse_pid_file(&text).map_err(wrong)
    }

    /// Refuses a command that the binary does not have.
    pub(super) fn need_command(&self, command: &str, since: Option<&str>) -> Result<(), RuntimeError> {
        if self.features.has_command(command) {
            return Ok(());
        }
        Err(self.lacks(format!("the command `{command}`"), since).into())
    }

    pub(super) fn lacks(&self, what: String, since: Option<&str>) -> Lacks {
        Lacks {
            runtime: self.features.title(),
            what,
            since: since.map(str::to_owned),
            code: Code::RuntimeLacks,
            next: None,
        }
    }
}

/// Parses a pid file: a positive number and nothing else.
///
/// # Errors
/// What it holds instead.
pub fn parse_pid_file(text: &[u8]) -> Result<i32, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the pid file is not text".to_owned())?;
    match text.trim().parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(format!("the pid file holds {}", crate::id::quote(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_hold_one_positive_number() {
        assert_eq!(parse_pid_file(b"12"), Ok(12));
        assert_eq!(parse_pid_file(b" 12\n"), Ok(12));
        for text in [&b""[..], b"0", b"-1", b"1 2", b"99999999999", b"x", b"\xff"] {
            assert!(parse_pid_file(text).is_err(), "{text:?}");
        }
    }
}
