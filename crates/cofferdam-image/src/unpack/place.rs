//! Putting entries into a directory without being led out of it.
//!
//! Every directory is opened below the target (`openat2` with RESOLVE_IN_ROOT), so that links in the layer lead to places
//! in the layer; the last part of a name is never followed. What is in the way is removed and not written through.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, XattrFlags, chmodat,
    chownat, fchmod, fchown, fsetxattr, linkat, makedev, mkdirat, mknodat, openat, openat2, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::UnpackError;
use super::entry::{Entry, LayerPath, printable};
use crate::pack::attributes::is_portable;

/// The extended attribute by which overlayfs hides what lower layers have in a directory.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Directories that a layer has no entry for.
const PLAIN_DIRECTORY: RawMode = 0o755;
/// The names of directories that are kept to set their times at the end, in bytes; more are left as they are.
const TIMES_LIMIT: usize = 64 << 20;
/// How much of a file is copied at once, in bytes.
const BUFFER: usize = 128 << 10;
/// How deep directories are removed: deeper than any path that can be named.
const DEPTH_LIMIT: usize = 2100;

/// The target, and what is still to be done in it.
#[derive(Debug)]
pub(super) struct Place<'a> {
    root: BorrowedFd<'a>,
    /// The directory that was used last: entries come in the order of directories.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// The times of directories, which are set when nothing is put into them any more.
    times: BTreeMap<Vec<u8>, (i64, u32)>,
    times_bytes: usize,
    /// For the content of files: a layer may have a million small ones.
    buffer: Vec<u8>,
}

impl<'a> Place<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None, times: BTreeMap::new(), times_bytes: 0, buffer: vec![0; BUFFER] }
    }

    /// Sets the times that were left to the end.
    pub(super) fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, modified) in std::mem::take(&mut self.times) {
            // Something else may be there by now.
            if let Ok(directory) = self.open_directory(&path) {
                set_times(directory.as_fd(), b".", modified)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let root =
            openat(self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(UnpackError::place("opened"))?;
        self.note_time(entry);
        describe(root.as_fd(), entry)
    }

    pub(super) fn directory(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let (parent, name) = self.parent_of(&entry.path)?;
        let old = kind_of(parent.as_fd(), name)?;
        let was_hidden = old == Some(FileType::CharacterDevice);
        if old.is_some_and(|old| old != FileType::Directory) {
            remove(parent.as_fd(), name)?;
        }
        if old != Some(FileType::Directory) {
            mkdirat(&parent, name, Mode::from_raw_mode(0o700)).map_err(UnpackError::place("made"))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&parent, name, flags, Mode::empty()).map_err(UnpackError::place("opened"))?;
        describe(directory.as_fd(), entry)?;
        if was_hidden {
            // It was removed from the lower layers, and is made anew.
            set_opaque(directory.as_fd())?;
        }
        self.note_time(entry);
        Ok(())
    }

    fn note_time(&mut self, entry: &Entry) {
        let path = entry.path.bytes().to_vec();
        self.times_bytes += path.len();
        if self.times_bytes <= TIMES_LIMIT {
            self.times.insert(path, entry.modified);
        }
    }

    pub(super) fn file(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), UnpackError> {
        let (parent, name) = self.clear_for(&entry.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            openat(&parent, name, flags, Mode::from_raw_mode(0o600)).map_err(UnpackError::place("made"))?;
        let mut file = File::from(file);
        self.copy(content, &mut file)?;
        describe(file.as_fd(), entry)?;
        set_times(parent.as_fd(), name, entry.modified)
    }

    fn copy(&mut self, content: &mut impl Read, file: &mut File) -> Result<(), UnpackError> {
        loop {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(UnpackError::Read(error)),
            };
            let written = io::Write::write_all(file, &self.buffer[..count]);
            written.map_err(|source| UnpackError::Place { what: "written", source })?;
        }
    }

    pub(super) fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), UnpackError> {
        let (parent, name) = self.clear_for(&entry.path)?;
        symlinkat(target, &parent, name).map_err(UnpackError::place("made"))?;
        own(parent.as_fd(), name, entry)?;
        set_times(parent.as_fd(), name, entry.modified)
    }

    pub(super) fn hardlink(&mut self, entry: &Entry, target: &LayerPath) -> Result<(), UnpackError> {
        let no_target = || UnpackError::NoTarget(printable(target.bytes()));
        let target_name = target.name().ok_or_else(no_target)?;
        let holder = self.open_directory(target.parent()).map_err(|_| no_target())?;
        match kind_of(holder.as_fd(), target_name)? {
            // A whiteout is a device, and is nothing of the layer's.
            Some(FileType::RegularFile | FileType::Symlink | FileType::Fifo) => {}
            _ => return Err(no_target()),
        }
        if target == &entry.path {
            return Ok(());
        }
        let (parent, name) = self.clear_for(&entry.path)?;
        linkat(&holder, target_name, &parent, name, AtFlags::empty()).map_err(|errno| match errno {
            // It was removed with what was in the way.
            Errno::NOENT => no_target(),
            errno => UnpackError::place("linked")(errno),
        })
    }

    pub(super) fn fifo(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let (parent, name) = self.clear_for(&entry.path)?;
        let mode = Mode::from_raw_mode(entry.mode);
        mknodat(&parent, name, FileType::Fifo, mode, 0).map_err(UnpackError::place("made"))?;
        own(parent.as_fd(), name, entry)?;
        chmodat(&parent, name, mode, AtFlags::empty()).map_err(UnpackError::place("given its mode"))?;
        set_times(parent.as_fd(), name, entry.modified)
    }

    /// Hides a name of lower layers. What this layer itself has of that name stays: an order is not said to mean anything.
    pub(super) fn hide(&mut self, parent: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let parent = self.make_directory(parent)?;
        match kind_of(parent.as_fd(), name)? {
            Some(FileType::Directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let own =
                    openat(&parent, name, flags, Mode::empty()).map_err(UnpackError::place("opened"))?;
                set_opaque(own.as_fd())
            }
            Some(_) => Ok(()),
            None => mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
                .map_err(UnpackError::hiding),
        }
    }

    /// Hides all that lower layers have in a directory.
    pub(super) fn hide_all(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        let directory = self.make_directory(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            openat(&directory, ".", flags, Mode::empty()).map_err(UnpackError::place("opened"))?;
        set_opaque(directory.as_fd())
    }

    /// The directory that an entry is in, and its name in it.
    fn parent_of<'p>(&mut self, path: &'p LayerPath) -> Result<(OwnedFd, &'p [u8]), UnpackError> {
        let name = path.name().ok_or(UnpackError::NoName)?;
        Ok((self.make_directory(path.parent())?, name))
    }

    /// Like [`Place::parent_of`], with nothing of that name in it.
    fn clear_for<'p>(&mut self, path: &'p LayerPath) -> Result<(OwnedFd, &'p [u8]), UnpackError> {
        let (parent, name) = self.parent_of(path)?;
        if kind_of(parent.as_fd(), name)?.is_some() {
            // A directory that goes may be the one that was used last.
            self.last = None;
            remove(parent.as_fd(), name)?;
        }
        Ok((parent, name))
    }

    /// Opens a directory of the layer, and makes it, and those above it, where they are missing.
    fn make_directory(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        if let Some((known, directory)) = &self.last
            && known == path
        {
            return directory.try_clone().map_err(|source| UnpackError::Place { what: "opened", source });
        }
        let directory = match self.open_directory(path) {
            Err(Errno::NOENT) => self.make_all(path)?,
            opened => {
                opened.map_err(UnpackError::place("opened: something that is no directory is above it"))?
            }
        };
        let copy = directory.try_clone().map_err(|source| UnpackError::Place { what: "opened", source })?;
        self.last = Some((path.to_vec(), copy));
        Ok(directory)
    }

    fn make_all(&self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let own = LayerPath::parse(&path[..end])?;
            let Some(name) = own.name() else { continue };
            let above = self.open_directory(own.parent()).map_err(UnpackError::place("opened"))?;
            let mode = Mode::from_raw_mode(PLAIN_DIRECTORY);
            match mkdirat(&above, name, mode) {
                // Whatever the umask is.
                Ok(()) => {
                    chmodat(&above, name, mode, AtFlags::empty()).map_err(UnpackError::place("made"))?
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(UnpackError::place("made")(errno)),
            }
        }
        // A link that leads nowhere in this layer is in the way: what it means only the lower layers know.
        self.open_directory(path).map_err(UnpackError::place("opened: a link above it leads nowhere"))
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(self.root, path, flags, Mode::empty(), resolve)
    }
}

/// What a name is; `None` where there is nothing.
fn kind_of(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, UnpackError> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(UnpackError::place("looked at")(errno)),
    }
}

/// Removes a name, and what is below it.
fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), UnpackError> {
    remove_below(parent, name, DEPTH_LIMIT).map_err(UnpackError::place("replaced"))
}

fn remove_below(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) if depth > 0 => {}
        done => return done,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    let names: Vec<_> = Dir::read_from(&directory)?
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<Result<_, _>>()?;
    for name in names.iter().map(|name| name.to_bytes()).filter(|name| !matches!(*name, b"." | b"..")) {
        remove_below(directory.as_fd(), name, depth - 1)?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Gives an open file or directory its owner, attributes and mode; the mode last, as a change of the owner takes
/// set-user-ID away.
fn describe(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchown(file, Some(uid), Some(gid)).map_err(UnpackError::place("given its owner"))?;
    for (name, value) in &entry.attributes {
        if !is_portable(name) {
            continue;
        }
        match fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without them, or a kind of file that has none.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(UnpackError::place("given its attributes")(errno)),
        }
    }
    fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(UnpackError::place("given its mode"))
}

fn own(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(UnpackError::place("given its owner"))
}

fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), UnpackError> {
    fsetxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty()).map_err(UnpackError::hiding)
}

/// Sets when something was changed last.
fn set_times(parent: BorrowedFd<'_>, name: &[u8], modified: (i64, u32)) -> Result<(), UnpackError> {
    let time = Timespec { tv_sec: modified.0, tv_nsec: modified.1.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    match utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
        // Beyond what the file system can say.
        Ok(()) | Err(Errno::INVAL | Errno::OVERFLOW) => Ok(()),
        Err(errno) => Err(UnpackError::place("given its time")(errno)),
    }
}
