//! The one place that waits for children.
//!
//! A thread blocks in `waitid` for any child; it looks first, takes the lock, and only then reaps, so that a pid
//! cannot be given to another process while somebody is about to use it. Statuses go to whoever watches the pid.
//! Those of strays (children that we did not start: containers, sandboxes and their helpers, handed to us as the
//! subreaper) are kept while a [`LaunchWindow`] is open, because a container may be dead before its pid is known.
//!
//! Invariant: a child that this process had before there was a reaper, that was started apart (a monitor), or that is
//! another container's (`kin`), is reaped and never taken for a stray.
//! What is not here: deciding what a status means (`exit`), and starting anything (`invoke`).

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal as KernelSignal, WaitId, WaitIdOptions};
use tokio::sync::oneshot;

use super::kin::is_of_another;
use crate::exit::ProcessEnd;
use crate::id::ContainerId;
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
    /// Children that are no container's, with the time at which each was started (`/proc/PID/stat`).
    apart: HashMap<i32, u64>,
    /// Whether a container is supervised: all strays are that one's.
    supervising: bool,
    /// That container, once it has an id.
    container: Option<ContainerId>,
    /// Counts the children that were started, so that the thread knows when it may have one again.
    started: u64,
    /// Told when no stray is left.
    idle: Vec<oneshot::Sender<()>>,
}

/// The right to supervise a container in this process, of which there is one: strays do not say whose they are.
#[derive(Debug)]
pub(crate) struct Seat(&'static Reaper);

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

impl Seat {
    /// Says which container it is for.
    pub(crate) fn is_for(&self, container: &ContainerId) {
        self.0.lock().container = Some(container.clone());
    }
}

impl Reaper {
    /// The reaper of this process. The first call starts its thread and makes this process a child subreaper.
    ///
    /// From then on nothing else may wait for children here: not `std::process::Child::wait`, not tokio's processes.
    pub(crate) fn get() -> io::Result<&'static Self> {
        static REAPER: Mutex<Option<&'static Reaper>> = Mutex::new(None);
        let mut slot = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reaper) = *slot {
            return Ok(reaper);
        }
        // Children from before (a shell's, when it has called exec) are not ours to judge. An orphan of theirs that is
        // made later is, and no pid tells it from a container's.
        let apart = children().into_iter().filter_map(|pid| Some((pid, crate::proc::stat(pid)?.start_time)));
        let state = State { apart: apart.collect(), ..State::default() };
        // Before anything is started: an orphan that is made earlier would go to init.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        // One for the life of the process: its thread uses it to the end.
        let reaper: &'static Self =
            Box::leak(Box::new(Self { state: Mutex::new(state), changed: Condvar::new() }));
        std::thread::Builder::new()
            .name("reaper".into())
            .stack_size(64 << 10)
            .spawn(|| reaper.reap_forever())?;
        *slot = Some(reaper);
        Ok(reaper)
    }

    /// Takes the right to supervise a container; `None` when this process supervises one.
    pub(crate) fn take_seat(&'static self) -> Option<Seat> {
        let mut state = self.lock();
        let free = !std::mem::replace(&mut state.supervising, true);
        free.then(|| Seat(self))
    }

    /// Starts a child and watches it.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Child, oneshot::Receiver<ProcessEnd>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let (child, pid) = self.start(&mut state, command)?;
        state.watched.insert(pid, sender);
        Ok((child, receiver))
    }

    /// Starts a child that has nothing to do with any container here: nobody waits for it, and it is let be.
    pub(crate) fn spawn_apart(&self, command: &mut Command) -> io::Result<PidFd> {
        let mut state = self.lock();
        let (_child, pid) = self.start(&mut state, command)?;
        // It is not reaped while the lock is held, so it can be seen.
        let start_time = crate::proc::stat(pid).map(|stat| stat.start_time);
        state.apart.insert(pid, start_time.unwrap_or_default());
        PidFd::open(pid)
    }

    fn start(&self, state: &mut State, command: &mut Command) -> io::Result<(Child, i32)> {
        // Whatever else this process has open, and with which flags: a child gets its standard streams. A kernel
        // without the call (before 5.11) leaves it to the flags.
        let _ = sys::keep_from_children();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        state.started += 1;
        self.changed.notify_all();
        Ok((child, pid))
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
        self.lock().strays_among(children())
    }

    /// Resolves once this process has no stray left, dead ones included. Cancel safe.
    pub(crate) async fn no_strays(&self) {
        let receiver = {
            let mut state = self.lock();
            if !state.has_strays() {
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
                    state.tell_if_idle();
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
        } else if state.apart.remove(&pid).is_none() && state.windows > 0 {
            if state.strays.len() == STRAY_LIMIT {
                state.strays.remove(0);
            }
            state.strays.push((pid, status));
        }
        state.tell_if_idle();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves the maps whole: each change is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn strays_among(&self, mut pids: Vec<i32>) -> Vec<i32> {
        // A watch that nobody waits for any more is none: the launch that made it has been given up.
        let is_watched = |pid: &i32| self.watched.get(pid).is_some_and(|watcher| !watcher.is_closed());
        // Somebody else in this process may have waited for it all the same, and its pid been given away.
        let is_apart = |pid: &i32| {
            let known = self.apart.get(pid);
            known.is_some() && known == crate::proc::stat(*pid).map(|stat| stat.start_time).as_ref()
        };
        let is_kin = |pid: &i32| is_of_another(*pid, self.container.as_ref());
        pids.retain(|pid| !is_watched(pid) && !is_apart(pid) && !is_kin(pid));
        pids
    }

    fn has_strays(&self) -> bool {
        // Mostly there is no child at all, and that costs one call of the kernel.
        has_children() && !self.strays_among(children()).is_empty()
    }

    fn tell_if_idle(&mut self) {
        if self.idle.is_empty() || self.has_strays() {
            return;
        }
        for waiter in self.idle.drain(..) {
            // Whoever waited may have given up.
            let _ = waiter.send(());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.supervising, state.container) = (false, None);
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
    listed_children().unwrap_or_else(|| {
        // A kernel without CONFIG_PROC_CHILDREN.
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        crate::proc::all_pids()
            .filter(|pid| crate::proc::stat(*pid).is_some_and(|stat| stat.ppid == own))
            .collect()
    })
}

/// The children as the kernel lists them; `None` where it does not.
fn listed_children() -> Option<Vec<i32>> {
    let mut pids = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        match std::fs::read_to_string(task.path().join("children")) {
            Ok(text) => pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // The thread has ended.
            Err(_) if !task.path().exists() => {}
            Err(_) => return None,
        }
    }
    Some(pids)
}
