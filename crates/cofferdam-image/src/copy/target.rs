//! A directory into which files are copied.
//!
//! Invariant: every directory is opened below it, what is written is made anew (O_EXCL), and what is described is held by a
//! descriptor: so nothing is written or changed through a link, or through what somebody has put in the way meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chmodat, chownat,
    fchmod, fchown, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::content::copy_content;
use super::resolve::open_within;
use super::{CopyError, path::split};
use crate::pack::Sink;
use crate::pack::attributes::is_portable;
use crate::pack::walk::OpenFiles;
use crate::unpack::UnpackError;
use crate::unpack::entry::{Entry, Kind, LayerPath};

/// The permissions of directories that an archive has no entry for.
const PLAIN_DIRECTORY: u32 = 0o755;
/// set-user-ID and set-group-ID.
const SPECIAL: u32 = 0o6000;
/// The paths of directories that are kept to set their times at the end, in bytes; more are left as they are.
const TIMES_LIMIT: usize = 64 << 20;
/// How often something is put where somebody else puts something at the same time.
const TRIES: usize = 8;
/// How much of an archive is read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// Who owns what is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Who owned it where it comes from.
    Same,
    /// Who runs this.
    Caller,
    /// root.
    Root,
}

/// Where the paths of a target begin, and what they may lead through.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) start: OwnedFd,
    /// Goes before each path.
    pub(super) prefix: Vec<u8>,
    pub(super) resolve: ResolveFlags,
    /// Whether directories that there is no entry for are made.
    pub(super) makes_parents: bool,
}

/// A directory, and what is still to be done in it.
#[derive(Debug)]
pub(super) struct Target {
    ground: Ground,
    owner: Owner,
    /// The host's: nothing of the container's has power there.
    is_host: bool,
    files: OpenFiles,
    /// The directory that was used last.
    last: Option<(Vec<u8>, OwnedFd)>,
    times: BTreeMap<Vec<u8>, (i64, u32)>,
    times_bytes: usize,
}

impl Target {
    pub(super) fn new(ground: Ground, owner: Owner, is_host: bool) -> Result<Self, CopyError> {
        Ok(Self {
            ground,
            owner,
            is_host,
            files: OpenFiles::new()?,
            last: None,
            times: BTreeMap::new(),
            times_bytes: 0,
        })
    }

    /// Takes a file whose content comes from an archive.
    pub(super) fn put_stream(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), CopyError> {
        let mut file = self.make_file(entry)?;
        let mut buffer = vec![0; BUFFER.min(usize::try_from(entry.size).unwrap_or(BUFFER))];
        let mut left = entry.size;
        while left > 0 {
            let count = match content.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyError::Archive(UnpackError::Read(error))),
            };
            left = left.saturating_sub(count as u64);
            file.write_all(&buffer[..count]).map_err(|error| {
                failed(entry, "written")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })?;
        }
        self.describe(file.as_fd(), entry)?;
        set_times(file.as_fd(), entry)
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), CopyError> {
        // The directory that everything goes into is there, and stays as it is.
        let Some(name) = entry.path.name() else { return Ok(()) };
        let parent = self.parent(&entry.path)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) if kind_of(parent.as_fd(), name) == Some(FileType::Directory) => return Ok(()),
            Err(Errno::EXIST) if self.ground.makes_parents && self.leads_to_directory(&entry.path) => {
                return Ok(());
            }
            Err(Errno::EXIST) => {
                return Err(CopyError::refused(entry.path.bytes(), "a directory does not replace a file"));
            }
            Err(errno) => return Err(failed(entry, "made")(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&parent, name, flags, Mode::empty()).map_err(failed(entry, "opened"))?;
        self.describe(directory.as_fd(), entry)?;
        let path = entry.path.bytes().to_vec();
        self.times_bytes += path.len();
        if self.times_bytes <= TIMES_LIMIT {
            self.times.insert(path, entry.modified);
        }
        Ok(())
    }

    fn make_file(&mut self, entry: &Entry) -> Result<File, CopyError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        self.make(entry, |parent, name| openat(parent, name, flags, mode)).map(|(_, file)| file.into())
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), CopyError> {
        let (parent, ()) = self.make(entry, |parent, name| symlinkat(target, parent, name))?;
        let Some(node) = self.hold(&parent, entry, FileType::Symlink)? else { return Ok(()) };
        self.own(node.as_fd(), entry)?;
        set_times_of(node.as_fd(), entry)
    }

    fn fifo(&mut self, entry: &Entry) -> Result<(), CopyError> {
        let mode = Mode::from_raw_mode(0o600);
        let (parent, ()) = self.make(entry, |parent, name| mknodat(parent, name, FileType::Fifo, mode, 0))?;
        let Some(node) = self.hold(&parent, entry, FileType::Fifo)? else { return Ok(()) };
        self.own(node.as_fd(), entry)?;
        let mode = Mode::from_raw_mode(self.mode(entry));
        let number = node.as_raw_fd().to_string();
        chmodat(self.files.directory(), number, mode, AtFlags::empty())
            .map_err(failed(entry, "given its mode"))?;
        set_times_of(node.as_fd(), entry)
    }

    fn hardlink(&mut self, entry: &Entry, target: &LayerPath) -> Result<(), CopyError> {
        if target == &entry.path {
            return Ok(());
        }
        let Some(name_there) = target.name() else {
            return Err(CopyError::refused(entry.path.bytes(), "it is a hard link to a directory"));
        };
        let there = self.open(target.parent()).map_err(failed(entry, "linked"))?;
        // Whatever has come to the name: a link is linked itself.
        self.make(entry, |parent, name| linkat(&there, name_there, parent, name, AtFlags::empty())).map(drop)
    }

    /// Makes something by a name, in the place of what has it now; but not of a directory, and not of a device.
    fn make<T>(
        &mut self,
        entry: &Entry,
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<(OwnedFd, T), CopyError> {
        let path = entry.path.bytes();
        let Some(name) = entry.path.name() else {
            return Err(CopyError::refused(path, "a file does not replace a directory"));
        };
        let parent = self.parent(&entry.path)?;
        for _ in 0..TRIES {
            match make(parent.as_fd(), name) {
                Ok(made) => return Ok((parent, made)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(entry, "made")(errno)),
            }
            match kind_of(parent.as_fd(), name) {
                Some(FileType::Directory) => {
                    return Err(CopyError::refused(path, "a file does not replace a directory"));
                }
                Some(FileType::CharacterDevice | FileType::BlockDevice) => {
                    return Err(CopyError::refused(path, "a file does not replace a device"));
                }
                _ => {}
            }
            match unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(entry, "replaced")(errno)),
            }
        }
        Err(CopyError::refused(path, "something else is put there again and again"))
    }

    /// Holds what was made just now, by what it must be; `None` where somebody has replaced it.
    fn hold(&self, parent: &OwnedFd, entry: &Entry, kind: FileType) -> Result<Option<OwnedFd>, CopyError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = match openat(parent, entry.path.name().unwrap_or_default(), flags, Mode::empty()) {
            Ok(node) => node,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(entry, "opened")(errno)),
        };
        let about = fstat(&node).map_err(failed(entry, "looked at"))?;
        let is_it = FileType::from_raw_mode(about.st_mode) == kind && about.st_nlink == 1;
        Ok(is_it.then_some(node))
    }

    /// Gives an open file or directory its owner, attributes and mode; the mode last, as a change of the owner takes
    /// set-user-ID away.
    fn describe(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), CopyError> {
        if let Some((uid, gid)) = self.ids(entry) {
            fchown(file, Some(uid), Some(gid)).map_err(failed(entry, "given its owner"))?;
        }
        for (name, value) in entry.attributes.iter().filter(|(name, _)| !self.is_host && is_portable(name)) {
            match fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                // A file system without them.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
                Err(errno) => return Err(failed(entry, "given its attributes")(errno)),
            }
        }
        fchmod(file, Mode::from_raw_mode(self.mode(entry))).map_err(failed(entry, "given its mode"))
    }

    fn own(&self, node: BorrowedFd<'_>, entry: &Entry) -> Result<(), CopyError> {
        let Some((uid, gid)) = self.ids(entry) else { return Ok(()) };
        chownat(node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(failed(entry, "given its owner"))
    }

    fn ids(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        match self.owner {
            Owner::Same => Some((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))),
            Owner::Root => Some((Uid::ROOT, Gid::ROOT)),
            Owner::Caller => None,
        }
    }

    /// The permissions. What is to be run as its owner is not to be run as another one.
    fn mode(&self, entry: &Entry) -> u32 {
        let is_same = match self.owner {
            Owner::Same => true,
            Owner::Root => (entry.uid, entry.gid) == (0, 0),
            Owner::Caller => false,
        };
        if is_same && !self.is_host { entry.mode } else { entry.mode & !SPECIAL }
    }

    /// Opens the directory that an entry is in.
    fn parent(&mut self, path: &LayerPath) -> Result<OwnedFd, CopyError> {
        let parent = path.parent();
        let failed = |errno| CopyError::file(path.bytes(), "put into its directory")(errno);
        if let Some((_, directory)) = self.last.as_ref().filter(|(last, _)| last == parent) {
            return directory
                .try_clone()
                .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::MFILE)));
        }
        let directory = match self.open(parent) {
            Err(Errno::NOENT) if self.ground.makes_parents => self.make_all(parent).map_err(failed)?,
            opened => opened.map_err(failed)?,
        };
        let copy = directory
            .try_clone()
            .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::MFILE)))?;
        self.last = Some((parent.to_vec(), copy));
        Ok(directory)
    }

    fn make_all(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let (above, name) = split(&path[..end]);
            let above = self.open(above)?;
            let mode = Mode::from_raw_mode(PLAIN_DIRECTORY);
            match mkdirat(&above, name, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.open(path)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = match (self.ground.prefix.as_slice(), path) {
            (b"", b"") => b".".to_vec(),
            (b"", path) => path.to_vec(),
            (prefix, path) => [prefix, path].join(&b'/'),
        };
        open_within(self.ground.start.as_fd(), &path, OFlags::PATH | OFlags::DIRECTORY, self.ground.resolve)
    }

    fn leads_to_directory(&self, path: &LayerPath) -> bool {
        self.open(path.bytes()).is_ok()
    }
}

impl Sink for Target {
    fn put(&mut self, entry: &Entry) -> Result<(), CopyError> {
        match &entry.kind {
            Kind::Directory => self.directory(entry),
            Kind::Symlink(target) => self.symlink(entry, target),
            Kind::Hardlink(target) => self.hardlink(entry, target),
            Kind::Fifo => self.fifo(entry),
            Kind::File => self.put_stream(entry, &mut std::io::empty()),
            Kind::Device { .. } => Err(CopyError::refused(entry.path.bytes(), "devices are not copied")),
        }
    }

    fn put_file(&mut self, entry: &Entry, file: &mut File, is_sparse: bool) -> Result<bool, CopyError> {
        let made = self.make_file(entry)?;
        let is_shortened = copy_content(file, &made, entry, is_sparse)?;
        self.describe(made.as_fd(), entry)?;
        set_times(made.as_fd(), entry)?;
        Ok(is_shortened)
    }

    /// Sets the times of directories, now that nothing is put into them any more.
    fn finish(self) -> Result<(), CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, modified) in &self.times {
            let (above, name) = split(path);
            // Something else may be there by now.
            let opened = self.open(above).and_then(|above| openat(above, name, flags, Mode::empty()));
            if let Ok(directory) = opened {
                let _ = futimens(directory, &times(*modified));
            }
        }
        Ok(())
    }
}

fn failed(entry: &Entry, what: &'static str) -> impl FnOnce(Errno) -> CopyError {
    CopyError::file(entry.path.bytes(), what)
}

fn kind_of(parent: BorrowedFd<'_>, name: &[u8]) -> Option<FileType> {
    let about = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(about.st_mode))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The same for what is held with O_PATH.
fn set_times_of(node: BorrowedFd<'_>, entry: &Entry) -> Result<(), CopyError> {
    match utimensat(node, "", &times(entry.modified), AtFlags::EMPTY_PATH) {
        Ok(()) | Err(Errno::INVAL | Errno::OVERFLOW) => Ok(()),
        Err(errno) => Err(failed(entry, "given its time")(errno)),
    }
}

fn set_times(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), CopyError> {
    match futimens(file, &times(entry.modified)) {
        // Beyond what the file system can say.
        Ok(()) | Err(Errno::INVAL | Errno::OVERFLOW) => Ok(()),
        Err(errno) => Err(failed(entry, "given its time")(errno)),
    }
}
