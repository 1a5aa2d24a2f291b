//! Memory that the allocator keeps for later.

/// Gives memory that was freed back to the kernel: for a process that has done its large work and lives long.
#[expect(unsafe_code, reason = "no crate has malloc_trim in a safe form")]
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, may be called by any thread at any time, and leaves all that is in use as it is.
    unsafe {
        libc::malloc_trim(0);
    }
}
