//! The files of a log: the newest, and older ones by number.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name of the newest file in a folder; older ones have a number after it.
const FILE_NAME: &str = "log";

/// A file of a folder: 0 is the newest.
pub(crate) fn file_at(folder: &Path, age: u32) -> PathBuf {
    if age == 0 { folder.join(FILE_NAME) } else { folder.join(format!("{FILE_NAME}.{age}")) }
}

/// Opens the newest file, to be read and to be appended to; makes it where there is none.
pub(crate) fn open_newest(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file_at(folder, 0))
}

/// Begins another file, and keeps so many, the new one included. Whoever reads an old one still has it.
pub(crate) fn begin_another(folder: &Path, keep: u32) -> io::Result<File> {
    let last = keep.saturating_sub(1);
    if last == 0 {
        // A new file and not an empty one: a reader must not find other bytes where it has been.
        std::fs::remove_file(file_at(folder, 0))?;
    }
    for age in (0..last).rev() {
        match std::fs::rename(file_at(folder, age), file_at(folder, age + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    open_newest(folder)
}
