//! Keeping descriptors from children.

use std::io;

/// Marks every descriptor of this process but the standard streams close-on-exec, so that no child inherits any
/// (CVE-2024-21626 came of one that was).
///
/// # Errors
/// `ENOSYS` before Linux 5.11.
#[expect(unsafe_code, reason = "rustix has no wrapper of close_range")]
pub(crate) fn keep_from_children() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: with this flag the call closes nothing; it sets a flag on descriptors, which no Rust object relies on
    // being clear.
    let rc = unsafe { libc::close_range(FIRST, libc::c_uint::MAX, flags) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inheritable_descriptor_is_so_no_more() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        keep_from_children().unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&file).unwrap(), rustix::io::FdFlags::CLOEXEC);
    }
}
