//! Locks between processes: `flock` on files and directories, which the kernel lets go of when a process dies.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// What a lock excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Holders of [`Hold::Alone`].
    Shared,
    /// Everybody.
    Alone,
}

impl Lock {
    /// Waits for a lock on a file, which is made if it is missing.
    pub(crate) fn file(path: &Path, hold: Hold) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(CWD, path, flags, Mode::from_raw_mode(0o600))?;
        let operation = match hold {
            Hold::Shared => FlockOperation::LockShared,
            Hold::Alone => FlockOperation::LockExclusive,
        };
        retry(|| flock(&file, operation))?;
        Ok(Self { _file: file.into() })
    }

    /// The same without stopping the event loop.
    pub(crate) async fn file_async(path: PathBuf, hold: Hold) -> io::Result<Self> {
        tokio::task::spawn_blocking(move || Self::file(&path, hold)).await.map_err(io::Error::other)?
    }

    /// Waits for a directory for oneself; `None` when it is not there, or was removed or moved while waiting.
    pub(crate) fn directory(path: &Path) -> io::Result<Option<Self>> {
        Self::directory_with(path, FlockOperation::LockExclusive)
    }

    /// The same, `Err(WouldBlock)` instead of waiting.
    pub(crate) fn try_directory(path: &Path) -> io::Result<Option<Self>> {
        Self::directory_with(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn directory_with(path: &Path, operation: FlockOperation) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(CWD, path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        retry(|| flock(&file, operation))?;
        // Whoever had the lock before may have removed or moved the directory.
        let held = rustix::fs::fstat(&file)?;
        match rustix::fs::lstat(path) {
            Ok(there) if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino) => {
                Ok(Some(Self { _file: file.into() }))
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn retry(mut lock: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
