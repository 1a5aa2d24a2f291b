//! Looking into a container's root filesystem without being led out of it.
//!
//! Invariant: a root filesystem is hostile. Every path in it is resolved below its own descriptor (`openat2` with
//! RESOLVE_IN_ROOT), nothing is opened that could block, and every read is bounded.

mod command;
pub(crate) mod disk;
pub(crate) mod overlay;
mod users;
mod walk;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

pub use command::CommandError;
pub(crate) use command::check_process;
pub use overlay::{OverlayError, images_in_use};
pub use users::UserError;
pub(crate) use users::{check_accounts, resolve_user};
pub(crate) use walk::Found;

use crate::error::{Code, Diagnose};
use crate::id::ContainerId;
use crate::request::ImageUse;

/// The directory that becomes a container's `/`.
#[derive(Debug)]
pub(crate) struct Rootfs {
    directory: OwnedFd,
    path: PathBuf,
}

/// A root filesystem that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// It cannot be opened as a directory.
    #[error("the root filesystem {} cannot be used", .path.display())]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is the host's own.
    #[error("the root filesystem {} is the host's own root", .0.display())]
    HostRoot(PathBuf),
}

impl Diagnose for RootfsError {
    fn code(&self) -> Code {
        Code::RootfsMissing
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Unusable { .. } => "give an existing directory that holds a root filesystem".into(),
            Self::HostRoot(_) => "unpack an image into a directory of its own and give that".into(),
        })
    }
}

impl Rootfs {
    /// Opens the directory. Its own name must not be a symbolic link; the path to it may hold some.
    pub(crate) fn open(path: &Path) -> Result<Self, RootfsError> {
        let unusable = |source: io::Error| RootfsError::Unusable { path: path.to_owned(), source };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty()).map_err(|errno| unusable(errno.into()))?;
        let path = std::fs::canonicalize(path).map_err(unusable)?;
        if path == Path::new("/") {
            return Err(RootfsError::HostRoot(path));
        }
        if path.to_str().is_none() {
            return Err(unusable(io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")));
        }
        Ok(Self { directory, path })
    }

    /// The layers of an image, as the container that will be made of it sees them.
    ///
    /// # Errors
    /// [`OverlayError`].
    pub(crate) fn of_image(image: &ImageUse, id: &ContainerId) -> Result<Self, OverlayError> {
        Ok(Self { directory: overlay::look(image)?, path: overlay::root_of(image, id) })
    }

    /// Its absolute path, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a path of the container for looking only; a symbolic link at its end is opened itself.
    fn look(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(self.directory.as_fd(), path, flags, Mode::empty(), resolve)?)
    }

    /// Whether there is a directory in its root with this name, and no link.
    pub(crate) fn has_directory(&self, name: &str) -> bool {
        let found = self.look(Path::new(name)).and_then(|node| Ok(fstat(node)?));
        found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Opens a directory of the container for reading. Its path must hold no links ([`Rootfs::walk`] gives such).
    pub(crate) fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        Ok(openat2(self.directory.as_fd(), path, flags, Mode::empty(), resolve)?)
    }

    /// Opens a regular file of the container for reading. Never blocks: a FIFO or a device is refused.
    fn open_regular(&self, path: &Path) -> io::Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(self.directory.as_fd(), path, flags, Mode::empty(), resolve)?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(file.into())
    }

    /// Whether a regular file of the container has an access control list beside its mode.
    fn has_acl(&self, path: &Path) -> bool {
        let mut none: [u8; 0] = [];
        self.open_regular(path)
            .is_ok_and(|file| rustix::fs::fgetxattr(file, c"system.posix_acl_access", &mut none).is_ok())
    }

    /// Reads a whole text file of the container, up to a limit in bytes; bytes that are not UTF-8 are replaced.
    fn read_text(&self, path: &Path, limit: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.open_regular(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
