//! Control groups: where a container's are, what their counters say, and taking them away.
//!
//! Invariant: a cgroup of ours is named after the whole id (`cofferdam-<id>`), so that whatever is in it, or left of
//! it, belongs to exactly one container.
//! Not here: setting limits at the start (the runtime does it from the specification).

pub(crate) mod kernel_log;
mod layout;
pub(crate) mod limits;
mod memory;
mod oom_watch;
pub mod stats;
mod sweep;
mod usage;

pub use layout::{CgroupLayout, Cgroups};
pub use memory::{MemoryCounters, parse_flat_keyed};
pub(crate) use oom_watch::OomWatch;
pub(crate) use sweep::{find, processes_in, remove_leftovers, thaw};
pub use usage::Usage;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;

/// Path of a container's cgroup below each hierarchy, as `linux.cgroupsPath` has it: absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The cgroup of a container, below `parent` where one is given.
    ///
    /// Without a parent it stands at the top of each hierarchy, flat: a common parent could not be removed again
    /// without a race against the next container.
    #[must_use]
    pub fn of_container(id: &ContainerId, parent: Option<&str>) -> Self {
        match parent.map(|p| p.trim_matches('/')).filter(|p| !p.is_empty()) {
            Some(parent) => Self(format!("/{parent}/cofferdam-{id}")),
            None => Self(format!("/cofferdam-{id}")),
        }
    }

    /// The path as the specification has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part of the path.
    pub(crate) fn leaf(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// The directory of a container in the hierarchy of a controller, whose files have other names in each version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerDirectory {
    /// Cgroup v1: memory.oom_control and its kin.
    V1(PathBuf),
    /// Cgroup v2: memory.events and its kin.
    V2(PathBuf),
}

impl ControllerDirectory {
    /// A file of it, by its name in each version.
    fn file(&self, v1: &str, v2: &str) -> PathBuf {
        match self {
            Self::V1(directory) => directory.join(v1),
            Self::V2(directory) => directory.join(v2),
        }
    }
}
