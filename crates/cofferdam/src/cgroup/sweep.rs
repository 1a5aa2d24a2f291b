//! Taking away what a runtime left: processes that are still in a container's cgroup, and its directories.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CgroupPath, Cgroups, SCOPE};
use crate::id::ContainerId;

/// The pause before a cgroup that is still busy is tried again; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest of these pauses: about 60 ms in all.
const LAST_PAUSE: Duration = Duration::from_millis(32);
/// How deep below a hierarchy's top a container's cgroup is looked for: a parent of three parts, and the container's.
const SEARCH_DEPTH: usize = 4;

/// Finds the cgroup of a container whose record is lost, by the id in its name.
pub(crate) fn find(cgroups: &Cgroups, id: &ContainerId) -> Vec<CgroupPath> {
    let leaf = format!("cofferdam-{id}");
    let mut found = BTreeSet::new();
    for top in cgroups.mount_points() {
        search(top, top, &leaf, SEARCH_DEPTH, &mut found);
    }
    found.iter().map(|path| CgroupPath::at(path)).collect()
}

fn search(top: &Path, directory: &Path, leaf: &str, depth: usize, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        if name.to_string_lossy().strip_prefix(leaf).is_some_and(|rest| rest.is_empty() || rest == SCOPE) {
            let path = entry.path();
            let path = path.strip_prefix(top).unwrap_or(&path);
            found.insert(format!("/{}", path.to_string_lossy()));
        } else if depth > 1 {
            search(top, &entry.path(), leaf, depth - 1, found);
        }
    }
}

/// Pids of everything in the container's cgroups, nested ones included, zombies too.
pub(crate) fn processes_in(cgroups: &Cgroups, path: &CgroupPath) -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    for directory in cgroups.directories_of(path) {
        collect(&directory, &mut pids);
    }
    pids
}

fn collect(directory: &Path, pids: &mut BTreeSet<i32>) {
    let Ok(text) = std::fs::read_to_string(directory.join("cgroup.procs")) else { return };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// Removes what is left of a container's cgroups. Directories that are gone already are no error.
///
/// runsc also makes plain directories below `/sys/fs/cgroup` for controllers that are not mounted there (measured
/// with 20240729); those that carry this container's name are removed too, and their parents if nothing else is in
/// them.
///
/// # Errors
/// The first directory that could not be removed; the others are still tried.
pub(crate) fn remove_leftovers(cgroups: &Cgroups, path: &CgroupPath) -> io::Result<()> {
    let mut result = Ok(());
    if path.is_scope() {
        let left = cgroups.directories_of(path).into_iter().find(|directory| directory.exists());
        let why = |directory: PathBuf| {
            io::Error::other(format!(
                "{} is systemd's to take away: `systemctl stop {}`",
                directory.display(),
                path.leaf()
            ))
        };
        return left.map_or(Ok(()), |directory| Err(why(directory)));
    }
    for directory in cgroups.directories_of(path) {
        result = keep_first(result, remove_tree(&directory));
    }
    let mounted: BTreeSet<&Path> = cgroups.mount_points().collect();
    let top = cgroups.top();
    if mounted.contains(top.as_path()) {
        return result;
    }
    for entry in std::fs::read_dir(&top).into_iter().flatten().flatten() {
        let stray = entry.path().join(path.as_str().trim_start_matches('/'));
        if !mounted.contains(entry.path().as_path()) && stray.is_dir() && stray.ends_with(path.leaf()) {
            result = keep_first(result, remove_tree(&stray));
            // Its parents up to the controller's; this fails, rightly, where another container's is beside it.
            let mut parents = stray.ancestors().skip(1).take_while(|parent| parent.starts_with(entry.path()));
            let _ = parents.try_for_each(std::fs::remove_dir);
        }
    }
    result
}

fn keep_first(first: io::Result<()>, second: io::Result<()>) -> io::Result<()> {
    if first.is_err() { first } else { second }
}

/// Removes a directory and the directories in it; the files of a cgroup go with it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match remove_when_empty(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
        }
        _ => Ok(()),
    }
}

/// Removes a cgroup's directory. The kernel may count the last process in it for a moment after it was reaped.
fn remove_when_empty(directory: &Path) -> io::Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && pause <= LAST_PAUSE => {
                std::thread::park_timeout(pause);
                pause *= 2;
            }
            result => return result,
        }
    }
}

/// Thaws a container's cgroup, so that what is in it can die. Where there is no freezer, nothing is frozen.
pub(crate) fn thaw(cgroups: &Cgroups, path: &CgroupPath) {
    for directory in cgroups.directories_of(path) {
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = directory.join(file);
            if file.exists() {
                // The cgroup may go at any moment.
                let _ = std::fs::write(file, value);
            }
        }
    }
}
