//! Being woken by a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that wakes whoever waits for it: an eventfd, a file of the kernel's that can be polled.
#[derive(Debug)]
pub(crate) struct Alarm {
    descriptor: AsyncFd<OwnedFd>,
    interest: Interest,
}

impl Alarm {
    /// Registers a descriptor with the event loop.
    ///
    /// # Errors
    /// The system's: it is of a kind that cannot be polled, say.
    #[expect(unsafe_code, reason = "tokio leaves it to the caller that the descriptor stays open")]
    pub(crate) fn new(descriptor: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: the registration owns the descriptor, which is thus open as long as it lives and is never another one.
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, interest) }?;
        Ok(Self { descriptor, interest })
    }

    /// Resolves when it has rung since the last call. Cancel safe.
    ///
    /// # Errors
    /// The event loop's.
    pub(crate) async fn rings(&self) -> io::Result<()> {
        self.descriptor.ready(self.interest).await?.clear_ready();
        Ok(())
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.get_ref().as_fd()
    }
}
