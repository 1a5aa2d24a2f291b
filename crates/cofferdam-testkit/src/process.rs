//! Processes that a test kills.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::lab::eventually;

/// Sends a signal to a process.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn signal_process(pid: i32, signal: Signal) {
    let target = Pid::from_raw(pid).expect("a pid is not 0");
    rustix::process::kill_process(target, signal).unwrap_or_else(|error| panic!("{pid}: {error}"));
}

/// Whether a process has ended with all its threads; it may wait for its parent still.
///
/// # Panics
/// When the kernel does not tell.
#[must_use]
pub fn has_ended(pid: i32) -> bool {
    match pidfd_open(Pid::from_raw(pid).expect("a pid is not 0"), PidfdFlags::empty()) {
        Ok(process) => {
            let mut polled = [PollFd::new(&process, PollFlags::IN)];
            poll(&mut polled, Some(&Timespec::default())).expect("a pidfd can be polled") > 0
        }
        Err(_) => true,
    }
}

/// Kills a process, and waits until it has ended.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn kill_process(pid: i32) {
    signal_process(pid, Signal::KILL);
    eventually("it has ended", || has_ended(pid));
}
