//! Packing: the changes of a container as a layer of an image, its whole tree as an archive, and a list of what it changed.
//!
//! Invariant: the tree is hostile, and changes while it is read. Nothing outside of it is read, whatever its links and names
//! are; nothing in it is waited for; and the same tree makes the same bytes.

mod archive;
pub(crate) mod attributes;
mod changes;
mod packer;
pub(crate) mod walk;

use std::io::Write;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, openat};

pub(crate) use archive::Archive;
pub use changes::{Change, ChangeKind, changes};
pub(crate) use packer::{Packer, Sink, Style};

use crate::copy::CopyError;
use crate::unpack::UnpackLimits;
use walk::Found;

/// What was packed, or copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries of the archive.
    pub entries: u64,
    /// The content of its files, in bytes, with the length of their holes: an archive has zeros for them.
    pub bytes: u64,
    /// Device nodes that were left out: of a layer, as a container gets its devices from the runtime, and of copies.
    pub devices_left_out: u64,
    /// Sockets, which no archive can have.
    pub sockets_left_out: u64,
    /// Files that are mounted in the tree, where file systems are not crossed. Of mounted directories there is an entry, and
    /// nothing of what is in them.
    pub mounts_left_out: u64,
    /// Extended attributes with `=` in their names, which no archive can say.
    pub attributes_left_out: u64,
    /// Files that became shorter while they were read: they are filled up with zeros.
    pub shortened: u64,
}

/// How a tree is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeOptions {
    /// Whether what is mounted in the tree is packed with it.
    pub crosses_file_systems: bool,
    /// How long all files together may be, in bytes, with their holes: a file of exabytes takes no room on the disk.
    pub bytes: u64,
}

impl Default for TreeOptions {
    /// One file system, and as much as a layer may have.
    fn default() -> Self {
        Self { crosses_file_systems: false, bytes: UnpackLimits::default().bytes }
    }
}

/// Packs the upper directory of an overlay as a layer: a tar stream that is not compressed, with the whiteouts of the image
/// specification. Blocks, and needs to be root, to see whiteouts and attributes. The container may go on writing: each file is
/// packed as it is when it is read.
///
/// The empty files at which a runtime has mounted `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` are left out.
///
/// A file with a hole is packed with zeros in its place, as layers have no holes; the hole itself is not read.
///
/// # Errors
/// [`CopyError`]: also where a name begins with `.wh.`, which a layer cannot have; where a path is longer than 4095 bytes;
/// where it has more than [`UnpackLimits::default`] lets be unpacked; and where the overlay is mounted with `redirect_dir=on`
/// or `metacopy=on` and a part of a file or directory is not in the upper directory.
pub fn layer(upper: BorrowedFd<'_>, out: impl Write) -> Result<Packed, CopyError> {
    let mut packer = Packer::new(Archive::new(out), Style::Layer, UnpackLimits::default().bytes)?;
    packer.put_all(&top(upper)?, b"", true)?;
    packer.finish()
}

/// Packs a whole tree as a plain tar stream: files, directories, links, pipes and devices. Blocks, and needs to be root. The
/// tree may be changed meanwhile, as for [`layer`].
///
/// # Errors
/// [`CopyError`]: also where a path is longer than 4095 bytes, and where the files are longer than the options let them be.
pub fn tree(root: BorrowedFd<'_>, out: impl Write, options: &TreeOptions) -> Result<Packed, CopyError> {
    let mut packer = Packer::new(Archive::new(out), Style::Tree, options.bytes)?;
    packer.put_all(&top(root)?, b"", options.crosses_file_systems)?;
    packer.finish()
}

/// Where runtimes make an empty file in an upper directory, to mount one there. Containers of images always have these mounted,
/// so that what is there is never theirs.
const MOUNTED_FILES: [&[u8]; 3] = [b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"];

/// Whether something in an upper directory is such a file.
fn is_mounted_upon(found: &Found, path: &[u8]) -> bool {
    MOUNTED_FILES.contains(&path) && found.kind() == FileType::RegularFile && found.about.stx_size == 0
}

/// The top of a tree, which may have been opened in any way.
pub(crate) fn top(root: BorrowedFd<'_>) -> Result<Found, CopyError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(root, ".", flags, Mode::empty()).map_err(CopyError::file(b"", "opened"))?;
    Found::of(root, b"")
}
