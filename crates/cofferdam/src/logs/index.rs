//! Which number the first entry of each file of a log has: entries are numbered from 1, and old files go.
//!
//! A line for each file, by its inode: `INODE FIRST`. A file that is not in it is the log's first one.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::file_at;
use crate::state::write_atomically;

const NAME: &str = "index";

/// The number of the first entry of a file.
pub(super) fn first_of(folder: &Path, inode: u64) -> u64 {
    entries(folder).find(|(other, _)| *other == inode).map_or(1, |(_, first)| first)
}

/// Writes down the number of the first entry of the newest file, and forgets the files that have gone.
pub(super) fn begin(folder: &Path, newest: &File, first: u64) -> io::Result<()> {
    let there: Vec<u64> = (1..)
        .map_while(|age| std::fs::metadata(file_at(folder, age)).ok())
        .map(|metadata| metadata.ino())
        .collect();
    let mut text: String = entries(folder)
        .filter(|(inode, _)| there.contains(inode))
        .map(|(inode, first)| format!("{inode} {first}\n"))
        .collect();
    let _ = writeln!(text, "{} {first}", newest.metadata()?.ino());
    write_atomically(&folder.join(NAME), |out| io::Write::write_all(out, text.as_bytes()))
}

fn entries(folder: &Path) -> impl Iterator<Item = (u64, u64)> {
    let text = std::fs::read_to_string(folder.join(NAME)).unwrap_or_default();
    let parsed = |line: &str| {
        let (inode, first) = line.split_once(' ')?;
        Some((inode.parse().ok()?, first.parse().ok()?))
    };
    text.lines().filter_map(parsed).collect::<Vec<_>>().into_iter()
}
