//! Files and directories of the store: written whole or not at all, and removed however deep they are.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use cofferdam::removal::remove_deep;
use rustix::fs::OFlags;
use uuid::Uuid;

/// A name that nothing else has: it ends with random digits. The number of a process would not do, as processes in several
/// namespaces share a store, and what a killed one has left is there after a restart, when numbers come again.
pub(super) fn unique(what: &str) -> String {
    format!("{what}.{}", Uuid::new_v4().simple())
}

/// Makes a directory, and those above it, for its owner only; one that is there stays as it is.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes what others may do with a directory away.
pub(super) fn keep_private(path: &Path) -> io::Result<()> {
    let mode = path.metadata()?.permissions().mode();
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7700))
    }
}

/// Opens a regular file to be read; never waits for a FIFO, follows no link, and touches no device.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

/// Reads a file that is no longer than the limit, in bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_limited(open_regular(path)?, limit)
}

/// Reads a stream that is no longer than the limit, in bytes; a longer one is not cut, but refused.
pub(crate) fn read_limited(stream: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Writes a file in the folder for what is under way, and gives it its name when it is on the disk, whole.
pub(super) fn write_whole(partial: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = partial.join(unique("write"));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // It may not have been made at all.
        let _ = std::fs::remove_file(&temporary);
        return written;
    }
    sync_folder_of(path)
}

/// The folder that a file is in; `None` for the root. That of a name without a folder is the working directory.
pub(crate) fn folder_of(path: &Path) -> Option<&Path> {
    let folder = path.parent()?;
    Some(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// Has the name of a file last as its content does.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match folder_of(path) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a file or a tree, however deep. What others remove meanwhile, or have removed, is no error.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => remove_deep(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The names in a directory; none where it is not there.
pub(super) fn names(path: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| entry.map(|entry| entry.file_name())).collect(),
    }
}

/// The bytes that a file, or all files of a tree, take of the disk.
pub(super) fn size_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    let mut to_see = vec![path.to_owned()];
    while let Some(path) = to_see.pop() {
        let Ok(about) = path.symlink_metadata() else { continue };
        // A file with several names is counted with each of them in its part.
        let links = if about.is_dir() { 1 } else { about.nlink().max(1) };
        sum += about.blocks() * 512 / links;
        if about.is_dir() {
            to_see.extend(names(&path).unwrap_or_default().into_iter().map(|name| path.join(name)));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FileType, Mode};

    use super::*;

    #[test]
    fn every_file_has_a_folder() {
        for (path, folder) in [("a/b", Some("a")), ("/a", Some("/")), ("a", Some(".")), ("/", None)] {
            assert_eq!(folder_of(Path::new(path)), folder.map(Path::new), "{path}");
        }
    }

    #[test]
    fn a_name_is_not_made_of_what_comes_again() {
        let name = unique("write");
        assert_ne!(name, unique("write"));
        let (what, digits) = name.split_once('.').unwrap();
        assert_eq!((what, digits.len()), ("write", 32), "and no number of a process");
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        write_whole(place.path(), &path, b"old").unwrap();
        write_whole(Path::new("/nonexistent"), &path, b"new").unwrap_err();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"old");
        assert_eq!(read_bounded(&path, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_bounded(place.path(), 2).is_err());
        let fifo = place.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(open_regular(&fifo).is_err(), "and nobody waits for it");
    }
}
