//! Why something is not packed or copied.

use std::io;

use cofferdam::error::{Code, Diagnose};
use rustix::io::Errno;

use crate::unpack::UnpackError;
use crate::unpack::entry::printable;

/// Something that is not packed or copied. Paths are shortened and made printable.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file or directory that cannot be used.
    #[error("`{path}` cannot be {what}")]
    File {
        /// Which.
        path: String,
        /// What was tried, as a participle.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something that is not packed or copied as it is.
    #[error("`{path}` is refused: {why}")]
    Refused {
        /// Which.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than an archive may have.
    #[error("with `{path}` it is more than {limit} {of}")]
    TooMuch {
        /// What was too much.
        path: String,
        /// How much it may be.
        limit: u64,
        /// Of what: "bytes", "entries".
        of: &'static str,
    },
    /// The archive cannot be written.
    #[error("the archive cannot be written")]
    Output(#[source] io::Error),
    /// The archive cannot be read.
    #[error("the archive is not copied")]
    Archive(#[source] UnpackError),
}

impl CopyError {
    pub(crate) fn file(path: &[u8], what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::File { path: shown(path), what, source: errno.into() }
    }

    pub(crate) fn refused(path: &[u8], why: &'static str) -> Self {
        Self::Refused { path: shown(path), why }
    }
}

/// A path for messages; the top of what is packed has none.
fn shown(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { printable(path) }
}

impl Diagnose for CopyError {
    fn code(&self) -> Code {
        match self {
            Self::File { source, .. } | Self::Output(source) if is_of_the_disk(source) => Code::ImageStore,
            Self::File { .. }
            | Self::Refused { .. }
            | Self::TooMuch { .. }
            | Self::Output(_)
            | Self::Archive(_) => Code::CopyFailed,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::File { source, .. } | Self::Output(source) if is_of_the_disk(source) => {
                "see whether the file system is full or read-only".into()
            }
            Self::File { .. } => "see whether the path is right on both sides; when the container changed it at the same time, pause the container and try again".into(),
            Self::Refused { .. } => "rename it or remove it in the container, or copy something else".into(),
            Self::TooMuch { .. } => "see what the container has written: a file with a hole counts with its whole length".into(),
            Self::Output(_) => "see what reads the archive".into(),
            Self::Archive(_) => "see whether it is a tar archive that is not compressed, and whole".into(),
        })
    }
}

fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO | Errno::NFILE | Errno::NOMEM)
    )
}
