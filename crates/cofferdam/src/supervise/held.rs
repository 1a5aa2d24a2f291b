//! The process of a container that is not our child, held, and its exit status as the kernel still has it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::exit::ProcessEnd;
use crate::process::Claim;
use crate::state::{ProcessId, Record};
use crate::sys::{PidFd, from_raw_status};

/// How often the kernel is asked for the status of a process that is dead by its pidfd and not yet so in /proc.
const STATUS_ATTEMPTS: usize = 100;
/// A process of a record, held so that it cannot be taken for another one.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) pid: i32,
    start_time: u64,
    pub(crate) process: PidFd,
}

impl Held {
    /// Holds the process that a record names; `None` when the kernel does not know it any more.
    pub(crate) fn of(record: &Record, boot_id: &str) -> Option<Self> {
        Self::hold(record.process.as_ref()?, boot_id)
    }

    /// Holds a process; `None` when the kernel does not know it any more.
    pub(crate) fn hold(named: &ProcessId, boot_id: &str) -> Option<Self> {
        let process = PidFd::open(named.pid).ok()?;
        // After opening: from here on the handle means this process, so this is the moment to compare.
        named.is_known(boot_id).then_some(Self { pid: named.pid, start_time: named.start_time, process })
    }

    /// Watches a process as if it were a child: what it gives has no answer where nobody can tell how it ended. With a
    /// handle on it that was kept, it may have ended and been reaped.
    pub(super) fn watch(named: &ProcessId, boot_id: &str, kept: Option<OwnedFd>) -> Option<Claim> {
        let hold = || match &kept {
            Some(kept) => {
                let process = PidFd::from(kept.try_clone().ok()?);
                Some(Self { pid: named.pid, start_time: named.start_time, process })
            }
            None => Self::hold(named, boot_id),
        };
        let (held, watched) = (hold()?, hold()?);
        let (sender, end) = oneshot::channel();
        tokio::spawn(async move {
            if watched.process.ended().await.is_ok()
                && let Some(status) = watched.status().await
            {
                // Whoever watched may have given up.
                let _ = sender.send(status);
            }
        });
        Some(Claim { pid: held.pid, pidfd: Some(held.process), end })
    }

    /// The exit status of the process, which has ended; `None` where the kernel does not tell.
    pub(crate) async fn status(&self) -> Option<ProcessEnd> {
        for _ in 0..STATUS_ATTEMPTS {
            // Before its parent has reaped it, /proc has it; afterwards, the pidfd, and the pid may be another's.
            let stat = crate::proc::stat(self.pid)
                .filter(|stat| stat.start_time == self.start_time && stat.is_dead());
            match (self.process.exit_info(), stat) {
                (Ok(Some(raw)), _) => return Some(raw.into()),
                (_, Some(stat)) if stat.trusted_exit_code().is_some() => {
                    return stat.trusted_exit_code().and_then(from_raw_status).map(ProcessEnd::from);
                }
                (Ok(None), _) => tokio::time::sleep(Duration::from_millis(1)).await,
                (Err(_), _) => return None,
            }
        }
        None
    }
}
