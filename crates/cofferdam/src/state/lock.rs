//! The lock that tells a living supervisor from a dead one.
//!
//! Whoever only looks takes it shared, so that two who look do not take each other for a supervisor. Nobody waits for
//! it without a limit: a process that holds one may be stopped.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::{ContainerDir, StateError};

/// How long a lock that is held for a moment only may take: one that guards a few calls of the file system.
const SHORT_LIMIT: Duration = Duration::from_secs(10);
/// How long whoever only looks may hold a lock.
const LOOK_LIMIT: Duration = Duration::from_millis(50);
/// The first pause before a lock is tried again; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// The longest of these pauses.
const LAST_PAUSE: Duration = Duration::from_millis(20);

/// An exclusive lock on a file, given back when it is dropped or its process dies.
///
/// The descriptor is close-on-exec, so no child keeps the lock.
#[derive(Debug)]
pub(crate) struct FileLock(#[expect(dead_code, reason = "it is held, not read")] File);

/// The lock of a container: whoever has it is its supervisor, or repairs what a dead one left.
#[derive(Debug)]
pub struct ContainerLock(#[expect(dead_code, reason = "it is held, not read")] FileLock);

impl FileLock {
    /// For reading, which is enough for a lock, also on a file system that has become read-only.
    fn open(path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn open_or_make(path: &Path) -> io::Result<File> {
        match Self::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut options = std::fs::OpenOptions::new();
                drop(options.write(true).create(true).truncate(false).mode(0o600).open(path)?);
                Self::open(path)
            }
            opened => opened,
        }
    }

    /// Waits for a lock that nobody holds for long. Blocks the thread.
    pub(crate) fn wait(path: &Path) -> io::Result<Self> {
        Self::within(path, SHORT_LIMIT)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, "another process holds the lock; is it stopped?")
        })
    }

    /// Takes the lock if it becomes free within the limit. Blocks the thread.
    pub(crate) fn within(path: &Path, limit: Duration) -> io::Result<Option<Self>> {
        let file = Self::open_or_make(path)?;
        let deadline = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        loop {
            if lock(&file, FlockOperation::NonBlockingLockExclusive)? {
                return if is_at(&file, path)? {
                    Ok(Some(Self(file)))
                } else {
                    Err(io::ErrorKind::NotFound.into())
                };
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// Locks a file; says whether that could be done at once.
fn lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the file is still the one that its path names: its folder may have been removed by whoever had the lock.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, there) = (file.metadata()?, std::fs::metadata(path)?);
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

impl ContainerLock {
    /// Takes the lock of a container if it is free or becomes so within the limit; `None` when a supervisor has it.
    /// Cancel safe: when the future is dropped, the lock is given back at the latest when the limit is reached.
    ///
    /// # Errors
    /// [`StateError::File`]; [`io::ErrorKind::NotFound`] in it when the container's folder is gone.
    pub async fn within(container: &ContainerDir, limit: Duration) -> Result<Option<Self>, StateError> {
        let path = container.lock_file();
        let failed = |source| StateError::File { path: container.lock_file(), what: "locked", source };
        match FileLock::within(&path, Duration::ZERO).map_err(failed)? {
            Some(lock) => Ok(Some(Self(lock))),
            None if limit.is_zero() => Ok(None),
            None => {
                let waiting = tokio::task::spawn_blocking(move || FileLock::within(&path, limit));
                waiting.await.map_err(io::Error::other).flatten().map(|lock| lock.map(Self)).map_err(failed)
            }
        }
    }

    /// Takes the lock of a container if it is free; `None` when a supervisor has it. Blocks for a moment where somebody
    /// looks at the container.
    ///
    /// # Errors
    /// Like [`ContainerLock::within`].
    pub fn attempt(container: &ContainerDir) -> Result<Option<Self>, StateError> {
        let path = container.lock_file();
        let failed = |source| StateError::File { path: container.lock_file(), what: "locked", source };
        Ok(FileLock::within(&path, LOOK_LIMIT).map_err(failed)?.map(Self))
    }
}

/// Whether a container has no living supervisor. A container without a lock file has none.
///
/// # Errors
/// What opening or locking the file returns.
pub fn lock_is_free(container: &ContainerDir) -> io::Result<bool> {
    match FileLock::open(&container.lock_file()) {
        Ok(file) => lock(&file, FlockOperation::NonBlockingLockShared),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
