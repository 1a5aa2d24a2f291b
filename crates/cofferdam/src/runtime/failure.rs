//! What can go wrong in driving a runtime, with all that is known of it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::log;
use crate::error::{Code, Diagnose};
use crate::exit::{ProcessEnd, format_duration};
use crate::process::InvokeError;

/// How much of foreign output an error message quotes, in characters.
const QUOTE_LIMIT: usize = 1024;

/// A runtime's command that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandFailure {
    /// The binary.
    pub program: PathBuf,
    /// The command, such as `create`.
    pub verb: &'static str,
    /// All arguments.
    pub args: Vec<String>,
    /// How it ended.
    pub end: ProcessEnd,
    /// The end of its standard output.
    pub stdout: String,
    /// The end of its standard error.
    pub stderr: String,
    /// The reason in the runtime's own log.
    pub reason: Option<String>,
}

/// Something that this version of a runtime does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{runtime} lacks {what}{}", .since.as_ref().map_or_else(String::new, |since| format!(" (it is there since {since})")))]
pub struct Lacks {
    /// The runtime and its version.
    pub runtime: String,
    /// What it lacks.
    pub what: String,
    /// The version that has it, where one does.
    pub since: Option<String>,
    /// The code of the refusal.
    pub code: Code,
    /// The way out.
    pub next: Option<String>,
}

impl Diagnose for Lacks {
    fn code(&self) -> Code {
        self.code
    }

    fn next_step(&self) -> Option<String> {
        let newer = self.since.as_ref().map(|since| format!("install release {since} of it or a newer one"));
        self.next
            .clone()
            .or(newer)
            .or_else(|| Some("`cofferdam capabilities` shows what each runtime can do".into()))
    }
}

/// A call of a runtime that failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The binary could not be started.
    #[error("the runtime {} could not be started", .program.display())]
    Spawn {
        /// The binary.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not end in time, and was killed with its children.
    #[error("`{} {verb}` did not end within {}", .program.display(), format_duration(*.limit))]
    TimedOut {
        /// The binary.
        program: PathBuf,
        /// The command.
        verb: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// It failed.
    #[error("`{} {}` failed: it {}", .0.program.display(), .0.verb, .0.end)]
    Failed(Box<CommandFailure>, #[source] Option<Reason>),
    /// It does not know the container.
    #[error("the runtime does not know the container {0}")]
    NoContainer(String),
    /// Its answer makes no sense.
    #[error("the answer of `{} {verb}` is not understood: {why}; it begins {sample:?}", .program.display())]
    Garbled {
        /// The binary.
        program: PathBuf,
        /// The command.
        verb: &'static str,
        /// What is wrong with it.
        why: String,
        /// Its beginning.
        sample: String,
    },
    /// It reported a pid that cannot be the container's.
    #[error("`{} {verb}` reported a pid that is not the container's: {why}", .program.display())]
    Pid {
        /// The binary.
        program: PathBuf,
        /// The command.
        verb: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// It does not have what is asked.
    #[error(transparent)]
    Lacks(#[from] Lacks),
    /// The binary is not a runtime that is known here.
    #[error("{} is not a runtime that cofferdam knows", .program.display())]
    Unrecognised {
        /// The binary.
        program: PathBuf,
        /// What it says of itself.
        answer: String,
    },
    /// A file for the runtime could not be written.
    #[error("{} could not be written", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The reason that a runtime gave for a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(pub String);

impl RuntimeError {
    /// Puts a failed command together with the reason that the runtime's log or its standard error gives.
    /// `log` is the log's path and its length before the call: an older error is another call's.
    pub(crate) fn failed(mut failure: CommandFailure, log: Option<(&Path, u64)>) -> Self {
        failure.reason = log.and_then(|(path, from)| log::read_last_error(path, from));
        let spoken = failure.reason.clone().or_else(|| last_line(&failure.stderr));
        Self::Failed(Box::new(failure), spoken.map(plain_words).map(Reason))
    }

    /// Says whether the runtime failed because it does not know the container.
    pub(crate) fn or_no_container(self, id: &str) -> Self {
        match &self {
            Self::Failed(failure, _) if log::says_no_container(&failure.all_text()) => {
                Self::NoContainer(id.to_owned())
            }
            _ => self,
        }
    }

    /// Adds what the runtime wrote on standard error, where its streams were the container's; its log comes first.
    pub(crate) fn with_words(self, words: impl FnOnce() -> String) -> Self {
        match self {
            Self::Failed(mut failure, reason) => {
                failure.stderr = words();
                let reason = reason.or_else(|| last_line(&failure.stderr).map(plain_words).map(Reason));
                Self::Failed(failure, reason)
            }
            other => other,
        }
    }

    pub(crate) fn from_invoke(error: InvokeError, verb: &'static str) -> Self {
        match error {
            InvokeError::Spawn { program, source } => Self::Spawn { program, source },
            InvokeError::TimedOut { program, limit } => Self::TimedOut { program, verb, limit },
        }
    }

    pub(crate) fn garbled(program: &Path, verb: &'static str, why: impl Into<String>, sample: &[u8]) -> Self {
        let sample = String::from_utf8_lossy(sample).chars().take(QUOTE_LIMIT).collect();
        Self::Garbled { program: program.to_owned(), verb, why: why.into(), sample }
    }
}

impl CommandFailure {
    /// Everything that the runtime said.
    pub(crate) fn all_text(&self) -> String {
        format!("{}\n{}\n{}", self.reason.as_deref().unwrap_or_default(), self.stderr, self.stdout)
    }
}

/// runsc whose sandbox has died says that it read to the end of a file.
fn plain_words(reason: String) -> String {
    let is_silent = reason.contains("waiting for sandbox to start") && reason.ends_with("EOF");
    if !is_silent {
        return reason;
    }
    "the sandbox ended before it was ready, and gave no reason; `runsc --debug --debug-log=DIR/` writes one to DIR. It is \
     mostly the platform (kvm, on a virtual machine), or with GPUs the driver or a device node: `cofferdam doctor` looks \
     at them"
        .into()
}

fn last_line(text: &str) -> Option<String> {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(QUOTE_LIMIT).collect())
}

impl Diagnose for RuntimeError {
    fn code(&self) -> Code {
        match self {
            Self::Spawn { .. } => Code::RuntimeMissing,
            Self::TimedOut { .. } => Code::RuntimeTimedOut,
            Self::Failed(failure, _) => {
                // What is on standard error may be the container's own words; those in the log are not.
                let problem = match &failure.reason {
                    Some(reason) => log::command_problem(reason),
                    None => log::command_problem(&failure.all_text()),
                };
                problem.unwrap_or(Code::RuntimeFailed)
            }
            Self::NoContainer(_) => Code::NoSuchContainer,
            Self::Garbled { .. } => Code::RuntimeGarbled,
            Self::Pid { .. } => Code::RuntimePid,
            Self::Lacks(lacks) => lacks.code(),
            Self::Unrecognised { .. } => Code::RuntimeUnrecognised,
            Self::File { .. } => Code::StateWrite,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Spawn { .. } => {
                "`cofferdam doctor` says which runtimes are here and how to install one".into()
            }
            Self::TimedOut { verb: "create" | "run" | "start" | "exec", .. } => {
                "it was killed; give it longer with --runtime-timeout".into()
            }
            Self::TimedOut { program, .. } => format!("it was killed; see why {} hangs", program.display()),
            Self::Failed(..) => {
                "`cofferdam doctor` checks this host, and --log-level debug shows each call of the runtime"
                    .into()
            }
            Self::NoContainer(_) => "`cofferdam ps --all` lists what is there".into(),
            Self::Garbled { program, .. } | Self::Pid { program, .. } => {
                format!("check that {} is the runtime that you mean", program.display())
            }
            Self::Lacks(lacks) => return lacks.next_step(),
            Self::Unrecognised { answer, .. } => {
                let answer: String = answer.chars().take(80).collect();
                format!("give runc, crun, youki or runsc; this one says {answer:?} of itself")
            }
            Self::File { .. } => "see whether the state directory is full".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_file_is_put_into_words() {
        let silent = "creating container: cannot create sandbox: cannot read client sync file: waiting for sandbox to start: EOF";
        let words = plain_words(silent.to_owned());
        assert!(words.contains("gave no reason") && !words.contains("EOF"), "{words}");
        let other = "reading /x: unexpected EOF";
        assert_eq!(plain_words(other.to_owned()), other);
    }
}
