//! Walking over a tree that others change at the same time.
//!
//! Invariant: each name is opened below a directory that is open already, and no link is followed; so whatever is renamed or
//! swapped meanwhile, the walk stays below the directory in which it began. Nothing is opened for reading before it is known
//! what it is: a pipe or a device is never.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, SeekFrom, Statx, StatxFlags, openat, seek, statx,
};
use rustix::io::Errno;

use crate::copy::CopyError;
use crate::unpack::entry::PATH_MAX;

/// How many directories are kept open: more are opened again on the way back, as a process may have 1024 files.
const OPEN_LIMIT: usize = 64;
/// The names of the directories on the way, in bytes, with what each takes beside: a directory of some millions of names.
const NAMES_LIMIT: usize = 512 << 20;
/// What a name takes beside its bytes.
const NAME_OVERHEAD: usize = 48;
/// What directories are read with, in bytes.
const NAMES_BUFFER: usize = 32 << 10;

/// Something in a tree.
#[derive(Debug)]
pub(crate) struct Found {
    /// Opened with O_PATH: it names the thing whatever becomes of its name.
    node: OwnedFd,
    pub(crate) about: Statx,
}

impl Found {
    /// What an open file or directory is.
    pub(crate) fn of(node: OwnedFd, path: &[u8]) -> Result<Self, CopyError> {
        let about = about(node.as_fd()).map_err(CopyError::file(path, "looked at"))?;
        Ok(Self { node, about })
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.about.stx_mode.into())
    }

    /// Where it has other names, by what they are known to be the same.
    pub(crate) fn identity(&self) -> Identity {
        Identity::of(&self.about)
    }

    /// Opens a directory for reading.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<OwnedFd, CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.node, ".", flags, Mode::empty()).map_err(CopyError::file(path, "opened"))
    }

    /// Opens a regular file for reading. Does not wait: not for the end of a lease, and not for content that is still to
    /// come (`/proc/kmsg`).
    pub(crate) fn file(&self, path: &[u8], proc: &OpenFiles) -> Result<File, CopyError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let number = self.node.as_raw_fd().to_string();
        let file = openat(&proc.0, number, flags, Mode::empty());
        file.map(File::from).map_err(CopyError::file(path, "opened"))
    }

    /// The text of a symbolic link.
    pub(crate) fn link(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        let text = rustix::fs::readlinkat(&self.node, "", Vec::new());
        Ok(text.map_err(CopyError::file(path, "read"))?.into_bytes())
    }
}

/// The directory in which the kernel shows a process its open files: by it, what was opened with O_PATH is opened for reading,
/// and nothing else that has come to its name.
#[derive(Debug)]
pub(crate) struct OpenFiles(OwnedFd);

impl OpenFiles {
    pub(crate) fn new() -> Result<Self, CopyError> {
        let path = "/proc/thread-self/fd";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty());
        directory.map(Self).map_err(CopyError::file(path.as_bytes(), "opened"))
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a file or directory is known by, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    device: (u32, u32),
    inode: u64,
}

impl Identity {
    pub(crate) fn of(about: &Statx) -> Self {
        Self { device: (about.stx_dev_major, about.stx_dev_minor), inode: about.stx_ino }
    }
}

/// A walk over a tree: a directory comes before what is in it, and the names of a directory in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Walk {
    frames: Vec<Frame>,
    /// The path of what was found last, below the top.
    path: Vec<u8>,
    names_bytes: usize,
}

/// A directory on the way.
#[derive(Debug)]
struct Frame {
    /// `None` while too many others are open.
    directory: Option<OwnedFd>,
    identity: Identity,
    path_length: usize,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Walk {
    /// A walk over what is in a directory.
    pub(crate) fn over(top: OwnedFd) -> Result<Self, CopyError> {
        let mut walk = Self { frames: Vec::new(), path: Vec::new(), names_bytes: 0 };
        walk.enter(top)?;
        Ok(walk)
    }

    /// The path of what was found last, below the top.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// What comes next; `None` at the end. What has gone meanwhile is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, CopyError> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            self.path.truncate(frame.path_length);
            let Some(name) = frame.names.next() else {
                self.leave()?;
                continue;
            };
            self.names_bytes -= name.len() + NAME_OVERHEAD;
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            if self.path.len() > PATH_MAX {
                return Err(CopyError::refused(&self.path, "its path is longer than 4095 bytes"));
            }
            let Some(directory) = &frame.directory else { return Err(self.moved()) };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(directory, name.as_slice(), flags, Mode::empty()) {
                Ok(node) => return Found::of(node, &self.path).map(Some),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(CopyError::file(&self.path, "opened")(errno)),
            }
        }
    }

    /// Goes into the directory that was found last, which is open for reading.
    pub(crate) fn enter(&mut self, directory: OwnedFd) -> Result<(), CopyError> {
        let about = about(directory.as_fd()).map_err(CopyError::file(&self.path, "looked at"))?;
        let mut names = names(directory.as_fd()).map_err(CopyError::file(&self.path, "read"))?;
        names.sort_unstable();
        self.names_bytes += names.iter().map(|name| name.len() + NAME_OVERHEAD).sum::<usize>();
        if self.names_bytes > NAMES_LIMIT {
            return Err(CopyError::TooMuch {
                path: crate::unpack::entry::printable(&self.path),
                limit: NAMES_LIMIT as u64,
                of: "bytes of names",
            });
        }
        if let Some(far) = self.frames.len().checked_sub(OPEN_LIMIT) {
            self.frames[far].directory = None;
        }
        self.frames.push(Frame {
            directory: Some(directory),
            identity: Identity::of(&about),
            path_length: self.path.len(),
            names: names.into_iter(),
        });
        Ok(())
    }

    /// Leaves a directory for the one above it, which is opened again where it is not open any more. Where it was moved
    /// meanwhile, what is above it now is another one, and is not looked into.
    fn leave(&mut self) -> Result<(), CopyError> {
        let Some(left) = self.frames.pop() else { return Ok(()) };
        let Some(above) = self.frames.last_mut() else { return Ok(()) };
        if above.directory.is_some() {
            return Ok(());
        }
        let (identity, below) = (above.identity, left.directory);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = below.and_then(|below| openat(below, "..", flags, Mode::empty()).ok());
        let same =
            opened.filter(|opened| about(opened.as_fd()).is_ok_and(|about| Identity::of(&about) == identity));
        above.directory = same;
        if above.directory.is_none() { Err(self.moved()) } else { Ok(()) }
    }

    fn moved(&self) -> CopyError {
        CopyError::refused(&self.path, "a directory on the way to it was moved while it was read")
    }
}

fn about(file: BorrowedFd<'_>) -> Result<Statx, Errno> {
    statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

/// The names in a directory, in no order.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    // It may have been read before.
    seek(directory, SeekFrom::Start(0))?;
    let mut buffer = vec![MaybeUninit::uninit(); NAMES_BUFFER];
    let mut entries = RawDir::new(directory, &mut buffer);
    let (mut names, mut bytes) = (Vec::new(), 0);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        bytes += name.len() + NAME_OVERHEAD;
        if bytes > NAMES_LIMIT {
            return Err(Errno::TOOBIG);
        }
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
