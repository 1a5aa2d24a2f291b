//! The keeper itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::wire::{receive_message, send};
use super::{Charge, Kept, Message, Reply};
use crate::state::{FileLock, StateDir};

/// Monitors that one charge may use up within [`CALM`]: one that dies of its charge would die for ever.
const MONITORS: u32 = 3;
/// How long it waits for the next monitor once it has nothing to keep.
const LINGER: Duration = Duration::from_millis(100);
/// After so long a monitor's death has nothing to do with the one before.
const CALM: Duration = Duration::from_secs(60);

/// A keeper that listens.
#[derive(Debug)]
pub(crate) struct Keeper {
    listener: UnixListener,
    state: StateDir,
}

#[derive(Debug, Default)]
struct Shared {
    entries: HashMap<Charge, Entry>,
    /// Connections, and monitors that are being started.
    busy: usize,
}

#[derive(Debug)]
struct Entry {
    kept: Arc<Kept>,
    owner: Owner,
    /// Monitors that were started for it, and when the last one was.
    monitors: (u32, Instant),
}

/// Whose an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// Of the monitor at the other end of this connection.
    Monitor(u64),
    /// Of nobody: that monitor has died, and another one is being started.
    HeirOf(u64),
}

struct Handle<F> {
    shared: Mutex<Shared>,
    idle: Notify,
    adopt: F,
}

impl Keeper {
    /// Listens. The caller has the keeper's lock, or acts for who has.
    pub(crate) fn listen(state: StateDir) -> io::Result<Self> {
        // Each container takes a few descriptors here.
        let limit = getrlimit(Resource::Nofile);
        // It goes as far as it goes.
        let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
        let socket = state.keeper_socket();
        // Of a dead one.
        let _ = std::fs::remove_file(&socket);
        Ok(Self { listener: UnixListener::bind(socket)?, state })
    }

    /// Keeps until nothing is left to keep. `adopt` starts a monitor for what has lost its own.
    pub(crate) async fn serve<A>(self, adopt: impl Fn(Charge) -> A + Send + Sync + 'static)
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let handle = Arc::new(Handle { shared: Mutex::default(), idle: Notify::new(), adopt });
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
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                () = handle.idle.notified() => {}
                () = tokio::time::sleep(LINGER), if handle.lock().busy == 0 => {
                    if self.leaves() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether nobody needs it: then its socket goes, under the lock under which a next one is started.
    fn leaves(&self) -> bool {
        let _lock = match FileLock::within(&self.state.keeper_lock(), Duration::ZERO) {
            Ok(Some(lock)) => Some(lock),
            // Somebody is about to come.
            Ok(None) => return false,
            // The state directory has been removed.
            Err(_) => None,
        };
        // Who connects from here on is refused, and starts the next one.
        let _ = std::fs::remove_file(self.state.keeper_socket());
        true
    }
}

impl<F, A> Handle<F>
where
    F: Fn(Charge) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send,
{
    async fn attend(self: Arc<Self>, stream: UnixStream, number: u64) {
        // A broken stream is an ended one.
        let _ = self.talk(&stream, number).await;
        drop(stream);
        while let Some(charge) = self.left_by(number) {
            (self.adopt)(charge.clone()).await;
            self.forget_if_left(&charge, number);
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

    fn put(&self, charge: Charge, number: u64, kept: Kept) {
        let mut shared = self.lock();
        let monitors =
            shared.entries.get(&charge).map_or_else(|| (0, Instant::now()), |entry| entry.monitors);
        shared
            .entries
            .insert(charge, Entry { kept: Arc::new(kept), owner: Owner::Monitor(number), monitors });
    }

    fn take(&self, charge: &Charge, number: u64) -> Arc<Kept> {
        self.lock().entries.get_mut(charge).map_or_else(Arc::default, |entry| {
            entry.owner = Owner::Monitor(number);
            Arc::clone(&entry.kept)
        })
    }

    /// What a connection leaves that has ended, and is worth another monitor.
    fn left_by(&self, number: u64) -> Option<Charge> {
        let mut shared = self.lock();
        let (charge, entry) =
            shared.entries.iter_mut().find(|(_, entry)| entry.owner == Owner::Monitor(number))?;
        let charge = charge.clone();
        entry.owner = Owner::HeirOf(number);
        let (count, last) = &mut entry.monitors;
        if last.elapsed() > CALM {
            *count = 0;
        }
        (*count, *last) = (*count + 1, Instant::now());
        if *count > MONITORS {
            tracing::warn!(?charge, "its monitors die; the next command finds it a new one");
            shared.entries.remove(&charge);
            return None;
        }
        Some(charge)
    }

    /// Lets go of what no monitor has taken: it has ended.
    fn forget_if_left(&self, charge: &Charge, number: u64) {
        let mut shared = self.lock();
        if shared.entries.get(charge).is_some_and(|entry| entry.owner == Owner::HeirOf(number)) {
            shared.entries.remove(charge);
        }
    }
}

impl<F> Handle<F> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change is one call.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
