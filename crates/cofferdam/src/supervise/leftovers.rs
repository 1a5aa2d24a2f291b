//! Ending whatever is left of a container, and making sure that it is.
//!
//! A process belongs to the container when it is in the container's cgroup (which carries the id), when it is a stray
//! child of its supervisor, or when it is a program of its runtime that names the state root and the id. Nothing else
//! is ever signalled, and everything by pidfd.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::cgroup::{CgroupPath, Cgroups, processes_in};
use crate::id::ContainerId;
use crate::process::Reaper;
use crate::signal::Signal;
use crate::sys::PidFd;

/// How long killed processes may take to be gone. A process in uninterruptible sleep may take longer; it is reported.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// What marks a process as the container's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks<'a> {
    pub(crate) id: &'a ContainerId,
    /// The state root of its runtime.
    pub(crate) root: &'a Path,
    /// The name of its binary.
    pub(crate) program: &'a OsStr,
    pub(crate) cgroups: &'a Cgroups,
    pub(crate) cgroup: Option<&'a CgroupPath>,
    /// Whether stray children of this process are the container's: in its supervisor, and only there.
    pub(crate) with_strays: bool,
}

/// Kills everything that is left of a container and waits until it is gone. Cancel safe: it can be called again.
///
/// # Errors
/// Names the processes that did not go in time.
pub(crate) async fn end_everything(marks: Marks<'_>) -> io::Result<()> {
    let deadline = Instant::now() + DEATH_LIMIT;
    let mut stubborn = BTreeSet::new();
    loop {
        if let Some(cgroup) = marks.cgroup {
            // A frozen process dies only when it is thawed (cgroup v1).
            crate::cgroup::thaw(marks.cgroups, cgroup);
        }
        let left: BTreeSet<i32> = find(marks).difference(&stubborn).copied().collect();
        if left.is_empty() {
            break;
        }
        let held: Vec<(i32, PidFd)> =
            left.iter().filter_map(|pid| Some((*pid, PidFd::open(*pid).ok()?))).collect();
        for (pid, process) in &held {
            tracing::debug!(pid, "killing what is left of the container");
            // ESRCH: it has just ended.
            let _ = process.signal(Signal::KILL);
        }
        if held.is_empty() {
            // They went between the two looks, or will in a moment.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for (pid, process) in held {
            if tokio::time::timeout_at(deadline, process.ended()).await.is_err() {
                stubborn.insert(pid);
            }
        }
        if Instant::now() >= deadline {
            stubborn.extend(find(marks));
            break;
        }
    }
    if stubborn.is_empty() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("processes {stubborn:?} did not end after SIGKILL")))
}

/// Finds what is left of a container: living processes only.
fn find(marks: Marks<'_>) -> BTreeSet<i32> {
    let mut pids = marks.cgroup.map(|path| processes_in(marks.cgroups, path)).unwrap_or_default();
    if marks.with_strays
        && let Ok(reaper) = Reaper::get()
    {
        pids.extend(reaper.strays());
    }
    pids.extend(runtime_processes(marks));
    pids.retain(|pid| crate::proc::start_time_of_living(*pid).is_some());
    pids
}

/// Programs of a runtime that work for this container: they name its state root and its id. The sandbox, the gofer
/// and a call of the runtime that its caller did not live to end all do.
fn runtime_processes(marks: Marks<'_>) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let root = marks.root.to_string_lossy();
    let joined = format!("--root={root}");
    crate::proc::all_pids()
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let args = crate::proc::arguments(*pid);
            let names_root =
                args.contains(&joined) || args.windows(2).any(|pair| pair[0] == "--root" && pair[1] == root);
            names_root && args.iter().any(|arg| arg == marks.id.as_str()) && is_program(&args, marks.program)
        })
        .collect()
}

/// Whether these are the arguments of a runtime, or of what it starts: whoever only reads its log names the same paths.
fn is_program(args: &[String], program: &OsStr) -> bool {
    // A runtime may be a script, whose interpreter comes first.
    args.iter().take(2).any(|arg| {
        let name = Path::new(arg).file_name().unwrap_or_default();
        name == program || name == "runsc-sandbox" || name == "runsc-gofer"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pager_that_shows_the_log_is_no_runtime() {
        let is = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            is_program(&args, OsStr::new("runsc"))
        };
        assert!(is(&["/usr/bin/runsc", "--root", "/r", "kill", "x"]) && is(&["runsc-sandbox", "--root=/r"]));
        assert!(is(&["/bin/sh", "/opt/runsc", "--root", "/r"]));
        assert!(!is(&["vim", "--root=/r", "x"]) && !is(&["grep", "-e", "runsc", "--root=/r"]) && !is(&[]));
    }
}
