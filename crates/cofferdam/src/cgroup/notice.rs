//! What the kernel tells of the memory of a cgroup to whoever waits for it. It is a reason to look, and no evidence.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;

use super::ControllerDirectory;
use crate::sys::Alarm;

/// Wakes whoever waits.
#[derive(Debug)]
pub(super) struct Notice {
    /// v1: an eventfd. v2: `memory.events`, which the kernel marks at most once in 10 ms (`cgroup_file_notify`).
    alarm: Alarm,
    /// v1: the file that the eventfd is registered for, which it is as long as that is open.
    registered: Option<File>,
}

impl Notice {
    /// Begins to listen: under v2 to all that is counted in `memory.events`, under v1 to what `file` tells of, from
    /// `threshold` on where it is one that takes a number.
    ///
    /// # Errors
    /// The system's: the cgroup is gone, say.
    pub(super) fn of(
        directory: &ControllerDirectory,
        file: &str,
        threshold: Option<u64>,
    ) -> io::Result<Self> {
        match directory {
            ControllerDirectory::V1(path) => {
                let told_of = File::open(path.join(file))?;
                let alarm = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let threshold = threshold.map_or_else(String::new, |bytes| format!(" {bytes}"));
                let registration = format!("{} {}{threshold}", alarm.as_raw_fd(), told_of.as_raw_fd());
                std::fs::write(path.join("cgroup.event_control"), registration)?;
                Ok(Self { alarm: Alarm::new(alarm, Interest::READABLE)?, registered: Some(told_of) })
            }
            ControllerDirectory::V2(path) => {
                let events = OwnedFd::from(File::open(path.join("memory.events"))?);
                Ok(Self { alarm: Alarm::new(events, Interest::PRIORITY)?, registered: None })
            }
        }
    }

    /// Resolves when the kernel has told of something since the last call. Cancel safe.
    ///
    /// # Errors
    /// The event loop's.
    pub(super) async fn comes(&self) -> io::Result<()> {
        self.alarm.rings().await?;
        if self.registered.is_some() {
            // EAGAIN: it has been taken.
            let _ = rustix::io::read(&self.alarm, &mut [0; 8]);
        }
        Ok(())
    }
}
