//! A container's standard streams: pipes or a terminal, pumped by threads.
//!
//! Threads and not tasks, because the other end is whatever the caller has: a terminal, a file, a pipe that others
//! share and that must not be made non-blocking. Each has one buffer, so memory is bounded whatever the reader does:
//! a slow reader slows the container, as a pipe would.
//!
//! - A reader that is gone (EPIPE): the container's pipe is closed, so that it gets EPIPE too, as in a shell. In the
//!   background it goes on, and what it writes is counted.
//! - A reader that fails otherwise (a full disk): the rest is read into nothing and counted.
//! - Somebody outside the container who keeps the pipe open after its end: given up after a moment.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

use super::hub::Hub;
use super::peek::{Journal, Peek, Source};
pub use super::plan::{StdioPlan, StreamError};
use super::sink::{LogSink, Lost, SharedJournald, SharedLog, Sink};
use crate::exit::StdioReport;
use crate::logs::Stream;
use crate::runtime::ContainerStdio;

/// Size of a pump's one buffer, in bytes: the default capacity of a pipe.
pub(super) const BUFFER_BYTES: usize = 64 << 10;
/// Stack of a pump's thread, in bytes; the buffer is on the heap.
const STACK_BYTES: usize = 64 << 10;
/// How long a pipe may stay open, empty, after the container's end.
const HOLDOUT_LIMIT: Duration = Duration::from_secs(2);

/// Our ends of a container's pipes, before the pumps run. One that was found to be closed is `None`.
#[derive(Debug)]
pub(crate) struct OurEnds {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Makes the pipes of a container: the ends that it gets, and ours.
///
/// Without input, or with a terminal (over which input comes), its standard input is /dev/null.
pub(crate) fn pipes(with_stdin: bool) -> io::Result<(ContainerStdio, OurEnds)> {
    let (stdin, our_stdin) = if with_stdin {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        (theirs, Some(ours))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    for end in [&our_stdout, &our_stderr] {
        rustix::io::ioctl_fionbio(end, true)?;
    }
    let theirs = ContainerStdio { stdin, stdout, stderr };
    Ok((theirs, OurEnds { stdin: our_stdin, stdout: Some(our_stdout), stderr: Some(our_stderr) }))
}

impl OurEnds {
    /// What is in the error pipe now: when the container never ran, these are the runtime's own words.
    pub(crate) fn error_text(&self) -> String {
        const LIMIT: usize = 16 << 10;
        let mut text = vec![0; LIMIT];
        let count =
            self.stderr.as_ref().and_then(|end| rustix::io::read(end, &mut text[..]).ok()).unwrap_or(0);
        text.truncate(count);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What the pumps have moved so far.
#[derive(Debug, Default)]
struct Counters {
    stdout: AtomicU64,
    stderr: AtomicU64,
    dropped: AtomicU64,
    truncated: AtomicBool,
    /// Nobody waits for the last output any more.
    abandoned: AtomicBool,
    /// The container has ended: what is in the pipes is the last.
    ended: AtomicBool,
}

impl Counters {
    fn of(&self, stream: Stream) -> &AtomicU64 {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }
}

/// The running pumps of a container.
#[derive(Debug)]
pub(crate) struct Pumps {
    counters: Arc<Counters>,
    /// Readable once the container has ended.
    wake: Arc<OwnedFd>,
    hub: Arc<Hub>,
    outputs: Vec<oneshot::Receiver<()>>,
}

/// Where output goes that has no descriptor of the caller's, and how.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) log: Option<Arc<SharedLog>>,
    pub(crate) journald: Option<SharedJournald>,
    pub(crate) journal: Option<Arc<Journal>>,
    /// Whether the pipes are to outlast this process: then the container does not end for its reader's sake.
    pub(crate) outlasts: bool,
    pub(crate) hub: Arc<Hub>,
}

impl Pumps {
    /// Starts to move bytes. With a terminal, `master` is its other side and the pipes are only kept.
    /// What has no descriptor of the caller's goes into the log, if there is one.
    pub(crate) fn start(
        ours: OurEnds,
        plan: StdioPlan,
        master: Option<OwnedFd>,
        outputs: &Outputs,
    ) -> io::Result<Self> {
        let Outputs { log, journald, journal, outlasts, hub } = outputs;
        let (outlasts, hub) = (*outlasts, Arc::clone(hub));
        let sink = |descriptor: Option<OwnedFd>, stream| match (descriptor, log) {
            (Some(descriptor), _) => Sink::Descriptor { descriptor, outlasts },
            (None, Some(log)) => Sink::Log(LogSink { log: Arc::clone(log), stream }),
            (None, None) => match journald {
                Some(journald) => Sink::Journald(Arc::clone(journald), stream),
                None => Sink::Nowhere,
            },
        };
        let counters = Arc::<Counters>::default();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut pumps = Self { counters, wake, hub, outputs: Vec::new() };
        if let Some(master) = master {
            rustix::io::ioctl_fionbio(&master, true)?;
            if let Some(source) = plan.stdin {
                pumps.input(source, master.try_clone()?)?;
            }
            // A terminal cannot be looked into without taking from it.
            pumps.output(Source::Plain(master), sink(plan.stdout, Stream::Stdout), Stream::Stdout)?;
            return Ok(pumps);
        }
        if let (Some(source), Some(sink)) = (plan.stdin, ours.stdin) {
            pumps.input(source, sink)?;
        }
        let ends = [(ours.stdout, plan.stdout, Stream::Stdout), (ours.stderr, plan.stderr, Stream::Stderr)];
        for (end, descriptor, stream) in ends {
            let Some(end) = end else { continue };
            let source = match journal {
                Some(journal) => Source::Peeked(end, Peek::new(Arc::clone(journal), stream)?),
                None => Source::Plain(end),
            };
            pumps.output(source, sink(descriptor, stream), stream)?;
        }
        Ok(pumps)
    }

    fn output(&mut self, source: Source, mut sink: Sink, stream: Stream) -> io::Result<()> {
        let (done, finished) = oneshot::channel();
        let (counters, wake, hub) =
            (Arc::clone(&self.counters), Arc::clone(&self.wake), Arc::clone(&self.hub));
        thread("output", move || {
            let take = |time: Timestamp, bytes: &[u8]| {
                hub.publish(stream, bytes);
                counters.of(stream).fetch_add(bytes.len() as u64, Ordering::AcqRel);
                sink.take(time, bytes, &counters.abandoned)
            };
            pump_output(&source, take, &counters, &wake);
            // Nobody waits any more when the supervisor is gone.
            let _ = done.send(());
        })?;
        self.outputs.push(finished);
        Ok(())
    }

    fn input(&self, source: OwnedFd, sink: OwnedFd) -> io::Result<()> {
        let wake = Arc::clone(&self.wake);
        thread("input", move || pump_input(&source, &sink, &wake))
    }

    /// Tells the pumps that what is in the pipes is the last.
    pub(crate) fn container_ended(&self) {
        self.counters.ended.store(true, Ordering::Release);
        // The counter of an eventfd cannot overflow by this.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits until all output has been handed on. Cancel safe: nothing is lost by giving up.
    pub(crate) async fn finished(&mut self) {
        while let Some(output) = self.outputs.last_mut() {
            // An error means that the pump's thread is gone, which is the end as well.
            let _ = output.await;
            // At once: one that has been waited for must not be asked again by the next call.
            self.outputs.pop();
        }
    }

    /// Gives up on output that its reader does not take. Its thread stays until the reader does, or this process ends.
    pub(crate) fn abandon(&mut self) {
        self.counters.truncated.store(true, Ordering::Release);
        self.counters.abandoned.store(true, Ordering::Release);
        self.outputs.clear();
    }

    /// What went through so far.
    pub(crate) fn report(&self) -> StdioReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        StdioReport {
            stdout_bytes: count(&self.counters.stdout),
            stderr_bytes: count(&self.counters.stderr),
            dropped_bytes: count(&self.counters.dropped),
            truncated: self.counters.truncated.load(Ordering::Acquire),
        }
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work).map(drop)
}

/// Moves bytes from the container to its reader until the container has closed the stream.
fn pump_output(
    source: &Source,
    mut take: impl FnMut(Timestamp, &[u8]) -> Result<(), Lost>,
    counters: &Counters,
    wake: &OwnedFd,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut silent_since = None;
    loop {
        match source.read(&mut buffer[..]) {
            Ok(0) => return,
            Ok(count) => {
                silent_since = None;
                let time = Timestamp::now();
                source.hands_on(time, &buffer[..count]);
                let taken = take(time, &buffer[..count]);
                source.has_handed_on(&mut buffer[..count]);
                match taken {
                    Ok(()) => {}
                    Err(Lost::ReaderGone) => return,
                    Err(Lost::Dropped(bytes)) => {
                        counters.dropped.fetch_add(bytes as u64, Ordering::AcqRel);
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if !counters.ended.load(Ordering::Acquire) => {
                wait_readable(source.descriptor(), Some(wake), None);
            }
            Err(Errno::AGAIN) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                match HOLDOUT_LIMIT.checked_sub(since.elapsed()) {
                    Some(left) => wait_readable(source.descriptor(), None, Some(left)),
                    None => {
                        counters.truncated.store(true, Ordering::Release);
                        return;
                    }
                }
            }
            // EIO is how a terminal says that its last user has gone.
            Err(_) => return,
        }
    }
}

/// Moves bytes from the caller to the container until either ends.
fn pump_input(source: &OwnedFd, sink: &OwnedFd, wake: &OwnedFd) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut fds = [PollFd::new(source, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match rustix::io::read(source, &mut buffer[..]) {
            Ok(0) => return,
            Ok(count) => {
                if !feed(sink, &buffer[..count], wake) {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Writes to the container, which may be slow to read or end meanwhile. Says whether there is more to do.
fn feed(sink: &OwnedFd, mut bytes: &[u8], wake: &OwnedFd) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(sink, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(sink, PollFlags::OUT), PollFd::new(wake, PollFlags::IN)];
                // A failing poll shows again at the next write.
                let _ = poll(&mut fds, None);
                if !fds[1].revents().is_empty() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

fn wait_readable(source: &OwnedFd, wake: Option<&OwnedFd>, limit: Option<Duration>) {
    let mut fds = vec![PollFd::new(source, PollFlags::IN)];
    fds.extend(wake.map(|wake| PollFd::new(wake, PollFlags::IN)));
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // An interrupted or failed poll only leads to another look.
    let _ = poll(&mut fds, limit.as_ref());
}

#[cfg(test)]
#[path = "stdio_tests.rs"]
mod tests;
