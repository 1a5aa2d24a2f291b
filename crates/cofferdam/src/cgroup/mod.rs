//! Control groups: where a container's are, what their counters say, and taking them away.
//!
//! Invariant: a cgroup of ours is named after the whole id (`cofferdam-<id>`), so that whatever is in it, or left of
//! it, belongs to exactly one container.
//! Not here: setting limits at the start (the runtime does it from the specification).

mod cpuset;
pub(crate) mod kernel_log;
mod layout;
pub(crate) mod limits;
mod memory;
mod notice;
mod oom_scope;
mod oom_watch;
pub mod stats;
mod sweep;
mod usage;
mod usage_watch;

pub(crate) use cpuset::give_parents_cpus;
pub use layout::{CgroupLayout, Cgroups, Delegation};
pub use limits::LimitError;
pub use memory::{MemoryCounters, OomScope, parse_flat_keyed};
pub(crate) use oom_scope::find_scope;
pub(crate) use oom_watch::OomWatch;
pub(crate) use sweep::{find, processes_in, remove_leftovers, thaw};
pub use usage::Usage;
pub(crate) use usage_watch::UsageWatch;
pub use usage_watch::{MemoryWarning, WarningReason};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;

/// How the name of a scope ends.
const SCOPE: &str = ".scope";

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

    /// The scope that systemd makes for a container in a slice, whose name holds the slices above it.
    #[must_use]
    pub fn of_scope(id: &ContainerId, slice: &str) -> Self {
        let stem = slice.trim_end_matches(".slice");
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        let slices: Vec<String> = ends.map(|end| format!("{}.slice", &stem[..end])).collect();
        Self(format!("/{}/cofferdam-{id}{SCOPE}", slices.join("/")))
    }

    /// Whether systemd has made it, who takes it away when it is empty.
    pub(crate) fn is_scope(&self) -> bool {
        self.0.ends_with(SCOPE)
    }

    /// Whether another cgroup is this one, or below it.
    pub(crate) fn holds(&self, other: &Self) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The cgroup at an absolute path.
    fn at(path: &str) -> Self {
        Self(path.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_in_its_slices() {
        let id: ContainerId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let at = |slice| CgroupPath::of_scope(&id, slice).0;
        assert_eq!(at("system.slice"), format!("/system.slice/cofferdam-{id}.scope"));
        assert_eq!(at("a-b.slice"), format!("/a.slice/a-b.slice/cofferdam-{id}.scope"));
        let scope = CgroupPath::of_scope(&id, "system.slice");
        assert!(scope.is_scope() && scope.holds(&CgroupPath::at(&format!("{}/container", scope.0))));
        assert!(!scope.holds(&CgroupPath::at(&format!("{}x", scope.0))));
    }
}
