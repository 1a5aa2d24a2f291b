//! Doing something inside of a network namespace.
//!
//! A thread that has gone to another namespace is never used again, so it is not one of a pool.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::GateError;

/// Opens the file of a network namespace.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Runs `act` on a thread inside of a network namespace. Sockets that it opens stay of that namespace.
///
/// A dropped future does not stop the thread, which takes milliseconds.
pub(super) async fn enter<T: Send + 'static>(
    namespace: &Path,
    what: &'static str,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, GateError> {
    let failed = |source| GateError::Namespace { namespace: namespace.to_owned(), what, source };
    let file = open(namespace).map_err(failed)?;
    let inside = move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    };
    on_thread(inside).await.map_err(failed)
}

/// Runs `act` on a thread in the namespace of this process.
pub(super) async fn on_thread<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("egress".into()).spawn(move || {
        // Nobody waits for the result where the future was dropped.
        let _ = sender.send(act());
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}
