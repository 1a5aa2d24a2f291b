//! What is written down of a mount.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{MountKind, MountRequest};
use crate::id::VolumeName;

/// The directory of a volume that containers see.
pub(crate) const VOLUME_DATA: &str = "_data";

/// A mount that a user asked for, as a container's record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted, as a path of the host; `None` for a file system in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Where, in the container.
    pub destination: String,
    /// How, in the words of a specification.
    pub options: Vec<String>,
    /// The volume, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// Whether the volume was given no name, so that it can go with the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
}

impl MountRequest {
    /// What is mounted, as a path of the host; `None` for a file system in memory. `volumes` holds the volumes.
    #[must_use]
    pub fn source(&self, volumes: &Path) -> Option<PathBuf> {
        match &self.kind {
            MountKind::Bind { source, .. } => Some(source.clone()),
            MountKind::Volume { name, .. } => Some(volumes.join(name.as_str()).join(VOLUME_DATA)),
            MountKind::Tmpfs(_) => None,
        }
    }

    /// What is written down of it.
    #[must_use]
    pub fn record(&self, volumes: &Path) -> MountRecord {
        let (kind, volume, anonymous) = match &self.kind {
            MountKind::Bind { .. } => ("bind", None, false),
            MountKind::Volume { name, anonymous, .. } => ("volume", Some(name.clone()), *anonymous),
            MountKind::Tmpfs(_) => ("tmpfs", None, false),
        };
        MountRecord {
            kind: kind.to_owned(),
            source: self.source(volumes),
            destination: self.destination.clone(),
            options: self.options(),
            volume,
            anonymous,
        }
    }
}

impl MountRecord {
    /// The directory that holds its volume with all others; `None` where it is no volume.
    #[must_use]
    pub fn volumes(&self) -> Option<&Path> {
        self.volume.as_ref()?;
        self.source.as_deref()?.parent()?.parent()
    }
}
