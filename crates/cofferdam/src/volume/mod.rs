//! Volumes: directories with names, which outlive the containers that use them.
//!
//! ```text
//! DATA/volumes/              0700, ours alone
//!   .lock                    held (flock) while a volume is made, taken for a container, or removed
//!   NAME/
//!     volume.json            its labels and when it was made; version first
//!     _data/                 what containers see
//!     users/ID -> folder     the containers that use it, as links to their folders
//!     lock                   held while it is filled from an image
//!     filling                there while it is filled: found later, its filler has died
//!   .new.NAME  .gone.NAME.*  half made, half removed
//! ```
//!
//! Invariant: a volume is in use as long as the folder of a container is there that it has a link to. A process that dies
//! at any point keeps no volume from being removed, and nothing is removed that a container has.

mod copy;
mod lifecycle;
mod users;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use copy::CopyError;
pub(crate) use copy::populate;
pub use users::VolumeUser;
pub(crate) use users::{doom_volumes, remove_volumes};

use crate::error::{Code, Diagnose};
use crate::id::{InvalidId, VolumeName};
use crate::request::VOLUME_DATA;

/// Version of the format of `volume.json`.
pub const VOLUME_VERSION: u32 = 1;
/// Where images, volumes and root filesystems are kept unless another place is asked for.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cofferdam";

/// The volumes of one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStore {
    path: PathBuf,
}

/// What is written down of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Version of this format, readable before the rest.
    pub version: u32,
    /// Its name.
    pub name: VolumeName,
    /// Whether its user gave it none.
    #[serde(default)]
    pub anonymous: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The folder of the container with which it goes: once that is gone, nobody wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_with: Option<PathBuf>,
}

/// A volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What is written down of it.
    pub record: VolumeRecord,
    /// Its directory in the store; what containers see is below it.
    path: PathBuf,
}

/// Something that could not be done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is none.
    #[error("there is no volume {0}")]
    NoSuchVolume(VolumeName),
    /// A name that cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// Containers use it.
    #[error("the volume {name} is used by {}", .users.join(", "))]
    InUse {
        /// The volume.
        name: VolumeName,
        /// Names, or short ids, of the containers.
        users: Vec<String>,
    },
    /// Something of the host is mounted in it.
    #[error("something is mounted in the volume {name}, at {}", .place.display())]
    MountedUpon {
        /// The volume.
        name: VolumeName,
        /// Where.
        place: PathBuf,
    },
    /// Another process fills it and does not come to an end.
    #[error("the volume {0} is being filled by another container")]
    Busy(VolumeName),
    /// The directory of all volumes cannot be used.
    #[error("the directory of volumes {} cannot be used: {why}", .path.display())]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What is written down of it is damaged.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// It was written by a newer cofferdam.
    #[error("{} has version {found}; this cofferdam knows versions up to {VOLUME_VERSION}", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A file of it cannot be read or written.
    #[error("{} could not be {what}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What the root filesystem has at its place could not be copied into it.
    #[error("the volume {name} could not be filled with what the root filesystem has at {}", .destination.display())]
    Fill {
        /// The volume.
        name: VolumeName,
        /// Where it is to be in the container.
        destination: PathBuf,
        /// What failed.
        #[source]
        source: CopyError,
    },
}

impl Diagnose for VolumeError {
    fn code(&self) -> Code {
        match self {
            Self::NoSuchVolume(_) => Code::NoSuchVolume,
            Self::Name(error) => error.code(),
            Self::InUse { .. } | Self::MountedUpon { .. } | Self::Busy(_) => Code::VolumeInUse,
            Self::Unusable { .. } => Code::StateDirectory,
            Self::Damaged { .. } => Code::RecordDamaged,
            Self::TooNew { .. } => Code::RecordTooNew,
            Self::File { .. } | Self::Fill { .. } => Code::StateWrite,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::NoSuchVolume(_) => "`cofferdam volume ls` lists what is there".into(),
            Self::Name(error) => return error.next_step(),
            Self::InUse { users, .. } => {
                format!("remove them first: `cofferdam rm --force {}`", users.join(" "))
            }
            Self::MountedUpon { place, .. } => format!("umount {}", place.display()),
            Self::Busy(_) => "wait until it is done; a container that is stopped may be at it".into(),
            Self::Unusable { .. } => "name another with --data-dir or COFFERDAM_DATA_DIR".into(),
            Self::Damaged { .. } => {
                "what is in the volume is not touched: copy it, and `cofferdam volume rm` removes the volume"
                    .into()
            }
            Self::TooNew { .. } => "use the cofferdam that wrote it".into(),
            Self::File { .. } => {
                "see whether the file system of the data directory is full or read-only".into()
            }
            Self::Fill { .. } => {
                "see whether the file system of the data directory is full; with nocopy nothing is copied"
                    .into()
            }
        })
    }
}

impl VolumeStore {
    /// The volumes of a data directory, which is made when the first volume is.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join("volumes") }
    }

    /// The volumes of a directory that holds nothing else.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The directory that holds them.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self, name: &VolumeName) -> PathBuf {
        self.path.join(name.as_str())
    }
}

impl Volume {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VolumeName {
        &self.record.name
    }

    /// The directory that containers see, on the host.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path.join(VOLUME_DATA)
    }
}

fn file_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> VolumeError {
    move |source| VolumeError::File { path: path.to_owned(), what, source }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
