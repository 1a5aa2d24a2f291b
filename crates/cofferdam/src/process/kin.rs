//! Children of this process that are none of its container's: other monitors, the keeper, other containers.
//!
//! A monitor starts the keeper, and the keeper starts monitors. When one of them is killed, what it has started goes to
//! the nearest subreaper above it, which is a monitor of another container. There it must be let be.

use crate::id::ContainerId;

/// In the environment of every monitor and keeper. A foreign program has a listed environment, without it; where a
/// container has it all the same, it is found by its cgroup.
pub(super) const MARK: &str = "COFFERDAM_MONITOR";

/// Whether a child that we did not start is one of our own programs, or belongs to another container than `own`.
pub(super) fn is_of_another(pid: i32, own: Option<&ContainerId>) -> bool {
    let containers = containers_of(&format!("/proc/{pid}/cgroup"));
    if own.is_some_and(|own| containers.contains(own)) {
        return false;
    }
    // Where all of this runs in a container itself, each path begins with that one's.
    let around = containers_of("/proc/self/cgroup");
    is_marked(pid) || containers.iter().any(|id| !around.contains(id))
}

fn is_marked(pid: i32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry.strip_prefix(MARK.as_bytes()).is_some_and(|value| value.first() == Some(&b'=')))
}

/// The containers in whose cgroups a process is: ours are named after the whole id.
fn containers_of(file: &str) -> Vec<ContainerId> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let names = text.split(['/', '\n']).filter_map(|name| name.strip_prefix("cofferdam-"));
    names.filter_map(|id| id.parse().ok()).collect()
}
