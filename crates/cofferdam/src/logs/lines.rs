//! Reading the lines of a file that others append to and begin anew: from its oldest part on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file_at;
use super::index::first_of;

/// Files that are looked for at most; a writer keeps fewer.
const FILES_LIMIT: u32 = 1000;
/// The longest line, in bytes: an entry of [`super::ENTRY_LIMIT_BYTES`], with each byte escaped.
const LINE_LIMIT: u64 = 256 << 10;

/// Reads the lines of the files in one folder in order.
#[derive(Debug)]
pub(crate) struct LineReader {
    folder: PathBuf,
    current: Option<Current>,
    /// The number of the line that was given last, by the folder's index.
    number: u64,
}

/// The file that is being read.
#[derive(Debug)]
struct Current {
    file: BufReader<File>,
    inode: u64,
    /// The end of the last whole line, in bytes.
    position: u64,
    /// The number of the line before that.
    number: u64,
}

impl LineReader {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), current: None, number: 0 }
    }

    /// The next whole line of the files, without its end.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if self.current.is_none() {
                self.current = self.oldest()?;
            }
            let Some(current) = &mut self.current else { return Ok(None) };
            if let Some(line) = current.line()? {
                self.number = current.number;
                return Ok(Some(line));
            }
            let inode = current.inode;
            let Some(newer) = self.newer_than(inode)? else { return Ok(None) };
            // What was written between our look and the beginning of the newer file.
            if let Some(current) = &mut self.current
                && let Some(line) = current.line()?
            {
                self.number = current.number;
                return Ok(Some(line));
            }
            self.current = Some(newer);
        }
    }

    /// The number of the line that was given last.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn oldest(&self) -> io::Result<Option<Current>> {
        let last = (0..FILES_LIMIT).take_while(|age| file_at(&self.folder, *age).exists()).last();
        // Between two renames of the writer the newest may be missing.
        let last = last.or_else(|| file_at(&self.folder, 1).exists().then_some(1));
        last.map_or(Ok(None), |age| Current::open(&file_at(&self.folder, age)))
    }

    /// The file that was begun after the one with this inode; `None` when that is the newest.
    fn newer_than(&self, inode: u64) -> io::Result<Option<Current>> {
        let age_of_ours = (0..FILES_LIMIT)
            .map(|age| (age, std::fs::metadata(file_at(&self.folder, age))))
            // One gap is the writer's, between two renames.
            .take_while(|(age, metadata)| metadata.is_ok() || *age == 0)
            .find(|(_, metadata)| metadata.as_ref().is_ok_and(|metadata| metadata.ino() == inode))
            .map(|(age, _)| age);
        match age_of_ours {
            Some(0) => Ok(None),
            Some(age) => Current::open(&file_at(&self.folder, age - 1)),
            // It has been removed since, and with it perhaps others that we have not read.
            None => self.oldest(),
        }
    }
}

impl Current {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        let number = first_of(path.parent().unwrap_or(path), inode).saturating_sub(1);
        Ok(Some(Self { file: BufReader::with_capacity(64 << 10, file), inode, position: 0, number }))
    }

    /// The next whole line. A part of one is left where it is: the writer may be in it, or take it back.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let count = io::Read::take(&mut self.file, LINE_LIMIT).read_until(b'\n', &mut line)? as u64;
        if line.pop_if(|byte| *byte == b'\n').is_some() || count == LINE_LIMIT {
            self.position += count;
            self.number += 1;
            return Ok(Some(line));
        }
        self.file.seek(SeekFrom::Start(self.position))?;
        Ok(None)
    }
}
