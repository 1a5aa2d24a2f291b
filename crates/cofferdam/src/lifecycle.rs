//! The states of a container and the moves between them.
//!
//! ```text
//!  creating ──> created ──> running <──> paused
//!      │           │           │            │
//!      └───────────┴───────────┴────────────┴──> stopped
//!                              │
//!                              └──> restarting ──> running, stopped
//! ```
//!
//! Invariant: `stopped` is final. Not here: making a move happen (`supervise`); this says only which are allowed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Diagnose};

/// The state of a container, in the words of the OCI runtime specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The runtime is making it.
    Creating,
    /// Made; its process waits to be started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It has ended, and is about to be started again.
    Restarting,
    /// It has ended.
    Stopped,
}

/// Something that a user asks of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Let the created process run.
    Start,
    /// Run another process in it.
    Exec,
    /// Send a signal.
    Kill,
    /// End it: a signal, a time of grace, SIGKILL.
    Stop,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// Change its limits.
    Update,
    /// List its processes.
    Top,
    /// Take part in its streams.
    Attach,
    /// Forget it.
    Remove,
}

/// A request that does not fit the container's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} container {container}: it is {status}")]
pub struct WrongState {
    /// The container, as the user named it.
    pub container: String,
    /// What was asked.
    pub verb: Verb,
    /// The state it is in.
    pub status: Status,
}

impl Diagnose for WrongState {
    fn code(&self) -> Code {
        Code::WrongState
    }

    fn next_step(&self) -> Option<String> {
        let name = &self.container;
        Some(match (self.verb, self.status) {
            (Verb::Remove, Status::Stopped | Status::Creating) => return None,
            (Verb::Remove, _) => format!("`cofferdam stop {name}` first, or `cofferdam rm --force {name}`"),
            (_, Status::Created) => format!("`cofferdam start {name}` first"),
            (_, Status::Paused) => format!("`cofferdam unpause {name}` first"),
            (Verb::Resume | Verb::Start, Status::Running) => "nothing to do".into(),
            (Verb::Start, Status::Stopped) => {
                format!(
                    "a container runs once, but for --restart: make another; `cofferdam inspect {name}` says how this one ended"
                )
            }
            (_, Status::Stopped) => format!("`cofferdam inspect {name}` says how it ended"),
            (_, Status::Restarting) => {
                format!("`cofferdam start {name}` starts it now, `cofferdam stop {name}` ends it for good")
            }
            (_, Status::Creating | Status::Running) => return None,
        })
    }
}

impl Status {
    /// Whether a container in this state can do what is asked.
    ///
    /// Stopping what has stopped is allowed and does nothing, as in docker.
    #[must_use]
    pub fn allows(self, verb: Verb) -> bool {
        match verb {
            Verb::Start => matches!(self, Self::Created | Self::Restarting),
            Verb::Exec | Verb::Pause => self == Self::Running,
            Verb::Resume => self == Self::Paused,
            Verb::Kill => !matches!(self, Self::Creating | Self::Stopped),
            Verb::Update => matches!(self, Self::Created | Self::Running | Self::Paused),
            Verb::Attach => !matches!(self, Self::Creating | Self::Stopped),
            Verb::Top => matches!(self, Self::Running | Self::Paused),
            Verb::Stop => self != Self::Creating,
            Verb::Remove => self == Self::Stopped,
        }
    }

    /// [`Status::allows`] as a result, for the container that the user named.
    ///
    /// # Errors
    /// [`WrongState`] when it is not allowed.
    pub fn check(self, verb: Verb, container: &str) -> Result<(), WrongState> {
        if self.allows(verb) {
            Ok(())
        } else {
            Err(WrongState { container: container.to_owned(), verb, status: self })
        }
    }

    /// Whether the container still has, or may have, a process.
    #[must_use]
    pub fn is_live(self) -> bool {
        self != Self::Stopped
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Exec => "exec in",
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Resume => "unpause",
            Self::Update => "update",
            Self::Attach => "attach to",
            Self::Top => "list the processes of",
            Self::Remove => "remove",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Status; 6] = [
        Status::Creating,
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Stopped,
    ];

    #[test]
    fn nothing_but_removal_and_an_idle_stop_is_left_after_the_end() {
        for verb in [Verb::Start, Verb::Exec, Verb::Kill, Verb::Pause, Verb::Resume, Verb::Update, Verb::Top]
        {
            assert!(!Status::Stopped.allows(verb), "{verb}");
        }
        assert!(Status::Stopped.allows(Verb::Remove) && Status::Stopped.allows(Verb::Stop));
    }

    #[test]
    fn each_verb_fits_some_state() {
        for verb in [
            Verb::Start,
            Verb::Exec,
            Verb::Kill,
            Verb::Stop,
            Verb::Pause,
            Verb::Resume,
            Verb::Update,
            Verb::Top,
            Verb::Attach,
            Verb::Remove,
        ] {
            assert!(STATES.iter().any(|status| status.allows(verb)), "{verb}");
        }
    }

    #[test]
    fn a_refusal_names_container_state_and_way_out() {
        let error = Status::Created.check(Verb::Exec, "web").unwrap_err();
        assert_eq!(error.to_string(), "cannot exec in container web: it is created");
        assert_eq!(error.next_step().unwrap(), "`cofferdam start web` first");
    }
}
