//! Locks of the store, all of them flocks, which end with whoever holds them.
//!
//! - `store.lock`: shared while somebody uses content, exclusive while content is removed.
//! - `index.lock`: exclusive for the moment in which index.json changes.
//! - a partial blob, the folder of a partial layer: exclusive for whoever makes it whole.
//!
//! The kernel wakes nobody through a descriptor when a flock becomes free, and a thread that waits for one cannot be
//! stopped. So whoever waits tries again, in pauses that grow to [`LAST_PAUSE`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// The first pause before a lock is tried again; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest of these pauses: 50 tries in a second cost nothing, and nobody sees so short a delay.
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// How long a lock is waited for that is held for some calls of the file system only.
pub(super) const SHORT_LIMIT: Duration = Duration::from_secs(10);

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Shared,
    Exclusive,
}

/// Opens the file of a lock, and makes it where it is not there.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match options.read(true).open(path) {
        // On a file system that is read-only, it is enough that it is there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            options.write(true).create(true).truncate(false).mode(0o600).open(path)
        }
        opened => opened,
    }
}

/// Locks a file if that can be done at once.
pub(super) fn attempt(file: &File, how: How) -> io::Result<bool> {
    let operation = match how {
        How::Shared => FlockOperation::NonBlockingLockShared,
        How::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks a file within the limit; blocks the thread.
pub(super) fn within(file: &File, how: How, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let mut pauses = Pauses::default();
    while !attempt(file, how)? {
        if Instant::now() >= deadline {
            let text = "another process holds its lock; is it stopped?";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::park_timeout(pauses.next());
    }
    Ok(())
}

/// Locks a file, however long that takes. Cancel safe.
pub(super) async fn wait(file: &File, how: How) -> io::Result<()> {
    let mut pauses = Pauses::default();
    while !attempt(file, how)? {
        tokio::time::sleep(pauses.next()).await;
    }
    Ok(())
}

/// The pauses between two tries.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LAST_PAUSE);
        pause
    }
}

/// Whether an open file or directory is the one that has the path now: whoever held its lock may have renamed it.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
