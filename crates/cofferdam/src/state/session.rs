//! Sessions: processes that were executed in a container and outlive whoever asked for them.
//!
//! The folder of one lies beside those of containers and has the same files: a lock, a record, a report, a socket.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::file::write_json;
use super::{ContainerDir, PipeIds, ProcessId, StateDir, StateError, record};
use crate::id::ContainerId;
use crate::logs::LogConfig;
use crate::request::StdioFiles;

/// Version of the record's format.
const SESSION_VERSION: u32 = 1;

/// What is written down of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Version of this format, readable before the rest.
    pub version: u32,
    /// The session.
    pub id: ContainerId,
    /// The container that it is in.
    pub container: ContainerId,
    /// The runtime that has the container.
    pub runtime: String,
    /// The command.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The process that stands for it on the host: its own under runc, a helper's under gVisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
    /// Its pid inside the sandbox, under gVisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<i32>,
    /// The process that supervises it.
    pub supervisor: ProcessId,
    /// How its output is kept.
    pub log: LogConfig,
    /// Where its streams go beside that.
    pub streams: StdioFiles,
    /// Its pipes, by which a new supervisor finds them.
    #[serde(default)]
    pub pipes: PipeIds,
    /// How long it may run.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub timeout: Option<Duration>,
    /// When it was started.
    pub started: Timestamp,
}

impl SessionRecord {
    /// The version to write.
    pub(crate) const VERSION: u32 = SESSION_VERSION;
}

impl StateDir {
    /// The folder of a session, whether it is there or not.
    #[must_use]
    pub fn session(&self, id: &ContainerId) -> ContainerDir {
        self.folder("sessions", id)
    }

    /// The folders of all sessions, in no order.
    ///
    /// # Errors
    /// [`StateError::File`] when the directory cannot be read.
    pub fn sessions(&self) -> Result<Vec<ContainerDir>, StateError> {
        self.folders("sessions")
    }

    /// Finds a session by its id, or the beginning of it.
    ///
    /// # Errors
    /// [`StateError::NoSuchSession`], [`StateError::Ambiguous`].
    pub fn find_session(&self, text: &str) -> Result<ContainerDir, StateError> {
        let mut fitting = self.sessions()?;
        fitting.retain(|session| !text.is_empty() && session.id.as_str().starts_with(text));
        match (fitting.pop(), fitting.len()) {
            (Some(session), 0) => Ok(session),
            (Some(_), others) => Err(StateError::Ambiguous { text: text.to_owned(), count: others + 1 }),
            (None, _) => Err(StateError::NoSuchSession(text.to_owned())),
        }
    }

    /// Removes the sessions of a container that is forgotten, and what they wrote.
    pub(crate) fn remove_sessions_of(&self, container: &ContainerId) {
        for session in self.sessions().unwrap_or_default() {
            let is_of_it =
                session.read_session().ok().flatten().is_some_and(|record| record.container == *container);
            if is_of_it && let Err(error) = self.remove_container(&session) {
                tracing::warn!(%error, session = %session.id, "a session of a container that has gone is left");
            }
        }
    }
}

impl ContainerDir {
    /// Writes the record of a session.
    pub(crate) fn write_session(&self, record: &SessionRecord) -> Result<(), StateError> {
        write_json(&self.session_file(), record)
    }

    /// Reads the record of a session; `None` when there is none yet, or it has been removed meanwhile.
    ///
    /// # Errors
    /// [`StateError::Damaged`], [`StateError::TooNew`].
    pub fn read_session(&self) -> Result<Option<SessionRecord>, StateError> {
        record::read_versioned(&self.session_file(), SESSION_VERSION)
    }

    fn session_file(&self) -> PathBuf {
        self.path().join("session.json")
    }
}
