//! Unpacking the layers of images.
//!
//! Invariant: a layer is hostile. Nothing outside of the target is read, written, linked to or looked at, whatever its names,
//! links and numbers say; what it takes of memory is bounded by constants, and of the disk by [`UnpackLimits`].
//!
//! A layer becomes a directory for overlayfs, in which what it removes from lower layers is a whiteout, as overlayfs has
//! them (`Documentation/filesystems/overlayfs.rst`; the names in a layer are those of the image specification).

pub(crate) mod entry;
mod error;
mod pax;
mod place;
pub(crate) mod records;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

pub(crate) use entry::Kind as EntryKind;
pub use error::UnpackError;
pub(crate) use records::Records;

use entry::{Entry, Kind};
use place::Place;

/// What a layer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// The whole stream, and the content of all its files together, in bytes.
    pub bytes: u64,
    /// Its entries.
    pub entries: u64,
}

impl Default for UnpackLimits {
    /// More than any image has that is meant well: 256 GiB, 8 million entries.
    fn default() -> Self {
        Self { bytes: 256 << 30, entries: 8 << 20 }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of the layer.
    pub entries: u64,
    /// The content of its files, in bytes.
    pub bytes: u64,
    /// Device nodes that were left out: a container gets its devices from the runtime, and one with the number 0:0 would
    /// remove a file of a lower layer.
    pub devices_left_out: u64,
}

/// The prefix of names that remove what a lower layer has.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The name that removes all that lower layers have in its directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// The prefix of names that aufs keeps for itself.
const OF_AUFS: &[u8] = b".wh..wh.";

/// Unpacks a layer, a tar stream that is not compressed, into an empty directory. Blocks, and needs to be root: for owners,
/// whiteouts and attributes. The stream is read to its end, so that a digest can be made of it on the way.
///
/// # Errors
/// [`UnpackError`]; what was unpacked so far lies in the directory.
pub fn unpack(
    layer: impl Read,
    target: BorrowedFd<'_>,
    limits: &UnpackLimits,
) -> Result<Unpacked, UnpackError> {
    let mut records = Records::new(Bounded { stream: layer, left: limits.bytes });
    let mut place = Place::new(target);
    let mut done = Unpacked::default();
    while let Some(entry) = records.next()? {
        done.entries += 1;
        if done.entries > limits.entries {
            return Err(UnpackError::TooMany { limit: limits.entries });
        }
        done.bytes = done.bytes.saturating_add(entry.size);
        if done.bytes > limits.bytes {
            return Err(UnpackError::TooLarge { limit: limits.bytes });
        }
        if matches!(entry.kind, Kind::Device { .. }) {
            done.devices_left_out += 1;
            continue;
        }
        put(&mut place, &entry, &mut records).map_err(|error| error.of(entry.path.bytes()))?;
    }
    place.finish()?;
    records.drain()?;
    Ok(done)
}

/// A stream that ends in an error when it is longer than it may be.
struct Bounded<R> {
    stream: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

/// Puts one entry in its place.
fn put<R: Read>(place: &mut Place<'_>, entry: &Entry, records: &mut Records<R>) -> Result<(), UnpackError> {
    let Some(name) = entry.path.name() else {
        // The root itself: only what it is like.
        return if entry.kind == Kind::Directory { place.set_root(entry) } else { Err(UnpackError::NoName) };
    };
    if name == OPAQUE {
        return place.hide_all(entry.path.parent());
    }
    if name.starts_with(OF_AUFS) {
        return Ok(());
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        return match hidden {
            b"" | b"." | b".." => Err(UnpackError::BadWhiteout),
            hidden => place.hide(entry.path.parent(), hidden),
        };
    }
    match &entry.kind {
        Kind::Directory => place.directory(entry),
        Kind::File => place.file(entry, &mut records.content()),
        Kind::Symlink(target) => place.symlink(entry, target),
        Kind::Hardlink(target) => place.hardlink(entry, target),
        Kind::Fifo => place.fifo(entry),
        Kind::Device { .. } => Ok(()),
    }
}
