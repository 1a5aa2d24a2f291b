//! Reading a container's log: from its oldest file on, across the beginning of new ones, also while it is written.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::lines::LineReader;
use super::{LogEntry, LogFormat, decode};

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadLimits {
    /// Those of this moment and later.
    pub since: Option<Timestamp>,
    /// Those of this moment and earlier.
    pub until: Option<Timestamp>,
    /// Those with a greater number than this.
    pub after: Option<u64>,
    /// This many lines at the end of those that are there.
    pub tail: Option<usize>,
}

/// Reads the entries of one log in order.
#[derive(Debug)]
pub struct LogReader {
    lines: LineReader,
    format: LogFormat,
    limits: ReadLimits,
    /// Entries that were read ahead for [`ReadLimits::tail`].
    ahead: VecDeque<LogEntry>,
    /// Lines that are no entries.
    damaged: u64,
}

impl ReadLimits {
    fn takes(&self, entry: &LogEntry) -> bool {
        self.after.is_none_or(|after| entry.seq > after)
            && self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time <= until)
    }
}

impl LogReader {
    /// Opens the log in a folder, at its oldest entry that is wanted.
    ///
    /// # Errors
    /// What the file system returns. A folder without a file is an empty log.
    pub fn open(folder: &Path, format: LogFormat, limits: ReadLimits) -> io::Result<Self> {
        let lines = LineReader::new(folder);
        let mut reader = Self { lines, format, limits, ahead: VecDeque::new(), damaged: 0 };
        if let Some(tail) = limits.tail {
            reader.read_tail(tail)?;
        }
        Ok(reader)
    }

    /// The next entry that is wanted; `None` when there is none now. More may come as long as the log is written.
    ///
    /// # Errors
    /// What the file system returns.
    pub fn next_entry(&mut self) -> io::Result<Option<LogEntry>> {
        if let Some(entry) = self.ahead.pop_front() {
            return Ok(Some(entry));
        }
        while let Some(line) = self.lines.next_line()? {
            let entry = decode(self.format, &line);
            match entry.map(|entry| LogEntry { seq: self.lines.number(), ..entry }) {
                Some(entry) if self.limits.takes(&entry) => return Ok(Some(entry)),
                Some(_) => {}
                None => self.damaged += 1,
            }
        }
        Ok(None)
    }

    /// How many lines were passed over because they are no entries.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn read_tail(&mut self, tail: usize) -> io::Result<()> {
        let mut kept = VecDeque::new();
        let mut lines = 0_usize;
        while let Some(entry) = self.next_entry()? {
            lines += usize::from(entry.ends_line);
            kept.push_back(entry);
            let is_open = kept.back().is_some_and(|entry: &LogEntry| !entry.ends_line);
            while lines + usize::from(is_open) > tail {
                match kept.pop_front() {
                    Some(entry) => lines -= usize::from(entry.ends_line),
                    None => break,
                }
            }
        }
        self.ahead = kept;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogConfig, LogWriter, OnFull, Stream, file_at};
    use super::*;

    fn writer(folder: &Path, max_bytes: u64) -> LogWriter {
        let config = LogConfig { format: LogFormat::Cri, max_bytes, max_files: 1000, on_full: OnFull::Drop };
        LogWriter::open(folder, config).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn rest(reader: &mut LogReader) -> Vec<String> {
        let entries = std::iter::from_fn(|| reader.next_entry().unwrap());
        entries.map(|entry| String::from_utf8(entry.bytes).unwrap()).collect()
    }

    #[test]
    fn entries_come_in_order_across_files_while_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut reader = LogReader::open(folder.path(), LogFormat::Cri, ReadLimits::default()).unwrap();
        assert!(reader.next_entry().unwrap().is_none(), "an empty log");
        let mut writer = writer(folder.path(), 300);
        let mut read = Vec::new();
        let lines: Vec<String> = (0..200).map(|n| format!("line {n}")).collect();
        for (number, line) in lines.iter().enumerate() {
            writer.write(at(1), Stream::Stdout, format!("{line}\n").as_bytes()).unwrap();
            // Sometimes the reader is a file or more behind.
            if number % 17 == 0 {
                read.extend(rest(&mut reader));
            }
        }
        read.extend(rest(&mut reader));
        assert_eq!(read, lines);
        assert!(std::fs::read_dir(folder.path()).unwrap().count() > 10);
        let mut late = LogReader::open(folder.path(), LogFormat::Cri, ReadLimits::default()).unwrap();
        assert_eq!(rest(&mut late), lines);
    }

    #[test]
    fn entries_keep_their_numbers_when_old_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            LogConfig { format: LogFormat::Cri, max_bytes: 300, max_files: 3, on_full: OnFull::Drop };
        for round in 0..4 {
            // Each writer is a successor of the last.
            let mut writer = LogWriter::open(folder.path(), config).unwrap();
            for number in 1..=25 {
                let line = format!("{}\n", round * 25 + number);
                writer.write(at(1), Stream::Stdout, line.as_bytes()).unwrap();
            }
        }
        let numbers = |after| {
            let limits = ReadLimits { after, ..ReadLimits::default() };
            let mut reader = LogReader::open(folder.path(), LogFormat::Cri, limits).unwrap();
            let entries = std::iter::from_fn(|| reader.next_entry().unwrap());
            entries.map(|entry| (String::from_utf8(entry.bytes).unwrap(), entry.seq)).collect::<Vec<_>>()
        };
        let all = numbers(None);
        assert!(all.len() < 100 && all.iter().all(|(line, seq)| *line == seq.to_string()), "{all:?}");
        assert_eq!(numbers(Some(98)), [("99".to_owned(), 99), ("100".to_owned(), 100)]);
    }

    #[test]
    fn the_last_lines_and_those_of_a_time_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path(), 200);
        for second in 0..20 {
            writer.write(at(second), Stream::Stdout, format!("{second}\n").as_bytes()).unwrap();
        }
        writer.write(at(20), Stream::Stdout, b"open").unwrap();
        let read = |limits| rest(&mut LogReader::open(folder.path(), LogFormat::Cri, limits).unwrap());
        let tail = |tail| read(ReadLimits { tail: Some(tail), ..ReadLimits::default() });
        assert_eq!(tail(3), ["18", "19", "open"]);
        assert_eq!(tail(1), ["open"]);
        assert_eq!(tail(0), Vec::<String>::new());
        assert_eq!(tail(1000).len(), 21);
        let limits = ReadLimits { since: Some(at(5)), until: Some(at(7)), ..ReadLimits::default() };
        assert_eq!(read(limits), ["5", "6", "7"]);
    }

    #[test]
    fn a_part_of_a_line_is_not_an_entry_yet_and_garbage_is_passed_over() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(file_at(folder.path(), 0)).unwrap();
        file.write_all(b"garbage\n\n1970-01-01T00:00:00Z stdout F o").unwrap();
        let mut reader = LogReader::open(folder.path(), LogFormat::Cri, ReadLimits::default()).unwrap();
        assert!(rest(&mut reader).is_empty());
        file.write_all(b"ne\n").unwrap();
        assert_eq!(rest(&mut reader), ["one"]);
        assert_eq!(reader.damaged(), 2);
    }
}
