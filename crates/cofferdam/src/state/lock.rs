//! The lock that tells a living supervisor from a dead one.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::{ContainerDir, StateError};

/// An exclusive lock on a file, given back when it is dropped or its process dies.
///
/// The descriptor is close-on-exec, so no child keeps the lock.
#[derive(Debug)]
pub(super) struct FileLock(#[expect(dead_code, reason = "it is held, not read")] File);

/// The lock of a container: whoever has it is its supervisor, or repairs what a dead one left.
#[derive(Debug)]
pub struct ContainerLock(#[expect(dead_code, reason = "it is held, not read")] FileLock);

impl FileLock {
    fn open(path: &Path, create: bool) -> io::Result<File> {
        std::fs::OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(path)
    }

    /// Waits for the lock.
    pub(super) fn wait(path: &Path) -> io::Result<Self> {
        let file = Self::open(path, true)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the lock if it is free.
    fn attempt(path: &Path, create: bool) -> io::Result<Option<Self>> {
        let file = Self::open(path, create)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl ContainerLock {
    /// Waits until the lock of a container is free and takes it. Blocks the thread.
    ///
    /// # Errors
    /// [`StateError::File`], also when the container's folder is gone.
    pub fn wait(container: &ContainerDir) -> Result<Self, StateError> {
        let path = container.lock_file();
        FileLock::wait(&path).map(Self).map_err(|source| StateError::File { path, what: "locked", source })
    }

    /// Takes the lock of a container if it is free; `None` when a supervisor has it.
    ///
    /// # Errors
    /// [`StateError::File`], also when the container's folder is gone.
    pub fn attempt(container: &ContainerDir) -> Result<Option<Self>, StateError> {
        let path = container.lock_file();
        FileLock::attempt(&path, true).map(|lock| lock.map(Self)).map_err(|source| StateError::File {
            path,
            what: "locked",
            source,
        })
    }
}

/// Whether a container has no living supervisor. A container without a lock file has none.
///
/// # Errors
/// What opening or locking the file returns.
pub fn lock_is_free(container: &ContainerDir) -> io::Result<bool> {
    match FileLock::attempt(&container.lock_file(), false) {
        Ok(lock) => Ok(lock.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
