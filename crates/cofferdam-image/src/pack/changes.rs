//! What a container has changed: its upper directory compared with the layers below it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Statx, openat2};
use rustix::io::Errno;

use super::attributes::Reader;
use super::is_mounted_upon;
use super::walk::{Found, Walk, names};
use crate::copy::CopyError;
use crate::unpack::entry::printable;

/// The paths of all changes, in bytes: a container may give millions of files long paths.
const PATHS_LIMIT: usize = 512 << 20;

/// Directories at which runtimes mount something, and which they make where an image lacks them.
const MOUNTED_DIRECTORIES: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// One change, as `docker diff` says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Where: an absolute path in the container, in bytes that need not be text.
    pub path: Vec<u8>,
    /// What became of it.
    pub kind: ChangeKind,
}

/// As docker prints it; bytes that are not text, and control characters, as escapes.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.letter())?;
        for chunk in self.path.utf8_chunks() {
            for char in chunk.valid().chars() {
                if char.is_control() { write!(f, "{}", char.escape_default())? } else { write!(f, "{char}")? }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// What became of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It was there, and is another one, or has other content or another description; or something below it was changed.
    Changed,
    /// It is gone, with all that was below it.
    Deleted,
}

impl ChangeKind {
    /// The letter that docker has for it.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// Lists what the upper directory of an overlay changes of the layers below it, the topmost first, as overlayfs has them in
/// `lowerdir=`. Sorted by path. Blocks, and needs to be root.
///
/// A file that was opened for writing is changed, even where its bytes are as before: overlayfs has copied it. A directory
/// is changed where its mode, owner or time is another, or something in it is changed. What a runtime makes only to mount something
/// there is no change: `/etc/hosts` and its like, and empty `/dev`, `/proc` and `/sys`.
///
/// # Errors
/// [`CopyError`]: also where a path is longer than 4095 bytes.
pub fn changes(upper: BorrowedFd<'_>, lowers: &[BorrowedFd<'_>]) -> Result<Vec<Change>, CopyError> {
    let mut list = List {
        lowers,
        attributes: Reader::new(),
        changes: BTreeMap::new(),
        touched: BTreeSet::new(),
        has_mounts: false,
        bytes: 0,
    };
    let directory = super::top(upper)?.directory(b"")?;
    let all = Through { path_length: 0, layers: (0..lowers.len()).collect(), hides: false };
    let mut way = vec![all];
    let mut walk = Walk::over(directory)?;
    while let Some(found) = walk.next()? {
        let path = walk.path();
        let parent = parent_length(path);
        while way.last().is_some_and(|through| through.path_length > parent) {
            way.pop();
        }
        let Some(through) = way.last() else { continue };
        if let Some((directory, through)) = list.compare(&found, path, through)? {
            way.push(through);
            walk.enter(directory)?;
        }
    }
    Ok(list.finish())
}

/// What is seen through a directory of the upper layer.
#[derive(Debug)]
struct Through {
    path_length: usize,
    /// The lower layers that have the directory too, and are not hidden by others.
    layers: Vec<usize>,
    /// Whether what they have in it is hidden.
    hides: bool,
}

/// What the lower layers have together under a name.
#[derive(Debug)]
enum Below {
    Nothing,
    /// Anything but a directory.
    File,
    /// A directory of these layers, described by the topmost.
    Directory {
        layers: Vec<usize>,
        about: Box<Statx>,
    },
}

#[derive(Debug)]
struct List<'a> {
    lowers: &'a [BorrowedFd<'a>],
    attributes: Reader,
    changes: BTreeMap<Vec<u8>, ChangeKind>,
    /// Directories of which the time alone is another.
    touched: BTreeSet<Vec<u8>>,
    /// Whether a runtime has mounted a file in `/etc`.
    has_mounts: bool,
    bytes: usize,
}

impl List<'_> {
    /// Compares something in the upper layer with what is below it; gives back a directory to look into.
    fn compare(
        &mut self,
        found: &Found,
        path: &[u8],
        through: &Through,
    ) -> Result<Option<(OwnedFd, Through)>, CopyError> {
        let below = self.below(path, &through.layers)?;
        let is_new = matches!(below, Below::Nothing);
        if is_whiteout(&found.about) {
            if !is_new {
                self.note(path, ChangeKind::Deleted)?;
            }
            return Ok(None);
        }
        let kind = if is_new { ChangeKind::Added } else { ChangeKind::Changed };
        if found.kind() != FileType::Directory {
            let is_mounted_upon = is_new && is_mounted_upon(found, path);
            self.has_mounts |= is_mounted_upon;
            if !is_mounted_upon {
                self.note(path, kind)?;
            }
            return Ok(None);
        }
        let directory = found.directory(path)?;
        if is_new && MOUNTED_DIRECTORIES.contains(&path) {
            let names = names(directory.as_fd()).map_err(CopyError::file(path, "read"))?;
            if names.is_empty() {
                return Ok(None);
            }
        }
        let attributes = self.attributes.read(directory.as_fd(), path)?;
        if attributes.is_partial {
            return Err(CopyError::refused(path, "the overlay is mounted with redirect_dir=on"));
        }
        let hides = through.hides || attributes.is_opaque;
        let (layers, is_changed) = match below {
            Below::Directory { layers, about } => {
                let is_described_alike = is_alike(&about, &found.about);
                let is_as_old = time(&about) == time(&found.about);
                if !hides && is_described_alike && !is_as_old {
                    self.touched.insert([b"/", path].concat());
                }
                (layers, hides || !is_described_alike || !is_as_old)
            }
            Below::Nothing | Below::File => (Vec::new(), true),
        };
        if is_changed {
            self.note(path, kind)?;
        }
        if hides {
            self.note_hidden(directory.as_fd(), path, &layers)?;
        }
        Ok(Some((directory, Through { path_length: path.len(), layers, hides })))
    }

    /// Notes what the lower layers have in a directory, and the upper layer has not.
    fn note_hidden(&mut self, upper: BorrowedFd<'_>, path: &[u8], layers: &[usize]) -> Result<(), CopyError> {
        let read = |directory: BorrowedFd<'_>| names(directory).map_err(CopyError::file(path, "read"));
        let upper: BTreeSet<Vec<u8>> = read(upper)?.into_iter().collect();
        let mut hidden = BTreeSet::new();
        for layer in layers {
            let Some(lower) = self.open(*layer, path)? else { continue };
            hidden.extend(
                read(lower.directory(path)?.as_fd())?.into_iter().filter(|name| !upper.contains(name)),
            );
        }
        for name in hidden {
            let path = [path, &name].join(&b'/');
            if !matches!(self.below(&path, layers)?, Below::Nothing) {
                self.note(&path, ChangeKind::Deleted)?;
            }
        }
        Ok(())
    }

    /// What these layers have under a path together.
    fn below(&mut self, path: &[u8], layers: &[usize]) -> Result<Below, CopyError> {
        let (mut seen, mut topmost) = (Vec::new(), None);
        for layer in layers {
            let Some(found) = self.open(*layer, path)? else { continue };
            if is_whiteout(&found.about) {
                break;
            }
            if found.kind() != FileType::Directory {
                if seen.is_empty() {
                    return Ok(Below::File);
                }
                break;
            }
            seen.push(*layer);
            let directory = found.directory(path)?;
            topmost.get_or_insert_with(|| Box::new(found.about));
            if self.attributes.read(directory.as_fd(), path)?.is_opaque {
                break;
            }
        }
        Ok(topmost.map_or(Below::Nothing, |about| Below::Directory { layers: seen, about }))
    }

    fn open(&self, layer: usize, path: &[u8]) -> Result<Option<Found>, CopyError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(self.lowers[layer], path, flags, Mode::empty(), resolve) {
            Ok(node) => Found::of(node, path).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(CopyError::file(path, "opened in a lower layer")(errno)),
        }
    }

    fn note(&mut self, path: &[u8], kind: ChangeKind) -> Result<(), CopyError> {
        self.bytes += path.len();
        if self.bytes > PATHS_LIMIT {
            let path = printable(path);
            return Err(CopyError::TooMuch { path, limit: PATHS_LIMIT as u64, of: "bytes of changed paths" });
        }
        self.changes.insert([b"/", path].concat(), kind);
        Ok(())
    }

    /// The changes with the directories that they are in.
    fn finish(mut self) -> Vec<Change> {
        // By the runtime, and not by the container, if nothing else in it is another.
        let etc = b"/etc";
        let is_in_etc = |path: &Vec<u8>| path.starts_with(b"/etc/");
        if self.has_mounts && self.touched.contains(&etc[..]) && !self.changes.keys().any(is_in_etc) {
            self.changes.remove(&etc[..]);
        }
        let paths: Vec<Vec<u8>> = self.changes.keys().cloned().collect();
        for mut path in paths {
            loop {
                path.truncate(parent_length(&path));
                if path.is_empty() || self.changes.contains_key(&path) {
                    break;
                }
                self.changes.insert(path.clone(), ChangeKind::Changed);
            }
        }
        self.changes.into_iter().map(|(path, kind)| Change { path, kind }).collect()
    }
}

/// Where the path of the directory ends that something is in.
fn parent_length(path: &[u8]) -> usize {
    path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
}

fn is_whiteout(about: &Statx) -> bool {
    FileType::from_raw_mode(about.stx_mode.into()) == FileType::CharacterDevice
        && (about.stx_rdev_major, about.stx_rdev_minor) == (0, 0)
}

/// Whether two directories have the same mode and owner.
fn is_alike(one: &Statx, other: &Statx) -> bool {
    let of = |about: &Statx| (about.stx_mode, about.stx_uid, about.stx_gid);
    of(one) == of(other)
}

/// When something was changed.
fn time(about: &Statx) -> (i64, u32) {
    (about.stx_mtime.tv_sec, about.stx_mtime.tv_nsec)
}
