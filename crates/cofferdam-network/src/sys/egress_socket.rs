//! A netlink socket in the event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a socket for reading. It is not blocking, and stays open as long as the result.
///
/// # Errors
/// The event loop cannot watch it.
#[expect(unsafe_code, reason = "registering trusts that the descriptor stays the same, which no type says")]
pub(crate) fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: An `OwnedFd` gives the same open descriptor until it is dropped, and it is moved in.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
