//! Writing a container's log: whole entries, files of a bounded size, and gaps that are counted.

use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::format::Head;
use super::{ENTRY_LIMIT_BYTES, LogConfig, Stream, begin_another, index, open_newest};

/// Writes the log of one container. One writer a log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    config: LogConfig,
    folder: PathBuf,
    file: std::fs::File,
    /// Size of the file, in bytes.
    size: u64,
    /// Bytes of output that are not in the log since the last entry that is, and why.
    gap: Option<Gap>,
    /// Entries on their way to the file.
    buffer: Vec<u8>,
    /// How many there are in the log, those included that have gone with old files.
    entries: u64,
}

#[derive(Debug)]
struct Gap {
    bytes: u64,
    why: io::Error,
}

/// Output that is not in the log: so many bytes at the end of what was to be written.
#[derive(Debug)]
pub(crate) struct Unlogged {
    pub(crate) bytes: usize,
    pub(crate) error: io::Error,
}

impl LogWriter {
    /// Makes the folder of a container's logs and opens the newest file.
    ///
    /// # Errors
    /// What the file system returns.
    pub(crate) fn open(folder: &Path, config: LogConfig) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let file = open_newest(folder)?;
        let size = whole_entries(&file)?;
        // What a writer that was killed has begun must not be taken for the beginning of the next entry.
        file.set_len(size)?;
        let entries = entries_before(folder, &file)?;
        Ok(Self { config, folder: folder.to_owned(), file, size, gap: None, buffer: Vec::new(), entries })
    }

    /// Writes what was read from a stream at one moment, in as many files as it takes.
    ///
    /// # Errors
    /// [`Unlogged`]: what comes before is in the log. The caller says with [`LogWriter::miss`] if the rest is given up.
    pub(crate) fn write(&mut self, time: Timestamp, stream: Stream, bytes: &[u8]) -> Result<(), Unlogged> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut logged = 0;
        let written = self.write_entries(time, stream, bytes, &mut buffer, &mut logged);
        self.buffer = buffer;
        written.map_err(|error| Unlogged { bytes: bytes.len() - logged, error })
    }

    fn write_entries(
        &mut self,
        time: Timestamp,
        stream: Stream,
        bytes: &[u8],
        buffer: &mut Vec<u8>,
        logged: &mut usize,
    ) -> io::Result<()> {
        if let Some(gap) = &self.gap {
            let words = format!("cofferdam: {} bytes of output are missing here: {}", gap.bytes, gap.why);
            Head::new(self.config.format, time, Stream::Stderr).encode(words.as_bytes(), true, buffer);
        }
        let head = Head::new(self.config.format, time, stream);
        let mut start = 0;
        let ends = memchr::memchr_iter(b'\n', bytes).map(|end| (end, true));
        // What has no end of a line yet.
        let rest = (!bytes.ends_with(b"\n") && !bytes.is_empty()).then_some((bytes.len(), false));
        for (end, ends_line) in ends.chain(rest) {
            while start < end || ends_line {
                let piece = (end - start).min(ENTRY_LIMIT_BYTES);
                let is_last = start + piece == end;
                let before = buffer.len();
                head.encode(&bytes[start..start + piece], is_last && ends_line, buffer);
                if before > 0 && self.size.saturating_add(buffer.len() as u64) > self.config.max_bytes {
                    self.append(&buffer[..before])?;
                    *logged = start;
                    buffer.drain(..before);
                }
                start += piece;
                if is_last {
                    break;
                }
            }
            start = end + usize::from(ends_line);
        }
        self.append(buffer)?;
        *logged = bytes.len();
        Ok(())
    }

    /// Counts output that is given up, because of an error of [`LogWriter::write`].
    pub(crate) fn miss(&mut self, bytes: usize, why: io::Error) {
        let before = self.gap.take().map_or(0, |gap| gap.bytes);
        if before == 0 {
            tracing::warn!(folder = %self.folder.display(), error = %why, "output of the container cannot be logged");
        }
        self.gap = Some(Gap { bytes: before.saturating_add(bytes as u64), why });
    }

    /// Appends whole entries, or nothing; begins another file where they do not fit. A single entry that is larger than
    /// a file may be, with each byte escaped, gets one of its own.
    fn append(&mut self, entries: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size.saturating_add(entries.len() as u64) > self.config.max_bytes {
            self.file = begin_another(&self.folder, self.config.max_files)?;
            self.size = 0;
            // Without it, numbers begin anew at the next file: no reason to lose output.
            let _ = index::begin(&self.folder, &self.file, self.entries + 1);
        }
        match self.file.write_all(entries) {
            Ok(()) => {
                self.size += entries.len() as u64;
                self.entries += memchr::memchr_iter(b'\n', entries).count() as u64;
                // It was in front of the first of them.
                self.gap = None;
                Ok(())
            }
            Err(error) => {
                // What has come of it must not be taken for an entry.
                self.file.set_len(self.size)?;
                Err(error)
            }
        }
    }
}

/// How many entries a log has had with the newest file.
fn entries_before(folder: &Path, mut newest: &std::fs::File) -> io::Result<u64> {
    let first = index::first_of(folder, newest.metadata()?.ino());
    let (mut count, mut buffer) = (0, vec![0; 64 << 10]);
    newest.rewind()?;
    loop {
        match newest.read(&mut buffer)? {
            0 => return Ok(first - 1 + count),
            length => count += memchr::memchr_iter(b'\n', &buffer[..length]).count() as u64,
        }
    }
}

/// Where the last whole entry of a file ends, in bytes.
fn whole_entries(file: &std::fs::File) -> io::Result<u64> {
    /// More than the longest entry, with each byte escaped.
    const TAIL: u64 = 256 << 10;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(TAIL);
    let mut tail = vec![0; usize::try_from(size - start).unwrap_or_default()];
    file.read_exact_at(&mut tail, start)?;
    Ok(memchr::memrchr(b'\n', &tail).map_or(start, |end| start + end as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::super::{LogFormat, OnFull, decode, file_at};
    use super::*;

    fn config(max_bytes: u64, max_files: u32) -> LogConfig {
        LogConfig { format: LogFormat::Cri, max_bytes, max_files, on_full: OnFull::Drop }
    }

    /// How many files the log in a folder has.
    fn count(folder: &Path) -> u32 {
        (0..).find(|age| !file_at(folder, *age).exists()).unwrap()
    }

    /// The bytes of a stream in a file.
    fn bytes_in(path: &Path) -> Vec<u8> {
        let text = std::fs::read(path).unwrap_or_default();
        let entries = text.split(|byte| *byte == b'\n').filter_map(|line| decode(LogFormat::Cri, line));
        entries
            .flat_map(|entry| {
                let end: &[u8] = if entry.ends_line { b"\n" } else { b"" };
                [entry.bytes.as_slice(), end].concat()
            })
            .collect()
    }

    #[test]
    fn lines_parts_and_long_lines_keep_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), config(u64::MAX, 1)).unwrap();
        let long = vec![b'x'; 100_000];
        let pieces: [&[u8]; 6] = [b"a\nb", b"", b"c\n\n", &long, b"\n\xff\0 no end", b"\r"];
        for piece in pieces {
            writer.write(Timestamp::UNIX_EPOCH, Stream::Stdout, piece).unwrap();
        }
        let path = file_at(folder.path(), 0);
        assert_eq!(bytes_in(&path), pieces.concat());
        let longest =
            std::fs::read(path).unwrap().split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap();
        assert!(longest < ENTRY_LIMIT_BYTES + 64, "{longest}");
    }

    #[test]
    fn files_are_bounded_in_size_and_number_and_nothing_is_lost_between_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), config(1000, 3)).unwrap();
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}\n")).collect();
        for line in &lines {
            writer.write(Timestamp::UNIX_EPOCH, Stream::Stdout, line.as_bytes()).unwrap();
        }
        assert_eq!(count(folder.path()), 3);
        let kept: Vec<u8> = (0..3).rev().flat_map(|age| bytes_in(&file_at(folder.path(), age))).collect();
        let all = lines.concat().into_bytes();
        assert!(all.ends_with(&kept) && kept.len() > 200, "the newest, whole");
        assert!((0..3).all(|age| std::fs::metadata(file_at(folder.path(), age)).unwrap().len() <= 1000));
    }

    #[test]
    fn what_comes_at_once_is_divided_among_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), config(1000, 100)).unwrap();
        let all: String = (0..500).map(|n| format!("line {n}\n")).collect();
        writer.write(Timestamp::UNIX_EPOCH, Stream::Stdout, all.as_bytes()).unwrap();
        let files = count(folder.path());
        assert!(files > 10, "{files}");
        let size = |age| std::fs::metadata(file_at(folder.path(), age)).unwrap().len();
        assert!((0..files).all(|age| size(age) <= 1000));
        let kept: Vec<u8> = (0..files).rev().flat_map(|age| bytes_in(&file_at(folder.path(), age))).collect();
        assert_eq!(kept, all.into_bytes());
    }

    #[test]
    fn what_a_killed_writer_has_begun_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        for (kept, expected) in [("", ""), ("1970-01-01T00:00:00Z stdout F one\n", "one\n")] {
            std::fs::write(file_at(folder.path(), 0), format!("{kept}1970-01-01T00:00:00Z stdout F tw"))
                .unwrap();
            let mut writer = LogWriter::open(folder.path(), config(u64::MAX, 1)).unwrap();
            writer.write(Timestamp::UNIX_EPOCH, Stream::Stdout, b"next\n").unwrap();
            assert_eq!(bytes_in(&file_at(folder.path(), 0)), format!("{expected}next\n").into_bytes());
        }
    }

    #[test]
    fn a_gap_is_counted_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), config(u64::MAX, 1)).unwrap();
        writer.miss(5, io::Error::from_raw_os_error(libc::ENOSPC));
        writer.miss(7, io::Error::from_raw_os_error(libc::ENOSPC));
        writer.write(Timestamp::UNIX_EPOCH, Stream::Stdout, b"on\n").unwrap();
        writer.write(Timestamp::UNIX_EPOCH, Stream::Stdout, b"and on\n").unwrap();
        let text = String::from_utf8(bytes_in(&file_at(folder.path(), 0))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("cofferdam: 12 bytes of output are missing here: No space left"),
            "{text}"
        );
        assert_eq!(lines[1..], ["on", "and on"]);
    }
}
