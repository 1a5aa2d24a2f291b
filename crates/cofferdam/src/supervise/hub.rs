//! Handing a container's output on to any number of attached callers, and theirs to its input.
//!
//! Invariant: an attached caller never slows the container down. Each has a queue of a bounded size; what does not fit
//! because he is too slow is passed over, and he is told how much.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use super::activity::Activity;
use super::frame::{Frame, read_frame, write_frame, write_output};
use crate::logs::Stream;

/// Output that waits for one caller at most, in bytes.
const QUEUE_BYTES: usize = 256 << 10;

/// Where attached callers are.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    readers: Mutex<Vec<Arc<Reader>>>,
    /// Whether there is one, to be looked at for each piece of output.
    is_wanted: AtomicBool,
    ends: Mutex<Ends>,
    pub(super) activity: Arc<Activity>,
}

/// The container's side of what callers send.
#[derive(Debug, Default)]
struct Ends {
    /// What goes in here comes to the container's standard input.
    input: Option<OwnedFd>,
    /// The other side of its terminal.
    terminal: Option<OwnedFd>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Reader {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<(Stream, Arc<[u8]>)>,
    bytes: usize,
    skipped: u64,
    is_over: bool,
}

/// What there is next for a caller.
enum Next {
    Output(Stream, Arc<[u8]>),
    Gap(u64),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it is held leaves what it guards whole: each change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Opens the way from callers to the container.
    pub(super) fn connect(&self, input: Option<OwnedFd>, terminal: Option<OwnedFd>) {
        let mut ends = lock(&self.ends);
        (ends.input, ends.terminal) = (input, terminal);
    }

    /// Whether a caller can send input, and whether there is a terminal.
    pub(super) fn has(&self) -> (bool, bool) {
        let ends = lock(&self.ends);
        (ends.input.is_some(), ends.terminal.is_some())
    }

    /// Hands output on to whoever is attached. Never waits for any of them.
    pub(super) fn publish(&self, stream: Stream, bytes: &[u8]) {
        self.activity.touch();
        if !self.is_wanted.load(Ordering::Acquire) {
            return;
        }
        let chunk: Arc<[u8]> = bytes.into();
        for reader in lock(&self.readers).iter() {
            reader.push(stream, &chunk);
        }
    }

    /// Says that no more output comes, and closes the container's input.
    pub(super) fn close(&self) {
        *lock(&self.ends) = Ends { is_over: true, ..Ends::default() };
        for reader in lock(&self.readers).iter() {
            lock(&reader.queue).is_over = true;
            reader.changed.notify_one();
        }
    }

    fn join(&self) -> Arc<Reader> {
        let reader = Arc::<Reader>::default();
        lock(&self.readers).push(Arc::clone(&reader));
        self.is_wanted.store(true, Ordering::Release);
        // Closed in between, it would wait for ever.
        if lock(&self.ends).is_over {
            lock(&reader.queue).is_over = true;
        }
        reader
    }

    fn leave(&self, reader: &Arc<Reader>) {
        let mut readers = lock(&self.readers);
        readers.retain(|other| !Arc::ptr_eq(other, reader));
        self.is_wanted.store(!readers.is_empty(), Ordering::Release);
    }

    /// Serves an attached caller until all output has been delivered to him (`true`) or he leaves.
    pub(super) async fn serve(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        with_input: bool,
    ) -> io::Result<bool> {
        let reader = self.join();
        let input = if with_input { self.open_input()? } else { None };
        let served = tokio::select! {
            served = deliver(&reader, to) => served.map(|()| true),
            served = self.accept(from, input) => served.map(|()| false),
        };
        self.leave(&reader);
        served
    }

    fn open_input(&self) -> io::Result<Option<pipe::Sender>> {
        let input = lock(&self.ends).input.as_ref().map(OwnedFd::try_clone).transpose()?;
        input.map(pipe::Sender::from_owned_fd).transpose()
    }

    /// Takes what a caller sends. Ends when he leaves.
    async fn accept(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        mut input: Option<pipe::Sender>,
    ) -> io::Result<()> {
        while let Some(frame) = read_frame(from).await? {
            match frame {
                Frame::Input(bytes) => {
                    if let Some(input) = &mut input {
                        // The container may have closed its input, which is no reason to send the caller away.
                        let _ = input.write_all(&bytes).await;
                    }
                }
                Frame::Size { rows, columns } => self.resize(rows, columns),
                Frame::Output(..) | Frame::Gap(_) | Frame::Ended(_) => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    }

    fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &lock(&self.ends).terminal {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // The container may have ended.
            let _ = tcsetwinsize(terminal, size);
        }
    }
}

/// Takes output to a caller until there is no more.
async fn deliver(reader: &Reader, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    while let Some(next) = reader.next().await {
        match next {
            Next::Output(stream, bytes) => write_output(to, stream, &bytes).await?,
            Next::Gap(bytes) => write_frame(to, &Frame::Gap(bytes)).await?,
        }
    }
    Ok(())
}

impl Reader {
    fn push(&self, stream: Stream, chunk: &Arc<[u8]>) {
        let mut queue = lock(&self.queue);
        // Once something has been passed over, the rest is too until he has been told: a gap has one place.
        if queue.skipped > 0 || queue.bytes + chunk.len() > QUEUE_BYTES {
            queue.skipped += chunk.len() as u64;
        } else {
            queue.bytes += chunk.len();
            queue.chunks.push_back((stream, Arc::clone(chunk)));
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// The next piece; `None` after the last. Cancel safe.
    async fn next(&self) -> Option<Next> {
        loop {
            let changed = self.changed.notified();
            {
                let mut queue = lock(&self.queue);
                if let Some((stream, chunk)) = queue.chunks.pop_front() {
                    queue.bytes -= chunk.len();
                    return Some(Next::Output(stream, chunk));
                }
                match std::mem::take(&mut queue.skipped) {
                    0 if queue.is_over => return None,
                    0 => {}
                    skipped => return Some(Next::Gap(skipped)),
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(mut from: impl AsyncRead + Unpin) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = read_frame(&mut from).await.unwrap() {
            frames.push(frame);
        }
        frames
    }

    #[tokio::test]
    async fn a_caller_gets_what_comes_while_he_is_attached() {
        let hub = Arc::new(Hub::default());
        hub.publish(Stream::Stdout, b"before");
        let (caller, ours) = tokio::io::duplex(1 << 20);
        let (mut from, mut to) = tokio::io::split(ours);
        let serving = tokio::spawn({
            let hub = Arc::clone(&hub);
            async move { hub.serve(&mut from, &mut to, false).await }
        });
        while lock(&hub.readers).is_empty() {
            tokio::task::yield_now().await;
        }
        hub.publish(Stream::Stdout, b"out");
        hub.publish(Stream::Stderr, b"err");
        hub.close();
        assert!(serving.await.unwrap().unwrap());
        let expected =
            [Frame::Output(Stream::Stdout, b"out".to_vec()), Frame::Output(Stream::Stderr, b"err".to_vec())];
        assert_eq!(frames(caller).await, expected);
        assert!(lock(&hub.readers).is_empty() && !hub.is_wanted.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_much_he_missed() {
        let hub = Hub::default();
        let reader = hub.join();
        for _ in 0..10 {
            hub.publish(Stream::Stdout, &[b'x'; 64 << 10]);
        }
        assert!(lock(&reader.queue).bytes <= QUEUE_BYTES);
        hub.close();
        let (mut taken, mut missed) = (0, 0);
        while let Some(next) = reader.next().await {
            match next {
                Next::Output(_, bytes) => taken += bytes.len() as u64,
                Next::Gap(bytes) => missed += bytes,
            }
        }
        assert_eq!((taken, missed), (256 << 10, 384 << 10));
    }

    #[tokio::test]
    async fn who_comes_after_the_end_does_not_wait() {
        let hub = Hub::default();
        hub.close();
        let (_caller, ours) = tokio::io::duplex(64);
        let (mut from, mut to) = tokio::io::split(ours);
        assert!(hub.serve(&mut from, &mut to, true).await.unwrap());
    }
}
