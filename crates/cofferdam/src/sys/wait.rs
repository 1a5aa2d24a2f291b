//! Waiting for children in two steps: look at which one is dead, then take its status.
//!
//! The two steps let a reaper take its lock in between: as long as a dead child has not been reaped, its number
//! cannot be given to another process.

use std::io;

use rustix::process::{Pid, WaitOptions};

/// How the kernel says that a process ended, as `waitpid` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawExit {
    /// The process called `exit` with this code.
    Exited(u8),
    /// A signal ended the process.
    Signaled {
        /// Number of the signal.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
}

/// Blocks until any child of this process is dead, and returns its pid without reaping it.
///
/// # Errors
/// `ECHILD` when there is no child at all.
#[expect(unsafe_code, reason = "rustix::process::waitid does not return which child it found")]
pub(crate) fn peek_any_child() -> io::Result<Pid> {
    loop {
        // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` lives through the call and the kernel writes at most one siginfo_t to it.
        let rc = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        if rc == 0 {
            // SAFETY: after a successful waitid the kernel has filled the SIGCHLD part of the union.
            let pid = unsafe { info.si_pid() };
            if let Some(pid) = Pid::from_raw(pid) {
                return Ok(pid);
            }
            continue;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Takes the exit status of a child that is known to be dead. `None` if it is not dead after all.
pub(crate) fn reap(pid: Pid) -> io::Result<Option<RawExit>> {
    let Some((_, status)) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)? else {
        return Ok(None);
    };
    Ok(from_raw_status(status.as_raw()))
}

/// Decodes a wait status as the kernel encodes it; `None` for a process that is only stopped or continued.
pub(crate) fn from_raw_status(status: i32) -> Option<RawExit> {
    if libc::WIFEXITED(status) {
        return u8::try_from(libc::WEXITSTATUS(status)).ok().map(RawExit::Exited);
    }
    libc::WIFSIGNALED(status)
        .then(|| RawExit::Signaled { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_status_is_decoded() {
        assert_eq!(from_raw_status(0x0700), Some(RawExit::Exited(7)));
        assert_eq!(from_raw_status(0xff00), Some(RawExit::Exited(255)));
        assert_eq!(from_raw_status(0x0009), Some(RawExit::Signaled { signal: 9, core_dumped: false }));
        assert_eq!(from_raw_status(0x008b), Some(RawExit::Signaled { signal: 11, core_dumped: true }));
        // A real-time signal: enums of named signals lose it.
        assert_eq!(from_raw_status(0x0022), Some(RawExit::Signaled { signal: 34, core_dumped: false }));
        assert_eq!(from_raw_status(0x137f), None, "stopped is not ended");
    }
}
