//! The monitor's side: it gives the keeper what it holds, and starts one where there is none.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::wire::{receive_message, send};
use super::{Charge, Kept, Message, Reply};
use crate::process::spawn_keeper;
use crate::state::{FileLock, StateDir};

/// How long a monitor waits for the keeper at most. It does its work without one, too.
const KEEPER_LIMIT: Duration = Duration::from_secs(1);
/// How long a successor waits for what its predecessor has had kept: there may be many at once.
const TAKE_LIMIT: Duration = Duration::from_secs(5);
/// The pause before a keeper is tried again that cannot be had; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often it is tried without a pause.
const QUICK_ATTEMPTS: u32 = 3;

/// The program that becomes a keeper.
#[derive(Debug, Clone)]
pub(crate) struct KeeperProgram {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// What it reads from its standard input.
    pub(crate) request: Vec<u8>,
}

/// A monitor's connection to the keeper, which is made again when the keeper dies. By default there is none, for what
/// does not outlast its supervisor: then nothing is kept.
#[derive(Debug, Default)]
pub(crate) struct Keeping(Option<mpsc::Sender<Order>>);

#[derive(Debug)]
enum Order {
    Keep(Kept, oneshot::Sender<()>),
    Take(oneshot::Sender<Kept>),
    Done(oneshot::Sender<()>),
}

impl Keeping {
    /// Begins to connect; nobody waits for it.
    pub(crate) fn begin(state: StateDir, program: KeeperProgram, charge: Charge) -> Self {
        let (sender, orders) = mpsc::channel(1);
        tokio::spawn(Link { state, program, charge, kept: None }.serve(orders));
        Self(Some(sender))
    }

    /// Has this kept instead of what was before. It is tried on later where there is no keeper now.
    pub(crate) async fn keep(&self, kept: Kept) {
        self.order(KEEPER_LIMIT, |done| Order::Keep(kept, done)).await;
    }

    /// What a predecessor has had kept: nothing, where there was none, or the keeper does not answer.
    pub(crate) async fn take(&self) -> Kept {
        self.order(TAKE_LIMIT, Order::Take).await.unwrap_or_default()
    }

    /// Says that nothing need be kept any more. Without that it is kept on, for whoever comes next.
    pub(crate) async fn done(&self) {
        self.order(KEEPER_LIMIT, Order::Done).await;
    }

    async fn order<T>(&self, limit: Duration, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let orders = self.0.as_ref()?;
        let (reply, answer) = oneshot::channel();
        let ordered = async {
            orders.send(order(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(limit, ordered).await.ok().flatten()
    }
}

/// The task behind a [`Keeping`].
struct Link {
    state: StateDir,
    program: KeeperProgram,
    charge: Charge,
    kept: Option<Kept>,
}

impl Link {
    async fn serve(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut attempts: u32 = 0;
        loop {
            let begun = Instant::now();
            let talked = match self.connect().await {
                Ok(stream) => self.talk(&stream, &mut orders).await,
                Err(error) => Err(error),
            };
            let Err(error) = talked else { return };
            tracing::debug!(%error, "no keeper");
            // One that was killed has a successor at once.
            attempts = if begun.elapsed() > PAUSE { 1 } else { attempts + 1 };
            let pause = match attempts.checked_sub(QUICK_ATTEMPTS) {
                None | Some(0) => Duration::ZERO,
                Some(slow) => PAUSE.saturating_mul(1 << slow.min(5)).min(LONGEST_PAUSE),
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                order = orders.recv() => match order {
                    Some(Order::Keep(kept, _)) => self.kept = Some(kept),
                    Some(Order::Take(_)) => {}
                    Some(Order::Done(_)) | None => return,
                },
            }
        }
    }

    async fn talk(&mut self, stream: &UnixStream, orders: &mut mpsc::Receiver<Order>) -> io::Result<()> {
        if let Some(kept) = &self.kept {
            self.give(stream, kept).await?;
        }
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                // It says nothing by itself.
                said = receive_message::<Reply>(stream) => return Err(said.err().unwrap_or_else(gone)),
            };
            match order {
                Some(Order::Keep(kept, done)) => {
                    let given = self.give(stream, &kept).await;
                    self.kept = Some(kept);
                    given?;
                    // Whoever waits may have given up.
                    let _ = done.send(());
                }
                Some(Order::Take(reply)) => {
                    send(stream, &Message::Take { charge: self.charge.clone() }, &[]).await?;
                    let kept = match receive_message(stream).await?.ok_or_else(gone)? {
                        (Reply::Here { pid, parts }, descriptors) => Kept::of_parts(pid, &parts, descriptors),
                        _ => Kept::default(),
                    };
                    let _ = reply.send(kept);
                }
                Some(Order::Done(done)) => {
                    send(stream, &Message::Done, &[]).await?;
                    let _ = done.send(());
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }

    async fn give(&self, stream: &UnixStream, kept: &Kept) -> io::Result<()> {
        let (parts, descriptors) = kept.parts();
        let message = Message::Keep { charge: self.charge.clone(), pid: kept.pid, parts };
        send(stream, &message, &descriptors).await?;
        match receive_message(stream).await?.ok_or_else(gone)?.0 {
            Reply::Full => tracing::warn!("the keeper has no room for the container's descriptors"),
            Reply::Kept | Reply::Here { .. } => {}
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let socket = self.state.keeper_socket();
        match UnixStream::connect(&socket).await {
            Err(error) if nobody_listens(&error) => {}
            connected => return connected,
        }
        let path = self.state.keeper_lock();
        let lock =
            tokio::task::spawn_blocking(move || FileLock::wait(&path)).await.map_err(io::Error::other)??;
        // Another monitor may have been faster.
        if let Ok(stream) = UnixStream::connect(&socket).await {
            return Ok(stream);
        }
        self.start().await?;
        drop(lock);
        UnixStream::connect(&socket).await
    }

    async fn start(&self) -> io::Result<()> {
        let KeeperProgram { program, args, request } = &self.program;
        let monitor = spawn_keeper(program, args)?;
        // It is shorter than a pipe is.
        std::fs::File::from(monitor.stdin).write_all(request)?;
        let mut answer = Vec::new();
        let mut stdout = pipe::Receiver::from_owned_fd(monitor.stdout)?;
        tokio::time::timeout(KEEPER_LIMIT, stdout.read_to_end(&mut answer)).await??;
        // It has nothing to say where all is well.
        if answer.is_empty() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&answer))) }
    }
}

/// Whether there is no keeper; any other error is none of its absence.
fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn gone() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}
