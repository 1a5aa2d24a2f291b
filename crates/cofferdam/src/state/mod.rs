//! The state directory: the record on disk is the truth about a container.
//!
//! ```text
//! STATE/                     0700, ours alone
//!   containers/ID/           one folder a container
//!     lock                   held (flock) by the supervisor as long as it lives
//!     record.json            what it is and how far it is; version first
//!     edits.json             how its specification was changed, and why
//!     report.json            how it ended; written first of all that follows its end
//!     last-report.json       how its last run ended, if it is started again
//!     reserve                space for that report, given back when it is written
//!     bundle/config.json     what the runtime gets
//!     control.sock           where the supervisor listens
//!     runtime.log            the runtime's own log
//!     journal                how much output is on its way into the log
//!   sessions/ID/             one folder a session, with the same files
//!   names/NAME -> ID         exclusive: a name has one container
//!   reports/ID.SECONDS.json  how containers ended that are forgotten already, for a while
//!   events/                  what happened to all of them, in one order
//!   logs/ID/                 what the container wrote; of the default state directory in /var/log/cofferdam
//!   runtime/NAME/            state roots of the runtimes
//!   cache/                   features of runtimes
//! ```
//!
//! Invariant: files are written to a temporary name, synced and renamed, so a reader sees the old or the new, whole.
//! A folder whose lock is free has no living supervisor.

mod container;
mod events;
mod file;
mod gpus;
mod lock;
mod names;
mod record;
mod reports;
mod session;

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

pub use container::ContainerDir;
pub(crate) use file::{remove_tree, write_atomically, write_json};
pub(crate) use lock::FileLock;
pub use lock::{ContainerLock, lock_is_free};
pub(crate) use record::read_versioned;
pub use record::{PipeIds, ProcessId, RECORD_VERSION, Record};
pub use session::SessionRecord;

use crate::error::{Code, Diagnose};
use crate::id::{ContainerId, ContainerName};

/// The longest path of a state directory, in bytes: a socket's path is at most 107 (`sun_path`), and runsc makes
/// `/runtime/NAME/runsc-ID.sock` below it.
pub const STATE_PATH_LIMIT: usize = 46;
/// The longest path of a runtime's state root, by the same account.
const ROOT_PATH_LIMIT: usize = STATE_PATH_LIMIT + 17;
/// The state directory of root.
pub const DEFAULT_STATE_DIR: &str = "/run/cofferdam";
/// Where the logs of its containers are.
pub const DEFAULT_LOG_DIR: &str = "/var/log/cofferdam";

/// A state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

/// Something that is wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or used.
    #[error("the state directory {} cannot be used: {why}", .path.display())]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file in it cannot be read or written.
    #[error("{} could not be {what}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A record is not one.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A record comes from a newer version.
    #[error("{} has version {found}; this cofferdam knows versions up to {known}", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// The name has a container.
    #[error("the name {name} belongs to the container {owner}")]
    NameTaken {
        /// The name.
        name: ContainerName,
        /// Whose it is.
        owner: String,
    },
    /// Nothing fits the text.
    #[error("there is no container {}", crate::id::quote(.0))]
    NoSuchContainer(String),
    /// There is no such session.
    #[error("no session is called {}", crate::id::quote(.0))]
    NoSuchSession(String),
    /// More than one fits the text.
    #[error("{} is the beginning of {count} ids", crate::id::quote(.text))]
    Ambiguous {
        /// The text.
        text: String,
        /// How many.
        count: usize,
    },
}

impl StateError {
    /// Whether the file, or its folder, is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Diagnose for StateError {
    fn code(&self) -> Code {
        match self {
            Self::Unusable { .. } => Code::StateDirectory,
            Self::File { .. } => Code::StateWrite,
            Self::Damaged { .. } => Code::RecordDamaged,
            Self::TooNew { .. } => Code::RecordTooNew,
            Self::NameTaken { .. } => Code::NameTaken,
            Self::NoSuchContainer(_) | Self::NoSuchSession(_) => Code::NoSuchContainer,
            Self::Ambiguous { .. } => Code::AmbiguousId,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Unusable { path, why } if why.contains("others may enter") => {
                format!("chmod 0700 {}, or name another with --state-dir", path.display())
            }
            Self::Unusable { .. } => "name another with --state-dir or COFFERDAM_STATE_DIR".into(),
            Self::File { .. } => {
                "see whether the file system of the state directory is full or read-only".into()
            }
            Self::Damaged { path, .. } => {
                let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
                format!(
                    "keep the file for a bug report; `cofferdam rm --force {folder}` then removes all of it"
                )
            }
            Self::TooNew { .. } => "use the cofferdam that wrote it".into(),
            Self::NameTaken { name, .. } => format!(
                "choose another name, or `cofferdam rm --force {name}` first, which ends it if it runs"
            ),
            Self::NoSuchSession(_) => "`cofferdam session ls` lists what is there".into(),
            Self::NoSuchContainer(_) => "`cofferdam ps --all` lists what is there".into(),
            Self::Ambiguous { .. } => "give more digits".into(),
        })
    }
}

impl StateDir {
    /// Opens a state directory, and makes it where it is missing.
    ///
    /// # Errors
    /// [`StateError::Unusable`] when it cannot be made, is not ours alone, or its path is too long for sockets.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let unusable = |why: String| StateError::Unusable { path: path.to_owned(), why };
        if !path.is_absolute() {
            return Err(unusable("its path is not absolute".into()));
        }
        let length = path.as_os_str().len();
        if length > STATE_PATH_LIMIT {
            return Err(unusable(format!(
                "its path has {length} bytes; sockets below it allow {STATE_PATH_LIMIT}"
            )));
        }
        if holds_lost_word(path) {
            return Err(unusable("runsc loses arguments that hold the word `detach`".into()));
        }
        let make = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(path).map_err(|error| unusable(error.to_string()))?;
        let metadata = std::fs::symlink_metadata(path).map_err(|error| unusable(error.to_string()))?;
        if !metadata.is_dir() {
            return Err(unusable("it is not a directory".into()));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(unusable(format!("it belongs to the user {}", metadata.uid())));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(unusable(format!("others may enter it (mode {:04o})", metadata.mode() & 0o7777)));
        }
        for part in ["containers", "sessions", "names", "runtime", "cache", "events", "reports", "gpus"] {
            make(&path.join(part)).map_err(|error| unusable(error.to_string()))?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the features of runtimes are remembered.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The state root of a runtime.
    #[must_use]
    pub fn runtime_root(&self, name: &str) -> PathBuf {
        self.path.join("runtime").join(name)
    }

    /// The folder of a container's logs, whether it is there or not.
    ///
    /// The default state directory is in memory, where logs would take what they grow to: theirs are on disk.
    #[must_use]
    pub fn logs_of(&self, id: &ContainerId) -> PathBuf {
        self.logs().join(id.as_str())
    }

    /// Where the logs of all of them are.
    pub(crate) fn logs(&self) -> PathBuf {
        if self.path == Path::new(DEFAULT_STATE_DIR) {
            PathBuf::from(DEFAULT_LOG_DIR)
        } else {
            self.path.join("logs")
        }
    }

    /// Whether anything can be changed here.
    ///
    /// # Errors
    /// [`StateError::File`] where the file system is read-only.
    pub(crate) fn check_writable(&self) -> Result<(), StateError> {
        match rustix::fs::statvfs(&self.path) {
            Ok(facts) if facts.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => {
                let (path, source) = (self.path.clone(), std::io::ErrorKind::ReadOnlyFilesystem.into());
                Err(StateError::File { path, what: "written", source })
            }
            // Whatever it is, the change itself says it better.
            _ => Ok(()),
        }
    }

    /// Where the keeper listens.
    pub(crate) fn keeper_socket(&self) -> PathBuf {
        self.path.join("keeper.sock")
    }

    /// The lock under which a keeper is started, and goes.
    pub(crate) fn keeper_lock(&self) -> PathBuf {
        self.path.join("keeper.lock")
    }

    /// The lock that a keeper has as long as it lives: there is one.
    pub(crate) fn keeper_life(&self) -> PathBuf {
        self.path.join("keeper.alive")
    }

    /// The folder of a container, whether it is there or not.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> ContainerDir {
        self.folder("containers", id)
    }

    fn folder(&self, part: &str, id: &ContainerId) -> ContainerDir {
        ContainerDir { id: id.clone(), path: self.path.join(part).join(id.as_str()) }
    }

    /// Makes the folder of a new container and takes its lock. Exclusive: a folder that is there is an error.
    ///
    /// It appears under its name with its lock taken already, so that a folder whose lock is free is always one whose
    /// supervisor has died.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn create_container(&self, id: &ContainerId) -> Result<(ContainerDir, ContainerLock), StateError> {
        self.create(self.container(id))
    }

    /// The same for a session.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub(crate) fn create_session(
        &self,
        id: &ContainerId,
    ) -> Result<(ContainerDir, ContainerLock), StateError> {
        self.create(self.session(id))
    }

    fn create(&self, container: ContainerDir) -> Result<(ContainerDir, ContainerLock), StateError> {
        let failed = |source| StateError::File { path: container.path.clone(), what: "made", source };
        // Whoever sweeps has this lock too, so that a folder is never seen between its making and its locking.
        let _guard = self.lock_births()?;
        let unborn = container.hidden();
        std::fs::DirBuilder::new().mode(0o700).create(&unborn.path).map_err(failed)?;
        let born = || -> Result<ContainerLock, StateError> {
            let lock = ContainerLock::attempt(&unborn)?.ok_or_else(|| {
                failed(io::Error::new(io::ErrorKind::WouldBlock, "another process has locked it"))
            })?;
            rustix::fs::renameat_with(CWD, &unborn.path, CWD, &container.path, RenameFlags::NOREPLACE)
                .map_err(|errno| failed(errno.into()))?;
            Ok(lock)
        };
        match born() {
            Ok(lock) => Ok((container, lock)),
            Err(error) => {
                // Nobody else knows of it.
                let _ = std::fs::remove_dir_all(&unborn.path);
                Err(error)
            }
        }
    }

    /// The folders of all containers, in no order.
    ///
    /// # Errors
    /// [`StateError::File`] when the directory cannot be read.
    pub fn containers(&self) -> Result<Vec<ContainerDir>, StateError> {
        self.folders("containers")
    }

    fn folders(&self, part: &str) -> Result<Vec<ContainerDir>, StateError> {
        let path = self.path.join(part);
        let entries =
            std::fs::read_dir(&path).map_err(|source| StateError::File { path, what: "read", source })?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<ContainerId>().ok())
            .map(|id| self.folder(part, &id))
            .collect())
    }

    /// Removes a container's folder, or a session's, and its logs. The caller holds its lock.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn remove_container(&self, container: &ContainerDir) -> Result<(), StateError> {
        // First, so that nothing is left that nobody knows of.
        let logs = self.logs_of(&container.id);
        remove_tree(&logs).map_err(|source| StateError::File { path: logs, what: "removed", source })?;
        // Under another name first: a reader never sees half a folder.
        let trash = container.hidden().path;
        let failed = |source| StateError::File { path: container.path.clone(), what: "removed", source };
        match std::fs::rename(&container.path, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        remove_tree(&trash).map_err(failed)
    }

    /// Removes folders that a process left half made or half removed when it died.
    pub fn sweep_trash(&self) {
        let unborn = |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(is_unborn);
        let parts = || ["containers", "sessions"].into_iter().map(|part| self.path.join(part));
        let entries = || parts().filter_map(|part| std::fs::read_dir(part).ok()).flatten().flatten();
        if !entries().any(|entry| unborn(&entry)) {
            return;
        }
        let Ok(_guard) = self.lock_births() else { return };
        for entry in entries().filter(unborn) {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix('.')?.parse::<ContainerId>().ok());
            let Some(id) = id else { continue };
            let trash = ContainerDir { id, path: entry.path() };
            if lock_is_free(&trash).unwrap_or(false) {
                // The process that removes it may be at it still; what is left is tried again by the next sweep.
                let _ = remove_tree(&trash.path);
            }
        }
    }

    fn lock_births(&self) -> Result<FileLock, StateError> {
        let path = self.path.join("containers").join(".lock");
        FileLock::wait(&path).map_err(|source| StateError::File { path, what: "locked", source })
    }
}

/// The state directory of this user unless another is asked for: `/run/cofferdam` for root, for others `cofferdam` in
/// `XDG_RUNTIME_DIR`. `None` where that is not set.
#[must_use]
pub fn default_state_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from(DEFAULT_STATE_DIR));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.filter(|path| path.is_absolute()).map(|path| path.join("cofferdam"))
}

/// Checks the path of a runtime's state root, which ends in the name of a binary.
///
/// # Errors
/// [`StateError::Unusable`].
pub(crate) fn check_root(root: &Path) -> Result<(), StateError> {
    let unusable = |why: String| Err(StateError::Unusable { path: root.to_owned(), why });
    let length = root.as_os_str().len();
    if length > ROOT_PATH_LIMIT {
        return unusable(format!("its path has {length} bytes; sockets below it allow {ROOT_PATH_LIMIT}"));
    }
    if holds_lost_word(root) {
        return unusable("runsc loses arguments that hold the word `detach`".into());
    }
    Ok(())
}

/// runsc's `exec --detach` drops every argument that holds this word, and the root is one.
fn holds_lost_word(path: &Path) -> bool {
    path.to_string_lossy().contains("detach")
}

/// Whether the name of a folder is one of a container that is half made or half removed.
fn is_unborn(name: &str) -> bool {
    name.strip_prefix('.').is_some_and(|id| id.parse::<ContainerId>().is_ok())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
