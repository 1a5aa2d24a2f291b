//! Control groups: where a container's are, what their counters say, and taking them away.
//!
//! Invariant: a cgroup of ours is named after the whole id (`cofferdam-<id>`), so that whatever is in it, or left of
//! it, belongs to exactly one container.
//! Not here: setting limits (the runtime does it from the specification).

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
pub(crate) use usage::read_usage;

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

/// The directories of one container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerCgroup {
    /// Where the memory controller is; `None` where this host has none.
    pub memory: Option<MemoryDirectory>,
    /// Where CPU time is counted.
    pub cpu: Option<PathBuf>,
    /// One per hierarchy.
    pub directories: Vec<PathBuf>,
}

/// The directory of a container's memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryDirectory {
    /// Cgroup v1: memory.oom_control and its kin.
    V1(PathBuf),
    /// Cgroup v2: memory.events and its kin.
    V2(PathBuf),
}
