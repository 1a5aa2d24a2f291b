//! Signals by number, real-time ones included, to a process held by a pidfd.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::signal::Signal;

/// Sends `signal` to the process behind `pidfd`.
#[expect(unsafe_code, reason = "rustix takes named signals only; a container may want SIGRTMIN+3")]
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    // SAFETY: the descriptor is valid for the borrow, the signal is in 1..=64 by construction, and a null siginfo
    // asks the kernel to fill it in as kill() would.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal.number(),
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
