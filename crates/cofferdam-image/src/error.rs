//! Why something with an image cannot be done.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam::error::{Code, Diagnose};

use crate::unpack::UnpackError;

/// Something with an image that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A name of an image that cannot be one.
    #[error("`{reference}` is no reference to an image: {why}")]
    BadReference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// An image that is not there.
    #[error("there is no image {reference} {place}")]
    NotFound {
        /// Its name.
        reference: String,
        /// Where it was looked for: "in the store", "in registry.example".
        place: String,
    },
    /// A registry that does not answer, or not as registries do.
    #[error("{registry}: {what}")]
    Registry {
        /// Its host and port.
        registry: String,
        /// What was tried.
        what: String,
        /// Why that failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A registry that wants another login.
    #[error("{registry} refuses this login for {what}")]
    Denied {
        /// Its host and port.
        registry: String,
        /// What was wanted of it.
        what: String,
        /// What it said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Content that is not what an image has.
    #[error("{what} is not used: {why}")]
    Invalid {
        /// The blob, manifest or file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A layer that is not unpacked.
    #[error("the layer {digest} is not unpacked")]
    Layer {
        /// Its digest.
        digest: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// A blob that cannot be read to its end where it is.
    #[error("the blob {digest} cannot be read to its end")]
    Transfer {
        /// Its digest.
        digest: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An image that is not for this machine.
    #[error("{reference} has nothing for {wanted}; it has {}", .offered.join(", "))]
    NoPlatform {
        /// Its name.
        reference: String,
        /// What is wanted, such as linux/amd64.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// An image that somebody needs.
    #[error("{image} is not removed: {by}")]
    InUse {
        /// The image.
        image: String,
        /// Who needs it.
        by: String,
    },
    /// A file system that layers cannot be unpacked to.
    #[error("layers cannot be unpacked to {}", .path.display())]
    Unsuited {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// A file or directory that cannot be used.
    #[error("{} cannot be {what}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, as a participle.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn invalid(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::Invalid { what: what.to_string(), why: why.to_string() }
    }

    /// For `map_err`: what could not be done with a file.
    pub(crate) fn file(path: &Path, what: &'static str) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), what, source }
    }
}

/// The kind of an error whose cause is a disk that is full or read-only, however deep it lies: whoever made an image is not to
/// blame for it.
#[must_use]
pub fn disk_fault(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
        .find(|kind| {
            use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
            matches!(kind, StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        })
}

impl Diagnose for ImageError {
    fn code(&self) -> Code {
        match self {
            Self::BadReference { .. } => Code::BadReference,
            Self::NotFound { .. } => Code::NoSuchImage,
            Self::Registry { .. } | Self::Transfer { .. } => Code::RegistryFailed,
            Self::Denied { .. } => Code::RegistryDenied,
            Self::Invalid { .. } | Self::Layer { .. } => Code::ImageInvalid,
            Self::NoPlatform { .. } => Code::NoSuchPlatform,
            Self::InUse { .. } => Code::ImageInUse,
            Self::File { .. } | Self::Unsuited { .. } => Code::ImageStore,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::BadReference { .. } => "write for example alpine:3.20, registry.example:5000/team/app:1, oci:DIR or docker-archive:FILE".into(),
            Self::NotFound { .. } => "`cofferdam images` lists what is here; see whether the name and the tag are right".into(),
            Self::Transfer { .. } => "see whether it is whole where it comes from; a registry's is asked for again by another pull".into(),
            Self::Registry { .. } => "see whether the registry is reached from here; --log-level debug shows each request".into(),
            Self::Denied { registry, .. } => format!("`cofferdam login {registry}`"),
            Self::Invalid { .. } | Self::Layer { .. } => "do not run it; ask whoever built it, or pull it again".into(),
            Self::NoPlatform { .. } => "ask for another with --platform, where this machine can run it".into(),
            Self::InUse { .. } => "remove the containers, or its other names, first; or force it with -f".into(),
            Self::Unsuited { .. } => "have the data directory on ext4, xfs or btrfs: mount a volume there, or name another with --data-dir".into(),
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "see whether the path is right".into(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                    "it is damaged, or was not copied to its end: copy it again".into()
                }
                _ => "see whether the file system is full or read-only, and whether it belongs to you".into(),
            },
        })
    }
}
