//! Looking at the end of a log alone, however long it is.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;

use super::{LogFormat, Stream, decode, file_at};

/// How much of a file's end is looked at, in bytes: what is read at once from a stream, as lines of one byte each.
const TAIL_BYTES: u64 = 8 << 20;

/// How many bytes of a stream are in the entries of exactly this time, ends of lines included. They are the newest of
/// the stream, and written at once, in as many files as it took.
pub(crate) fn logged_at(folder: &Path, format: LogFormat, stream: Stream, time: Timestamp) -> usize {
    let mut count = 0;
    for age in 0.. {
        let Ok(tail) = tail_of(&file_at(folder, age)) else { break };
        let entries: Vec<_> =
            tail.split(|byte| *byte == b'\n').filter_map(|line| decode(format, line)).collect();
        let of_that_time = entries.iter().filter(|entry| entry.stream == stream && entry.time == time);
        count += of_that_time.map(|entry| entry.bytes.len() + usize::from(entry.ends_line)).sum::<usize>();
        // The file was begun after it, or for it.
        if entries.first().is_some_and(|entry| entry.time != time) {
            break;
        }
    }
    count
}

/// The end of a file; its first line may be cut.
fn tail_of(path: &Path) -> io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; usize::try_from(size - start).unwrap_or_default()];
    file.read_exact_at(&mut tail, start)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::super::{LogConfig, LogWriter, OnFull};
    use super::*;

    #[test]
    fn the_bytes_of_one_moment_are_counted_across_files() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            LogConfig { format: LogFormat::Cri, max_bytes: 100, max_files: 50, on_full: OnFull::Drop };
        let mut writer = LogWriter::open(folder.path(), config).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let count = |stream, second| logged_at(folder.path(), LogFormat::Cri, stream, at(second));
        assert_eq!(count(Stream::Stdout, 1), 0);
        writer.write(at(1), Stream::Stdout, b"before\n").unwrap();
        writer.write(at(2), Stream::Stderr, b"other\n").unwrap();
        let many = "line\n".repeat(20) + "open";
        writer.write(at(2), Stream::Stdout, many.as_bytes()).unwrap();
        assert!(std::fs::read_dir(folder.path()).unwrap().count() > 5);
        assert_eq!(count(Stream::Stdout, 2), many.len());
        assert_eq!(count(Stream::Stdout, 3), 0);
    }
}
