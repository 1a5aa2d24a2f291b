//! Copying a directory of a root filesystem into a new volume.
//!
//! Invariant: both sides are held by descriptors, names are resolved one by one below them, and no link is followed: the
//! root filesystem is hostile, and may change meanwhile. Nothing is opened that is no regular file or directory.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags, chownat, copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, ftruncate,
    futimens, linkat, mkdirat, mknodat, open, openat, openat2, readlinkat, seek, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::rootfs::{Found, Rootfs};

/// How deep directories may lie: each level holds four descriptors, and a process has a thousand.
const DEPTH_LIMIT: usize = 200;
/// How much is copied before somebody may have asked to stop, in bytes.
const PORTION_BYTES: u64 = 8 << 20;
/// The buffer for file systems between which the kernel does not copy by itself.
const BUFFER_BYTES: usize = 128 << 10;
/// The largest list of attributes, and the largest attribute, in bytes: the kernel's own limits.
const ATTRIBUTE_LIMIT_BYTES: usize = 64 << 10;
/// Attributes that mean the same in a volume. Labels of security modules and marks of overlays do not.
const ATTRIBUTES: [&[u8]; 4] =
    [b"user.", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];

/// A file that could not be copied.
#[derive(Debug, thiserror::Error)]
#[error("{} could not be copied", .path.display())]
pub struct CopyError {
    /// The path below the directory that was copied; empty for the directory itself.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Copies what a root filesystem has at a place into an empty directory: files, directories, links, FIFOs, with their
/// owners, modes, times and attributes. Devices and sockets are left out. The directory itself gets the owner and the mode
/// of the place. Where there is no directory, nothing is copied. What else is mounted does not matter, as with docker.
///
/// # Errors
/// [`CopyError`] names the first file that failed. What was copied by then is there.
pub(crate) fn populate(
    target: &Path,
    rootfs: &Rootfs,
    place: &Path,
    stop: &AtomicBool,
) -> Result<(), CopyError> {
    let failed = |source: io::Error| CopyError { path: PathBuf::new(), source };
    let Found::File { path, stat } = rootfs.walk(place, &[]).map_err(failed)? else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    let source = rootfs.open_directory(&path).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = open(target, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let mut copier = Copier { root: target.as_fd(), links: HashMap::new(), left_out: 0, stop };
    copier.directory(source.as_fd(), target.as_fd(), Path::new(""), 0)?;
    if copier.left_out > 0 {
        tracing::info!(count = copier.left_out, place = %place.display(), "devices and sockets are not copied");
    }
    Ok(())
}

/// A copy under way.
struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// Files with several names, by device and inode, and the first name that each was copied to.
    links: HashMap<(u64, u64), PathBuf>,
    left_out: u64,
    stop: &'a AtomicBool,
}

/// Where a file goes.
struct Place<'a> {
    parent: BorrowedFd<'a>,
    name: &'a CStr,
    /// Its path below the volume.
    path: PathBuf,
}

impl Copier<'_> {
    /// Copies what is in a directory, and then what the directory itself is.
    fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        let failed = |errno: Errno| CopyError { path: path.to_owned(), source: errno.into() };
        if depth > DEPTH_LIMIT {
            let source = io::Error::other(format!("directories lie more than {DEPTH_LIMIT} deep"));
            return Err(CopyError { path: path.to_owned(), source });
        }
        for entry in Dir::read_from(source).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = path.join(OsString::from_vec(name.to_bytes().to_vec()));
            self.entry(source, &Place { parent: target, name, path }, depth)?;
        }
        let stat = fstat(source).map_err(failed)?;
        copy_attributes(source, target).and_then(|()| settle(target, &stat)).map_err(failed)
    }

    fn entry(&mut self, source: BorrowedFd<'_>, place: &Place<'_>, depth: usize) -> Result<(), CopyError> {
        let failed = |source: io::Error| CopyError { path: place.path.clone(), source };
        if self.stop.load(Ordering::Relaxed) {
            return Err(failed(io::Error::new(io::ErrorKind::Interrupted, "somebody asked to stop")));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(source, place.name, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let (from, to) = open_both(&file, place).map_err(failed)?;
                self.directory(from.as_fd(), to.as_fd(), &place.path, depth + 1)
            }
            FileType::RegularFile => self.regular(&file, &stat, place).map_err(failed),
            FileType::Symlink => link(&file, &stat, place).map_err(failed),
            FileType::Fifo => fifo(&stat, place).map_err(failed),
            _ => {
                self.left_out += 1;
                Ok(())
            }
        }
    }

    fn regular(&mut self, file: &OwnedFd, stat: &Stat, place: &Place<'_>) -> io::Result<()> {
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&inode)
        {
            return self.second_name(first, place);
        }
        let from = reopen(file, OFlags::RDONLY)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = File::from(openat(place.parent, place.name, flags, Mode::RUSR | Mode::WUSR)?);
        self.content(&from, &to, u64::try_from(stat.st_size).unwrap_or_default())?;
        // A capability is lost when the owner changes, and set-user-id bits are.
        fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        copy_attributes(from.as_fd(), to.as_fd())?;
        settle(to.as_fd(), stat)?;
        if stat.st_nlink > 1 {
            drop(self.links.insert(inode, place.path.clone()));
        }
        Ok(())
    }

    /// Gives another name to a file that was copied already.
    fn second_name(&self, first: &Path, place: &Place<'_>) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let first = openat2(self.root, first, flags, Mode::empty(), resolve)?;
        Ok(linkat(first, c"", place.parent, place.name, AtFlags::EMPTY_PATH)?)
    }

    /// Copies bytes; what is a hole stays one, so that a small image cannot fill a disk.
    fn content(&self, from: &File, to: &File, size: u64) -> io::Result<()> {
        let mut offset = 0;
        while offset < size {
            let start = match seek(from, SeekFrom::Data(offset)) {
                Ok(start) => start,
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                // This file system knows no holes.
                Err(Errno::INVAL) => offset,
                Err(errno) => return Err(errno.into()),
            };
            let end = seek(from, SeekFrom::Hole(start)).unwrap_or(size).min(size);
            if start >= end {
                break;
            }
            self.bytes(from, to, start, end)?;
            offset = end;
        }
        Ok(ftruncate(to, size)?)
    }

    fn bytes(&self, from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
        let mut offset = start;
        let mut buffer = Vec::new();
        while offset < end {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "somebody asked to stop"));
            }
            let length = usize::try_from((end - offset).min(PORTION_BYTES)).unwrap_or(BUFFER_BYTES);
            let (mut read_at, mut write_at) = (offset, offset);
            let copied = match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
                Ok(copied) => copied,
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    buffer.resize(BUFFER_BYTES, 0);
                    let length = length.min(BUFFER_BYTES);
                    let read = from.read_at(&mut buffer[..length], offset)?;
                    to.write_all_at(&buffer[..read], offset)?;
                    read
                }
                Err(errno) => return Err(errno.into()),
            };
            // It has become shorter meanwhile.
            if copied == 0 {
                break;
            }
            offset += u64::try_from(copied).unwrap_or_default();
        }
        Ok(())
    }
}

/// Opens a directory for reading that is held already, and makes its copy.
fn open_both(file: &OwnedFd, place: &Place<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let from = reopen(file, OFlags::RDONLY | OFlags::DIRECTORY)?;
    mkdirat(place.parent, place.name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((from.into(), openat(place.parent, place.name, flags, Mode::empty())?))
}

/// Opens the very file that a descriptor holds, which has been looked at.
fn reopen(file: &OwnedFd, flags: OFlags) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
}

fn link(file: &OwnedFd, stat: &Stat, place: &Place<'_>) -> io::Result<()> {
    let target = readlinkat(file, c"", Vec::new())?;
    symlinkat(target.as_c_str(), place.parent, place.name)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(place.parent, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(place.parent, place.name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn fifo(stat: &Stat, place: &Place<'_>) -> io::Result<()> {
    mknodat(place.parent, place.name, FileType::Fifo, Mode::RUSR, 0)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(place.parent, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    // For reading and writing an open of a FIFO waits for nobody.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(place.parent, place.name, flags, Mode::empty())?;
    Ok(settle(made.as_fd(), stat)?)
}

/// Gives a copy the owner, the mode and the times of what it was made from.
fn settle(target: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let now = fstat(target)?;
    if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
        fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    fchmod(target, Mode::from_raw_mode(stat.st_mode))?;
    futimens(target, &times(stat))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies the attributes that mean the same in a volume. A file system that has none is no failure.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = Vec::with_capacity(ATTRIBUTE_LIMIT_BYTES);
    match flistxattr(from, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !ATTRIBUTES.iter().any(|known| name.starts_with(known)) {
            continue;
        }
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let mut value = Vec::with_capacity(ATTRIBUTE_LIMIT_BYTES);
        match fgetxattr(from, &name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => {}
            // It went meanwhile.
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno),
        }
        match fsetxattr(to, &name, &value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => tracing::debug!(?name, "the volume's file system does not have it"),
            set => set?,
        }
    }
    Ok(())
}
