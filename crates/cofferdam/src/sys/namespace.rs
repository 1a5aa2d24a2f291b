//! What kind of namespace a descriptor is, and a look from inside a fresh network namespace.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::thread::UnshareFlags;

/// Kinds of namespaces, as `NS_GET_NSTYPE` names them by their clone flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamespaceKind {
    /// A network namespace.
    Network,
    /// Any other kind.
    Other,
}

/// `_IO(NSIO = 0xb7, 3)`: returns the clone flag of the namespace.
const NS_GET_NSTYPE: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0xb7, 3);

/// An ioctl without argument whose result is its return value.
struct NsGetType;

#[expect(unsafe_code, reason = "rustix has no wrapper of NS_GET_NSTYPE")]
// SAFETY: the opcode takes no argument, so a null pointer is right, and the result is the plain return value.
unsafe impl rustix::ioctl::Ioctl for NsGetType {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        NS_GET_NSTYPE
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

/// Says what kind of namespace the descriptor is; `None` when it is no namespace at all.
#[expect(unsafe_code, reason = "the ioctl trait of rustix is unsafe to call")]
pub(crate) fn namespace_kind(fd: BorrowedFd<'_>) -> Option<NamespaceKind> {
    // SAFETY: NS_GET_NSTYPE reads and writes no memory; on other files the kernel answers ENOTTY.
    let flag = unsafe { rustix::ioctl::ioctl(fd, NsGetType) }.ok()?;
    Some(if flag == libc::CLONE_NEWNET { NamespaceKind::Network } else { NamespaceKind::Other })
}

/// Runs `look` on a thread of its own inside a new, empty network namespace, which goes with the thread.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
#[expect(
    unsafe_code,
    reason = "unshare is unsafe in rustix because of the flag CLONE_FILES, which is not used here"
)]
pub(crate) fn with_fresh_network_namespace<T: Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("netns-probe".into()).spawn(move || {
        // SAFETY: only CLONE_NEWNET, on a thread that ends right after; no descriptor table is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        Ok(look())
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the probe thread panicked")))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn namespaces_are_told_from_files() {
        let net = std::fs::File::open("/proc/self/ns/net").unwrap();
        assert_eq!(namespace_kind(net.as_fd()), Some(NamespaceKind::Network));
        let pid = std::fs::File::open("/proc/self/ns/pid").unwrap();
        assert_eq!(namespace_kind(pid.as_fd()), Some(NamespaceKind::Other));
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert_eq!(namespace_kind(file.as_fd()), None);
    }
}
