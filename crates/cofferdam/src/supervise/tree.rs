//! A process and all that it has started.

use std::collections::BTreeSet;

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::{CgroupPath, Cgroups, processes_in};
use crate::proc::stat;

/// How often the processes are looked through for more: each look finds what those have started that were not stopped
/// yet at the one before.
const LOOKS: usize = 10;

/// Kills a process of a container, its session, and all that descends from either. Each is stopped first, so that none
/// starts another one or hands its children on to the container's init meanwhile. What had left the session and lost its
/// parent before is not found.
pub(super) fn kill(root: i32, cgroups: &Cgroups, cgroup: &CgroupPath) {
    let mut members = BTreeSet::from([root]);
    send(root, Signal::STOP);
    for _ in 0..LOOKS {
        // Of the container's cgroup only: no other process can be meant.
        let stats = processes_in(cgroups, cgroup).into_iter().filter_map(|pid| Some((pid, stat(pid)?)));
        let stats: Vec<_> = stats.filter(|(_, stat)| !stat.is_dead()).collect();
        let pairs: Vec<_> = stats.iter().map(|(pid, stat)| (*pid, stat.ppid)).collect();
        let in_session = stats.iter().filter(|(_, stat)| stat.session == root).map(|(pid, _)| *pid);
        let mut found: BTreeSet<i32> = in_session.collect();
        found.extend(members.iter().chain(&found.clone()).flat_map(|pid| below(*pid, &pairs)));
        let new: Vec<i32> = found.difference(&members).copied().collect();
        if new.is_empty() {
            break;
        }
        new.iter().for_each(|pid| send(*pid, Signal::STOP));
        members.extend(new);
    }
    members.into_iter().for_each(|pid| send(pid, Signal::KILL));
}

/// All that descends from a process, by pairs of a process and its parent.
pub(super) fn below(root: i32, pairs: &[(i32, i32)]) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        let children = pairs.iter().filter(|(pid, ppid)| *ppid == parent && *pid != root);
        parents.extend(children.map(|(pid, _)| *pid).filter(|pid| found.insert(*pid)));
    }
    found
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // ESRCH: it has ended.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_walked_to_its_leaves() {
        let pairs = [(2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (1, 1), (7, 7)];
        assert_eq!(below(2, &pairs), BTreeSet::from([3, 4]));
        assert_eq!(below(1, &pairs), BTreeSet::from([2, 3, 4, 5, 6]));
        assert_eq!(below(4, &pairs), BTreeSet::new());
        assert_eq!(below(7, &pairs), BTreeSet::new());
    }
}
