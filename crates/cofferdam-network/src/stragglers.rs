//! Plugins whose caller was killed: they go on, and would make things after everything was taken away.
//!
//! They are known by `CNI_CONTAINERID` in their environment, which the programs that they call inherit.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long plugins may go on by themselves. Half done work leaves more behind than work that is done and undone:
/// host-local, killed between the making of a lease and the writing of it, leaves one that nobody owns.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Waits until no plugin is at work for a container, and kills those that do not end.
///
/// # Errors
/// `TimedOut` when one cannot even be killed.
pub(crate) fn wait_for_end(container_id: &str) -> io::Result<()> {
    let started = Instant::now();
    loop {
        let plugins = running(container_id)?;
        if plugins.is_empty() {
            return Ok(());
        }
        if started.elapsed() > PATIENCE + KILL_PATIENCE {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "a plugin can be neither waited for nor killed",
            ));
        }
        for plugin in plugins {
            let left = PATIENCE.saturating_sub(started.elapsed());
            if !has_ended_within(&plugin, left)? {
                tracing::warn!(container_id, "a plugin that nobody waits for does not end, and is killed");
                // It may be gone by now.
                let _ = pidfd_send_signal(&plugin, Signal::KILL);
                has_ended_within(&plugin, KILL_PATIENCE)?;
            }
        }
    }
}

fn running(container_id: &str) -> io::Result<Vec<OwnedFd>> {
    let wanted = format!("CNI_CONTAINERID={container_id}");
    let is_plugin = |pid: Pid| {
        // Processes come and go meanwhile.
        let environment =
            std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) =
            entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if !is_plugin(pid) {
            continue;
        }
        // Looked at again, with the handle in hand, the number cannot be another process's.
        if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
            && is_plugin(pid)
        {
            found.push(handle);
        }
    }
    Ok(found)
}

fn has_ended_within(process: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    let timeout = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&timeout)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        count => Ok(count? > 0),
    }
}
