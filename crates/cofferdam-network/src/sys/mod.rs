//! Where this crate is unsafe.

pub(crate) mod egress_socket;

use rustix::thread::UnshareFlags;

/// Puts this thread into a new network namespace, alone.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN; `ENOSPC` at the kernel's limit of namespaces.
#[expect(
    unsafe_code,
    reason = "unshare is unsafe in rustix because of the flag CLONE_FILES, which is not used here"
)]
pub(crate) fn unshare_network() -> rustix::io::Result<()> {
    // SAFETY: CLONE_NEWNET changes nothing but the calling thread's network namespace; the table of descriptors stays
    // shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}
