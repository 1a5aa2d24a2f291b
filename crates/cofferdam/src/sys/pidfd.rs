//! A handle on a process that cannot come to mean another one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

use super::wait::{RawExit, from_raw_status};
use crate::signal::Signal;

/// A process, held by a pidfd: a recycled pid can never be taken for it.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

/// `struct pidfd_info` of the kernel in its first version (linux/pidfd.h, since 6.13; `exit_code` since 6.15).
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// Asks for, and marks the presence of, `exit_code`.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(PIDFS_IOCTL_MAGIC = 0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<PidfdInfo>(0xFF, 11);

impl PidFd {
    /// Opens a handle on the process that has this pid now.
    ///
    /// The caller makes sure that the pid still means what it thinks: by being its parent and not having reaped
    /// it, or by comparing the process's start time afterwards.
    ///
    /// # Errors
    /// `ESRCH` when there is no such process.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        // rustix asserts that it is not negative.
        let pid = Some(pid)
            .filter(|pid| *pid > 0)
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// `ESRCH` when it is dead and reaped, `EPERM` when this process may not signal it.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        super::send_signal(self.0.as_fd(), signal)
    }

    /// Whether the process has ended. A zombie has ended.
    ///
    /// # Errors
    /// What `poll` returns.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        self.wait_ended(Duration::ZERO)
    }

    /// Blocks until the process has ended, at most for `limit`; says whether it has.
    ///
    /// # Errors
    /// What `poll` returns.
    pub(crate) fn wait_ended(&self, limit: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the process has ended. Cancel safe: nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// What registering the descriptor with the event loop returns.
    #[expect(unsafe_code, reason = "tokio leaves it to the caller that the descriptor stays open")]
    pub(crate) async fn ended(&self) -> io::Result<()> {
        // SAFETY: the descriptor is borrowed from `self`, which outlives the registration.
        let fd = unsafe { AsyncFd::register_with_interest(self.0.as_fd(), tokio::io::Interest::READABLE) }?;
        let _guard = fd.readable().await?;
        Ok(())
    }

    /// The exit status of a process that is not our child, from the kernel's own record; `None` as long as its
    /// parent has not reaped it.
    ///
    /// # Errors
    /// Where the kernel cannot tell: `ENOTTY` before 6.13, `ESRCH` for a reaped process before 6.15.
    #[expect(unsafe_code, reason = "rustix has no wrapper of PIDFD_GET_INFO")]
    pub(crate) fn exit_info(&self) -> io::Result<Option<RawExit>> {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the opcode carries the size of PidfdInfo, so the kernel reads and writes no more than that, and
        // `info` outlives the call.
        unsafe {
            rustix::ioctl::ioctl(&self.0, rustix::ioctl::Updater::<PIDFD_GET_INFO, PidfdInfo>::new(&mut info))
        }?;
        Ok(if info.mask & PIDFD_INFO_EXIT == 0 { None } else { from_raw_status(info.exit_code) })
    }
}

impl From<OwnedFd> for PidFd {
    /// Of a descriptor that is one.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_and_signal_zero_is_not_needed() {
        let own = PidFd::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(!own.has_ended().unwrap());
        assert!(own.exit_info().ok().flatten().is_none());
    }

    #[test]
    fn an_impossible_pid_is_refused() {
        assert!(PidFd::open(0).is_err());
        assert!(PidFd::open(-5).is_err());
        assert_eq!(PidFd::open(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
