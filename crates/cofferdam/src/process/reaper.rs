//! The one place that waits for children.
//!
//! A thread blocks in `waitid` for any child; it looks first, takes the lock, and only then reaps, so that a pid
//! cannot be given to another process while somebody is about to use it. Statuses go to whoever watches the pid.
//! Those of strays (children that we did not start: containers, sandboxes and their helpers, handed to us as the
//! subreaper) are kept while a [`LaunchWindow`] is open, because a container may be dead before its pid is known.
//!
//! What is not here: deciding what a status means (`exit`), and starting anything (`invoke`).

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal as KernelSignal, WaitId, WaitIdOptions};
use tokio::sync::oneshot;

use crate::exit::ProcessEnd;
use crate::sys::{self, PidFd};

/// Strays whose status is kept while a launch window is open. A container that makes more orphans than this while it
/// is being started loses the oldest, which are not its first process.
const STRAY_LIMIT: usize = 4096;

/// Reaps every child of this process. There is one, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Reaper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<i32, oneshot::Sender<ProcessEnd>>,
    strays: Vec<(i32, ProcessEnd)>,
    windows: usize,
    /// Counts the children that were started, so that the thread knows when it may have one again.
    started: u64,
    /// Told when no child is left.
    idle: Vec<oneshot::Sender<()>>,
}

/// While this lives, the statuses of strays are kept.
#[derive(Debug)]
pub(crate) struct LaunchWindow(&'static Reaper);

/// A child that we did not start, by its pid.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Its pid.
    pub(crate) pid: i32,
    /// A handle; `None` when it is dead already.
    pub(crate) pidfd: Option<PidFd>,
    /// Gets its status.
    pub(crate) end: oneshot::Receiver<ProcessEnd>,
}

/// A pid that cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// The process is not our child, so it is not what the runtime says.
    #[error("process {0} is not a child of this supervisor")]
    NotOurs(i32),
    /// Somebody watches it already.
    #[error("process {0} is watched already")]
    Taken(i32),
    /// The kernel refused the handle.
    #[error("process {pid} cannot be held")]
    Handle {
        /// The pid.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Reaper {
    /// The reaper of this process. The first call starts its thread and makes this process a child subreaper.
    ///
    /// From then on nothing else may wait for children here: not `std::process::Child::wait`, not tokio's processes.
    pub(crate) fn get() -> io::Result<&'static Self> {
        static REAPER: OnceLock<Reaper> = OnceLock::new();
        if let Some(reaper) = REAPER.get() {
            return Ok(reaper);
        }
        // Before anything is started: an orphan that is made earlier would go to init.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut fresh = false;
        let reaper = REAPER.get_or_init(|| {
            fresh = true;
            Self { state: Mutex::default(), changed: Condvar::new() }
        });
        if fresh {
            std::thread::Builder::new()
                .name("reaper".into())
                .stack_size(64 << 10)
                .spawn(|| reaper.reap_forever())?;
        }
        Ok(reaper)
    }

    /// Starts a child and watches it.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Child, oneshot::Receiver<ProcessEnd>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        // Whatever else this process has open, and with which flags: a child gets its standard streams. A kernel
        // without the call (before 5.11) leaves it to the flags.
        let _ = sys::keep_from_children();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        state.watched.insert(pid, sender);
        state.started += 1;
        self.changed.notify_all();
        Ok((child, receiver))
    }

    /// Begins to keep the statuses of strays.
    pub(crate) fn open_window(&'static self) -> LaunchWindow {
        self.lock().windows += 1;
        LaunchWindow(self)
    }

    /// Takes over the watch of a child that somebody else started.
    pub(crate) fn claim(&self, pid: i32) -> Result<Claim, ClaimError> {
        let (sender, end) = oneshot::channel();
        let mut state = self.lock();
        if let Some(position) = state.strays.iter().position(|(stray, _)| *stray == pid) {
            let (_, status) = state.strays.remove(position);
            // The receiver is held here, so this cannot fail.
            let _ = sender.send(status);
            return Ok(Claim { pid, pidfd: None, end });
        }
        if state.watched.contains_key(&pid) {
            return Err(ClaimError::Taken(pid));
        }
        if !is_our_child(pid) {
            return Err(ClaimError::NotOurs(pid));
        }
        // A child that is not reaped keeps its pid, and nobody reaps while the lock is held.
        let pidfd = PidFd::open(pid).map_err(|source| ClaimError::Handle { pid, source })?;
        state.watched.insert(pid, sender);
        Ok(Claim { pid, pidfd: Some(pidfd), end })
    }

    /// Kills the process group of a child that we started, unless it has been reaped.
    pub(crate) fn kill_group(&self, pid: i32) {
        let state = self.lock();
        if let (true, Some(group)) = (state.watched.contains_key(&pid), Pid::from_raw(pid)) {
            // ESRCH: the group is gone, which is what is wanted.
            let _ = rustix::process::kill_process_group(group, KernelSignal::KILL);
        }
    }

    /// The children that nobody watches: what a launch has left.
    pub(crate) fn strays(&self) -> Vec<i32> {
        let state = self.lock();
        // A watch that nobody waits for any more is none: the launch that made it has been given up.
        let is_watched = |pid: &i32| state.watched.get(pid).is_some_and(|watcher| !watcher.is_closed());
        children().into_iter().filter(|pid| !is_watched(pid)).collect()
    }

    /// Resolves once this process has no child left. Cancel safe.
    pub(crate) async fn no_children(&self) {
        let receiver = {
            let mut state = self.lock();
            if !has_children() {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            state.idle.push(sender);
            receiver
        };
        // The sender is dropped only after it was used.
        let _ = receiver.await;
    }

    fn reap_forever(&self) {
        let mut seen_started = 0;
        loop {
            match sys::peek_any_child() {
                Ok(pid) => self.reap(pid),
                Err(_) => {
                    let mut state = self.lock();
                    for waiter in state.idle.drain(..) {
                        // Whoever waited may have given up.
                        let _ = waiter.send(());
                    }
                    while state.started == seen_started {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    seen_started = state.started;
                }
            }
        }
    }

    fn reap(&self, pid: Pid) {
        let mut state = self.lock();
        let Ok(Some(raw)) = sys::reap(pid) else { return };
        let (pid, status) = (pid.as_raw_pid(), ProcessEnd::from(raw));
        if let Some(watcher) = state.watched.remove(&pid) {
            // Whoever watched may have given up.
            let _ = watcher.send(status);
        } else if state.windows > 0 {
            if state.strays.len() == STRAY_LIMIT {
                state.strays.remove(0);
            }
            state.strays.push((pid, status));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves the maps whole: each change is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LaunchWindow {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.windows -= 1;
        if state.windows == 0 {
            state.strays.clear();
        }
    }
}

fn is_our_child(pid: i32) -> bool {
    // rustix asserts that it is not negative.
    let Some(pid) = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else { return false };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(pid), options).is_ok()
}

fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::All, options).is_ok()
}

/// Pids of all children of this process, of every thread.
fn children() -> Vec<i32> {
    let mut pids = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    pids
}
