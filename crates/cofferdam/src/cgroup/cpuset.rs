//! What a cgroup v1 wants before its CPUs can be chosen.

use std::io;
use std::path::Path;

use super::{CgroupPath, Cgroups, ControllerDirectory};

/// Gives the cgroups above a container's their CPUs and memory nodes: under v1 a new one has none, and then none below it
/// can have any. runc does this itself; runsc, up to today's head, only for a container whose CPUs are not chosen.
///
/// # Errors
/// A cgroup cannot be made or written.
pub(crate) fn give_parents_cpus(cgroups: &Cgroups, path: &CgroupPath) -> io::Result<()> {
    let Some(ControllerDirectory::V1(directory)) = cgroups.directory_of(path, "cpuset") else {
        return Ok(());
    };
    directory.parent().map_or(Ok(()), give_cpus)
}

fn give_cpus(directory: &Path) -> io::Result<()> {
    let Some(above) = directory.parent().filter(|above| above.join("cpuset.cpus").exists()) else {
        // The topmost has all.
        return Ok(());
    };
    give_cpus(above)?;
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if std::fs::read_to_string(directory.join(file))?.trim().is_empty() {
            std::fs::write(directory.join(file), std::fs::read(above.join(file))?)?;
        }
    }
    Ok(())
}
