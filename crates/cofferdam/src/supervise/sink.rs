//! Where a pump takes a container's output: to a descriptor of the caller's, into the log, or nowhere.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::logs::{JournaldWriter, LogWriter, OnFull, Stream, Unlogged};

/// The pause before a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// Where output goes.
pub(crate) enum Sink {
    /// Nowhere. It is still read and counted.
    Nowhere,
    /// To the caller.
    Descriptor {
        descriptor: OwnedFd,
        /// Whether the container goes on when its reader has gone.
        outlasts: bool,
    },
    /// To a caller whose descriptor has failed: what is left is counted.
    Broken,
    /// Into the log.
    Log(LogSink),
    /// To journald.
    Journald(SharedJournald, Stream),
}

/// One stream's way into a container's log.
pub(crate) struct LogSink {
    pub(crate) log: Arc<SharedLog>,
    pub(crate) stream: Stream,
}

/// A container's log, which both of its streams go into.
pub(crate) struct SharedLog {
    writer: Mutex<LogWriter>,
    on_full: OnFull,
    /// Asks the supervisor to stop the container.
    stop: Box<dyn Fn() + Send + Sync>,
}

/// The journald that both streams of a container go to.
pub(crate) type SharedJournald = Arc<Mutex<JournaldWriter>>;

/// What became of output that could not be handed on.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The reader has gone.
    ReaderGone,
    /// This many bytes were not taken.
    Dropped(usize),
}

impl SharedLog {
    pub(crate) fn new(writer: LogWriter, on_full: OnFull, stop: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { writer: Mutex::new(writer), on_full, stop })
    }
}

impl std::fmt::Debug for SharedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedLog").field("on_full", &self.on_full).finish_non_exhaustive()
    }
}

impl Sink {
    /// Hands output on, and waits as long as the other side does. `abandoned` ends that.
    pub(crate) fn take(&mut self, time: Timestamp, bytes: &[u8], abandoned: &AtomicBool) -> Result<(), Lost> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Broken => Err(Lost::Dropped(bytes.len())),
            Self::Descriptor { descriptor, outlasts } => match write_all(descriptor, bytes) {
                Ok(()) => Ok(()),
                Err((_, Errno::PIPE)) if !*outlasts => Err(Lost::ReaderGone),
                Err((unwritten, errno)) => {
                    tracing::warn!(error = %io::Error::from(errno), "the container's output cannot be handed on");
                    // What has failed once is not tried again: the rest would have a hole.
                    *self = Self::Broken;
                    Err(Lost::Dropped(unwritten))
                }
            },
            Self::Log(log) => log.take(time, bytes, abandoned),
            Self::Journald(journald, stream) => {
                let mut writer = journald.lock().unwrap_or_else(PoisonError::into_inner);
                match writer.write(*stream, bytes) {
                    0 => Ok(()),
                    missing => Err(Lost::Dropped(missing)),
                }
            }
        }
    }
}

impl LogSink {
    fn take(&self, time: Timestamp, mut bytes: &[u8], abandoned: &AtomicBool) -> Result<(), Lost> {
        loop {
            let mut writer = self.log.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let Err(rest) = writer.write(time, self.stream, bytes) else { return Ok(()) };
            let Unlogged { bytes: missing, error } = rest;
            bytes = &bytes[bytes.len() - missing..];
            let waits = self.log.on_full == OnFull::Block && !abandoned.load(Ordering::Acquire);
            if waits {
                drop(writer);
                std::thread::park_timeout(FULL_PAUSE);
                continue;
            }
            if self.log.on_full == OnFull::Stop {
                (self.log.stop)();
            }
            writer.miss(bytes.len(), error);
            return Err(Lost::Dropped(bytes.len()));
        }
    }
}

/// Writes everything; an error comes with the number of bytes that were not written.
fn write_all(sink: &OwnedFd, mut bytes: &[u8]) -> Result<(), (usize, Errno)> {
    while !bytes.is_empty() {
        match rustix::io::write(sink, bytes) {
            Ok(0) => return Err((bytes.len(), Errno::IO)),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // The caller's descriptor may be non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(sink, PollFlags::OUT)], None);
            }
            Err(errno) => return Err((bytes.len(), errno)),
        }
    }
    Ok(())
}
