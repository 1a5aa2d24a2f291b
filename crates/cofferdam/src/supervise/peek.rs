//! Handing a container's output on so that none of it is lost with this process.
//!
//! ```text
//!   look (tee) -> journal: so many bytes -> log -> take them out of the pipe -> journal: none
//! ```
//!
//! What is looked at stays in the pipe until it is in the log. A successor finds in the journal how much was under way, its
//! checksum, and the time of its entries: so it sees whether it is in the pipe still, and how much of it is in the log.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};

use crate::fault::passed;
use crate::logs::Stream;

/// What of each stream is being handed on, on disk: an [`UnderWay`] for each.
#[derive(Debug)]
pub(crate) struct Journal(std::fs::File);

/// How much is being handed on, its checksum, and the time of its entries in nanoseconds since 1970: 4, 4 and 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UnderWay {
    bytes: u32,
    checksum: u32,
    nanoseconds: i64,
}

/// Size of one of them, in bytes.
const ENTRY_BYTES: usize = 16;

/// A view into the pipe of one stream.
#[derive(Debug)]
pub(crate) struct Peek {
    journal: Arc<Journal>,
    stream: Stream,
    /// What is looked at comes through here, as a copy.
    copy: (OwnedFd, OwnedFd),
}

/// What a pump reads from.
pub(super) enum Source {
    Plain(OwnedFd),
    /// What is read stays in the pipe until it has been handed on: a successor finds it if this process is killed.
    Peeked(OwnedFd, Peek),
}

impl Source {
    pub(super) fn descriptor(&self) -> &OwnedFd {
        match self {
            Self::Plain(source) | Self::Peeked(source, _) => source,
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Plain(source) => rustix::io::read(source, buffer),
            Self::Peeked(source, peek) => peek.look(source, buffer),
        }
    }

    /// Says that what was read last is about to be handed on.
    pub(super) fn hands_on(&self, time: Timestamp, bytes: &[u8]) {
        if let Self::Peeked(_, peek) = self {
            peek.hands_on(time, bytes);
        }
    }

    /// Says that it has been handed on. The bytes are used up.
    pub(super) fn has_handed_on(&self, bytes: &mut [u8]) {
        if let Self::Peeked(source, peek) = self {
            peek.has_handed_on(source, bytes);
        }
    }
}

impl Journal {
    /// Opens the journal, and makes it where there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() < 2 * ENTRY_BYTES as u64 {
            // Written and not only made longer: a disk that is full later has room for it.
            file.write_all_at(&[0; 2 * ENTRY_BYTES], 0)?;
        }
        Ok(Arc::new(Self(file)))
    }

    fn put(&self, stream: Stream, under_way: Option<UnderWay>) {
        let mut entry = [0; ENTRY_BYTES];
        if let Some(UnderWay { bytes, checksum, nanoseconds }) = under_way {
            entry[..4].copy_from_slice(&bytes.to_le_bytes());
            entry[4..8].copy_from_slice(&checksum.to_le_bytes());
            entry[8..].copy_from_slice(&nanoseconds.to_le_bytes());
        }
        // The page is there. Without the journal, what is under way would be logged twice after a crash, at worst.
        let _ = self.0.write_all_at(&entry, Self::place(stream));
    }

    fn get(&self, stream: Stream) -> Option<UnderWay> {
        let mut entry = [0; ENTRY_BYTES];
        self.0.read_exact_at(&mut entry, Self::place(stream)).ok()?;
        let under_way = UnderWay {
            bytes: u32::from_le_bytes(entry[..4].try_into().ok()?),
            checksum: u32::from_le_bytes(entry[4..8].try_into().ok()?),
            nanoseconds: i64::from_le_bytes(entry[8..].try_into().ok()?),
        };
        (under_way.bytes > 0).then_some(under_way)
    }

    fn place(stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => 0,
            Stream::Stderr => ENTRY_BYTES as u64,
        }
    }
}

impl Peek {
    pub(crate) fn new(journal: Arc<Journal>, stream: Stream) -> io::Result<Self> {
        let copy = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { journal, stream, copy })
    }

    /// Copies what is in the pipe, and leaves it there. Like `read` of a pipe that does not block.
    fn look(&self, source: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        let there = tee(source, &self.copy.1, buffer.len(), SpliceFlags::NONBLOCK)?;
        let mut copied = 0;
        while copied < there {
            copied += retry_on_intr(|| rustix::io::read(&self.copy.0, &mut buffer[copied..there]))?;
        }
        Ok(there)
    }

    fn hands_on(&self, time: Timestamp, bytes: &[u8]) {
        let under_way = UnderWay {
            // A buffer is no longer than that.
            bytes: u32::try_from(bytes.len()).unwrap_or_default(),
            checksum: crc32fast::hash(bytes),
            nanoseconds: i64::try_from(time.as_nanosecond()).unwrap_or_default(),
        };
        self.journal.put(self.stream, Some(under_way));
        passed("output.read");
    }

    fn has_handed_on(&self, source: &OwnedFd, bytes: &mut [u8]) {
        passed("output.logged");
        take(source, bytes);
        passed("output.taken");
        self.journal.put(self.stream, None);
    }

    /// Takes out of the pipe what a predecessor had logged and not taken. `logged` gives the number of bytes of the
    /// entries of this stream and time in the log.
    pub(super) fn go_on(&self, source: &OwnedFd, logged: impl FnOnce(Timestamp) -> usize) {
        let Some(UnderWay { bytes, checksum, nanoseconds }) = self.journal.get(self.stream) else { return };
        let mut there = vec![0; (bytes as usize).min(super::stdio::BUFFER_BYTES)];
        let count = self.look(source, &mut there).unwrap_or(0);
        if count == bytes as usize
            && crc32fast::hash(&there) == checksum
            && let Ok(time) = Timestamp::from_nanosecond(i128::from(nanoseconds))
        {
            let done = logged(time).min(count);
            tracing::info!(
                stream = self.stream.name(),
                done,
                "bytes that were logged before the supervisor was killed"
            );
            take(source, &mut there[..done]);
        }
        self.journal.put(self.stream, None);
    }
}

/// Takes out of a pipe what is known to be in it, in one step that no signal divides.
fn take(source: &OwnedFd, scratch: &mut [u8]) {
    // It is less, or fails, where the container has read its own output.
    let _ = retry_on_intr(|| rustix::io::read(source, &mut *scratch));
}

/// Opens the end of a pipe that a container gets for both directions: the container itself then keeps the pipe whole
/// when whoever is at the other end dies, and a successor finds it by `/proc`.
pub(super) fn outlasting(end: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    // What is being logged is in the pipe still: twice the usual size lets the container write meanwhile, which doubles
    // the throughput. To others than root the kernel counts it, and gives who has many pipes very small ones.
    if rustix::process::geteuid().is_root() {
        let _ = rustix::pipe::fcntl_setpipe_size(end, 2 * super::stdio::BUFFER_BYTES);
    }
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    let mut options = std::fs::OpenOptions::new();
    Ok(options.read(true).write(true).custom_flags(OFlags::CLOEXEC.bits().cast_signed()).open(path)?.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_successor_goes_on_where_a_dead_one_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        // How much was logged of what was looked at, whether it had been taken, and what comes after.
        for (logged, taken, next_line, expected) in [
            (0, false, "three\n", "one\ntwo\nthree\n"),
            (4, false, "three\n", "two\nthree\n"),
            (8, false, "three\n", "three\n"),
            (8, true, "three\n", "three\n"),
            (8, true, "\nit begins as the other ends", "\nit begins as the other ends"),
        ] {
            let (source, sink) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
            let mut sink = std::fs::File::from(sink);
            sink.write_all(b"one\ntwo\n").unwrap();
            let first = Peek::new(Journal::open(&path).unwrap(), Stream::Stdout).unwrap();
            let mut buffer = [0; 100];
            assert_eq!(first.look(&source, &mut buffer), Ok(8));
            first.hands_on(Timestamp::UNIX_EPOCH, &buffer[..8]);
            if taken {
                take(&source, &mut buffer[..8]);
            }
            drop(first);
            sink.write_all(next_line.as_bytes()).unwrap();
            let next = Peek::new(Journal::open(&path).unwrap(), Stream::Stdout).unwrap();
            next.go_on(&source, |time| {
                assert_eq!(time, Timestamp::UNIX_EPOCH);
                logged
            });
            let count = next.look(&source, &mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..count]).unwrap(), expected);
            assert_eq!(next.journal.get(Stream::Stdout), None);
        }
    }

    #[test]
    fn a_pipe_outlasts_its_reader() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut kept = std::fs::File::from(outlasting(&writer).unwrap());
        drop((reader, writer));
        kept.write_all(b"still here").unwrap();
    }
}
