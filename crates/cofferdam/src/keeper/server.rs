//! The keeper itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore};

use super::wire::{receive_message, send};
use super::{Charge, Kept, Message, Reply};
use crate::state::{FileLock, StateDir};
use crate::sys::PidFd;

/// Monitors that one charge may use up within [`CALM`]: one that dies of its charge would die for ever.
const MONITORS: u32 = 3;
/// After so long a monitor's death has nothing to do with the one before.
const CALM: Duration = Duration::from_secs(60);
/// The pause after a monitor that could not take its charge over; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether a charge that has used up its monitors is another one's by now, or nobody's, and the
/// pause between monitors for what has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long it waits for the next monitor once it has nothing to keep.
const LINGER: Duration = Duration::from_millis(100);
/// How long the keeper before it may take to be gone.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(1);
/// Monitors that are started at once: when a hundred have died, the machine has other things to do, too.
const STARTS: usize = 4;

/// Who supervises what the keeper has.
pub(crate) trait Successors: Send + Sync + 'static {
    /// Starts a monitor, and waits until it has taken its charge over, or has not.
    fn start(&self, charge: Charge) -> impl Future<Output = ()> + Send;

    /// Whether this still needs a monitor: it is there, and its end is not written down.
    fn are_needed(&self, charge: &Charge) -> bool;
}

/// A keeper that listens.
#[derive(Debug)]
pub(crate) struct Keeper {
    listener: UnixListener,
    state: StateDir,
    /// Held as long as it lives: the socket is its own.
    _lock: FileLock,
    /// The soft limit of descriptors that it was started with, and its children are to have.
    pub(crate) descriptors: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: HashMap<Charge, Entry>,
    /// Connections, and what they have left.
    busy: usize,
}

#[derive(Debug)]
struct Entry {
    kept: Arc<Kept>,
    owner: Owner,
    /// Monitors that were started for it, and when the last one was.
    monitors: (u32, Instant),
}

/// Whose an entry is. Connections have growing numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Of the monitor at the other end of this connection.
    Monitor(u64),
    /// Of nobody: that monitor has died.
    HeirOf(u64),
}

impl Owner {
    const fn number(self) -> u64 {
        match self {
            Self::Monitor(number) | Self::HeirOf(number) => number,
        }
    }
}

struct Handle<S> {
    shared: Mutex<Shared>,
    idle: Notify,
    starts: Semaphore,
    successors: S,
}

impl Keeper {
    /// Listens. There is one keeper for a state directory.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::WouldBlock`] when there is one already.
    pub(crate) fn listen(state: StateDir) -> io::Result<Self> {
        let lock =
            FileLock::within(&state.keeper_life(), PREDECESSOR_LIMIT)?.ok_or(io::ErrorKind::WouldBlock)?;
        let descriptors = raise_descriptors();
        let socket = state.keeper_socket();
        // Of a dead one.
        let _ = std::fs::remove_file(&socket);
        Ok(Self { listener: UnixListener::bind(socket)?, state, _lock: lock, descriptors })
    }

    /// Keeps until nothing is left to keep, or until it is asked to go (SIGTERM): the monitors start another one.
    ///
    /// # Errors
    /// The system's, before anything is kept.
    pub(crate) async fn serve(self, successors: impl Successors) -> io::Result<()> {
        let starts = Semaphore::new(STARTS);
        let handle = Arc::new(Handle { shared: Mutex::default(), idle: Notify::new(), starts, successors });
        let mut terminate = signal(SignalKind::terminate())?;
        let mut number = 0;
        loop {
            tokio::select! {
                biased;
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        number += 1;
                        handle.lock().busy += 1;
                        tokio::spawn(Arc::clone(&handle).attend(stream, number));
                    }
                    // No descriptor is left; the monitor waits.
                    Err(_) => tokio::time::sleep(LINGER).await,
                },
                () = handle.idle.notified() => {}
                _ = terminate.recv() => break,
                () = tokio::time::sleep(LINGER), if handle.lock().busy == 0 => {
                    // Who starts the next one has this lock.
                    let lock = FileLock::within(&self.state.keeper_lock(), Duration::ZERO);
                    // Where it fails the state directory has been removed.
                    if !matches!(lock, Ok(None)) {
                        // Who connects from here on is refused.
                        let _ = std::fs::remove_file(self.state.keeper_socket());
                        return Ok(());
                    }
                }
            }
        }
        let _ = std::fs::remove_file(self.state.keeper_socket());
        Ok(())
    }
}

/// Each charge takes a few descriptors here: raises the limit as far as it goes, and gives what it was.
fn raise_descriptors() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    raised.ok().and(limit.current)
}

impl<S: Successors> Handle<S> {
    async fn attend(self: Arc<Self>, stream: UnixStream, number: u64) {
        // A broken stream is an ended one.
        let _ = self.talk(&stream, number).await;
        drop(stream);
        while let Some(charge) = self.left_by(number) {
            self.succeed(&charge, number).await;
        }
        let mut shared = self.lock();
        shared.busy -= 1;
        if shared.busy == 0 {
            self.idle.notify_one();
        }
    }

    async fn talk(&self, stream: &UnixStream, number: u64) -> io::Result<()> {
        while let Some((message, descriptors)) = receive_message(stream).await? {
            match message {
                Message::Keep { charge, pid, parts } if parts.len() == descriptors.len() => {
                    self.put(charge, number, Kept::of_parts(pid, &parts, descriptors));
                    send(stream, &Reply::Kept, &[]).await?;
                }
                Message::Keep { .. } => send(stream, &Reply::Full, &[]).await?,
                Message::Take { charge } => {
                    let kept = self.take(&charge, number);
                    let (parts, descriptors) = kept.parts();
                    send(stream, &Reply::Here { pid: kept.pid, parts }, &descriptors).await?;
                }
                Message::Done => self.lock().entries.retain(|_, entry| entry.owner != Owner::Monitor(number)),
            }
        }
        Ok(())
    }

    fn put(&self, charge: Charge, number: u64, mut kept: Kept) {
        let mut shared = self.lock();
        let mut monitors = (0, Instant::now());
        if let Some(entry) = shared.entries.get(&charge) {
            // It was sent by one that has died meanwhile.
            if entry.owner.number() > number {
                return;
            }
            kept.complete(&entry.kept);
            monitors = entry.monitors;
        }
        let owner = Owner::Monitor(number);
        shared.entries.insert(charge, Entry { kept: Arc::new(kept), owner, monitors });
    }

    fn take(&self, charge: &Charge, number: u64) -> Arc<Kept> {
        self.lock().entries.get_mut(charge).map_or_else(Arc::default, |entry| {
            entry.owner = Owner::Monitor(number);
            Arc::clone(&entry.kept)
        })
    }

    /// What a connection leaves that has ended.
    fn left_by(&self, number: u64) -> Option<Charge> {
        let mut shared = self.lock();
        let mut entries = shared.entries.iter_mut();
        let (charge, entry) = entries.find(|(_, entry)| entry.owner == Owner::Monitor(number))?;
        entry.owner = Owner::HeirOf(number);
        Some(charge.clone())
    }

    /// Finds a charge another monitor. Where none can take it over, it is kept as long as somebody may come for it.
    async fn succeed(&self, charge: &Charge, number: u64) {
        let mut pause = PAUSE;
        while self.may_start(charge, number) {
            self.start(charge).await;
            if self.is_settled(charge, number) {
                return;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        // It lives without one for now: a command may find it another. Its end has to be written down by somebody.
        while !self.is_settled(charge, number) {
            let ended = self.end_of(charge);
            if tokio::time::timeout(LOOK_AGAIN, ended).await.is_ok() && self.is_left(charge, number) {
                self.start(charge).await;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    async fn start(&self, charge: &Charge) {
        // It is never closed.
        let _permit = self.starts.acquire().await;
        self.successors.start(charge.clone()).await;
    }

    /// Whether it is worth another monitor; counts it.
    fn may_start(&self, charge: &Charge, number: u64) -> bool {
        let mut shared = self.lock();
        let Some(entry) = shared.entries.get_mut(charge) else { return false };
        if entry.owner != Owner::HeirOf(number) {
            return false;
        }
        let (count, last) = &mut entry.monitors;
        if last.elapsed() > CALM {
            *count = 0;
        }
        *last = Instant::now();
        *count += 1;
        *count <= MONITORS
    }

    /// Whether an entry has an owner again, or none is needed; then it is let go.
    fn is_settled(&self, charge: &Charge, number: u64) -> bool {
        if !self.is_left(charge, number) {
            return true;
        }
        let is_needed = self.successors.are_needed(charge);
        if !is_needed {
            self.lock().entries.remove(charge);
        }
        !is_needed
    }

    fn is_left(&self, charge: &Charge, number: u64) -> bool {
        self.lock().entries.get(charge).is_some_and(|entry| entry.owner == Owner::HeirOf(number))
    }

    /// Resolves when the process of a charge has ended. Without one nobody knows, and it never does.
    async fn end_of(&self, charge: &Charge) {
        let kept = self.lock().entries.get(charge).map(|entry| Arc::clone(&entry.kept));
        let process = kept.and_then(|kept| kept.process.as_ref()?.try_clone().ok()).map(PidFd::from);
        let Some(process) = process else { return std::future::pending().await };
        if process.ended().await.is_err() {
            std::future::pending().await
        }
    }
}

impl<S> Handle<S> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change is one call.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
