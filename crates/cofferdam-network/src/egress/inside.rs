//! Doing something on a thread of its own, inside of a network namespace, without blocking the event loop.

use std::io;
use std::path::Path;

use super::error::GateError;
use crate::namespace;

/// Runs `act` inside of a network namespace. Sockets that it opens stay of that namespace.
///
/// A dropped future does not stop it; it takes milliseconds.
pub(super) async fn enter<T: Send + 'static>(
    namespace: &Path,
    what: &'static str,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, GateError> {
    let path = namespace.to_owned();
    let done = on_thread(move || namespace::enter(&path, act)).await;
    done.map_err(|source| GateError::Namespace { namespace: namespace.to_owned(), what, source })
}

/// Runs `act` in the namespace of this process.
pub(super) async fn on_thread<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("egress".into()).spawn(move || {
        // Nobody waits for the result where the future was dropped.
        let _ = sender.send(act());
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}
