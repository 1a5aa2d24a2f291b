//! Why a layer is not unpacked.

use std::io;

use super::entry::printable;

/// A layer that is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream ended, or could not be read, in the middle.
    #[error("the layer cannot be read to its end")]
    Read(#[source] io::Error),
    /// It is no tar, or a damaged one.
    #[error("the layer is no sound tar: {0}")]
    Damaged(String),
    /// It uses something of tar that no tool for images writes.
    #[error("the layer has what is not unpacked: {0}")]
    Unsupported(&'static str),
    /// It has more entries than it may.
    #[error("the layer has more than {limit} entries")]
    TooMany {
        /// How many it may have.
        limit: u64,
    },
    /// Its files are larger than they may be.
    #[error("the files of the layer have more than {limit} bytes")]
    TooLarge {
        /// How many they may have.
        limit: u64,
    },
    /// A name that leads out of it, or that no file system has.
    #[error("the name is refused: {0}")]
    BadName(&'static str),
    /// The root of the layer is something else than a directory.
    #[error("the root of a layer is a directory")]
    NoName,
    /// A whiteout that names nothing.
    #[error("a whiteout without a name")]
    BadWhiteout,
    /// A hard link to something that this layer does not have.
    #[error("it is a hard link to {0}, which the layer does not have before it")]
    NoTarget(String),
    /// The file system said no.
    #[error("it cannot be {what}")]
    Place {
        /// What was tried, as a participle.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system does not keep what overlayfs hides lower layers by: an overlay is one, and a network's.
    #[error("the file system keeps no whiteouts")]
    NoWhiteouts(#[source] io::Error),
    /// What happened to one entry.
    #[error("the entry `{name}` is not unpacked")]
    Entry {
        /// Its name, shortened and made printable.
        name: String,
        /// What happened.
        #[source]
        why: Box<UnpackError>,
    },
}

impl UnpackError {
    /// Says to which entry it happened.
    pub(super) fn of(self, name: &[u8]) -> Self {
        Self::Entry { name: printable(name), why: Box::new(self) }
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// Why something of lower layers is not hidden.
    pub(super) fn hiding(errno: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        match errno {
            Errno::PERM | Errno::NOTSUP | Errno::INVAL => Self::NoWhiteouts(errno.into()),
            errno => Self::place("hidden")(errno),
        }
    }

    pub(super) fn place(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Place { what, source: errno.into() }
    }
}
