//! Being told of changes in folders.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells when something in some folders has changed: a file was written, made, renamed or removed.
#[derive(Debug)]
pub(crate) struct FolderWatch(OwnedFd);

impl FolderWatch {
    /// Watches folders; those that are not there are passed over.
    ///
    /// # Errors
    /// What the kernel returns: its limit of watches (`ENOSPC`), say.
    pub(crate) fn new(folders: &[&Path]) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        for folder in folders {
            match inotify::add_watch(&watch, *folder, events) {
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Self(watch))
    }

    /// Resolves after a change since the last call. Cancel safe.
    ///
    /// # Errors
    /// What registering the descriptor with the event loop returns.
    #[expect(unsafe_code, reason = "tokio leaves it to the caller that the descriptor stays open")]
    pub(crate) async fn changed(&self) -> io::Result<()> {
        // SAFETY: the descriptor is borrowed from `self`, which outlives the registration.
        let fd = unsafe { AsyncFd::register_with_interest(self.0.as_fd(), Interest::READABLE) }?;
        let _guard = fd.readable().await?;
        let mut events = [0; 4096];
        // What they say does not matter: whoever is told looks again in any case.
        while rustix::io::read(&self.0, &mut events[..]).is_ok_and(|count| count > 0) {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_told_and_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let watch = FolderWatch::new(&[folder.path(), Path::new("/nonexistent")]).unwrap();
        std::fs::write(folder.path().join("x"), "x").unwrap();
        watch.changed().await.unwrap();
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), watch.changed());
        assert!(again.await.is_err());
    }
}
