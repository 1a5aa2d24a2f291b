//! Whose limit it was that an out-of-memory kill was for: the container's, one above it, or none but the machine's.

use super::kernel_log::{KillLine, last_kill_in};
use super::{CgroupPath, Cgroups, OomScope};

/// Finds out whose lack of memory the last kill in a cgroup was, and the line of the kernel's log that says so.
pub(crate) fn find_scope(cgroups: &Cgroups, path: &CgroupPath) -> (Option<OomScope>, Option<String>) {
    match last_kill_in(path.leaf()) {
        Some(kill) => (Some(scope_of(cgroups, path, &kill)), Some(kill.line)),
        None => {
            let own = cgroups.directory_of(path, "memory").and_then(|directory| directory.was_own_limit());
            let scope =
                |own| if own { OomScope::Own } else { OomScope::Above { cgroup: None, limit_bytes: None } };
            (own.map(scope), None)
        }
    }
}

fn scope_of(cgroups: &Cgroups, path: &CgroupPath, kill: &KillLine) -> OomScope {
    let Some(cgroup) = &kill.oom_memcg else { return OomScope::Machine };
    if cgroup.split('/').any(|name| name == path.leaf()) {
        return OomScope::Own;
    }
    // The log has it as the whole machine sees it, which may be more than is seen here.
    let directory = cgroups.directory_of(&CgroupPath::at(cgroup), "memory");
    let limit_bytes = directory.and_then(|directory| directory.read_memory_limit());
    OomScope::Above { cgroup: Some(cgroup.clone()), limit_bytes }
}
