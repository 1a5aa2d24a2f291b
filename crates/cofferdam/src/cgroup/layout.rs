//! Which cgroup hierarchies this host has: v1, v2, or both at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::{CgroupPath, ControllerDirectory};

/// How the hierarchies are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupLayout {
    /// Every controller has a hierarchy of its own.
    V1,
    /// Controllers on v1, and an almost empty v2 hierarchy beside them.
    Hybrid,
    /// One hierarchy for all.
    V2,
    /// None is mounted.
    None,
}

/// The mounted hierarchies of this host, as this process sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// How they are laid out.
    pub layout: CgroupLayout,
    /// Whether a container's cgroup can be made in all of them by this process.
    pub writable: bool,
    /// The controllers that can limit a container here.
    pub controllers: Vec<String>,
    /// v1: mount point of each hierarchy, by controller (named hierarchies as `name=…`).
    v1: BTreeMap<String, PathBuf>,
    /// v2: its mount point, and the controllers that are in it.
    v2: Option<(PathBuf, Vec<String>)>,
}

impl Cgroups {
    /// Looks at this host.
    #[must_use]
    pub fn probe() -> Self {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut cgroups = Self::from_mountinfo(&mountinfo, controllers_for_children);
        cgroups.writable = cgroups.layout != CgroupLayout::None
            && cgroups.mount_points().all(|path| access(path, Access::WRITE_OK).is_ok());
        cgroups
    }

    /// Reads the layout off the text of `/proc/self/mountinfo`; `controllers_of` tells the controllers of a v2 mount.
    #[must_use]
    pub fn from_mountinfo(mountinfo: &str, controllers_of: impl Fn(&Path) -> Vec<String>) -> Self {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some((mount, tail)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4).map(unescape_octal) else { continue };
            let mut tail = tail.split(' ');
            match tail.next() {
                // The first mount is the system's; later ones are somebody's views of the same.
                Some("cgroup2") if v2.is_none() => v2 = Some((point.clone(), controllers_of(&point))),
                Some("cgroup") => {
                    for option in tail.nth(1).unwrap_or_default().split(',') {
                        if !matches!(option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "none")
                            && !option.starts_with("release_agent=")
                        {
                            v1.entry(option.to_owned()).or_insert_with(|| point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        let layout = match (v1.is_empty(), &v2) {
            (true, None) => CgroupLayout::None,
            (true, Some(_)) => CgroupLayout::V2,
            (false, Some(_)) => CgroupLayout::Hybrid,
            (false, None) => CgroupLayout::V1,
        };
        let mut controllers: Vec<String> =
            v1.keys().filter(|name| !name.starts_with("name=")).cloned().collect();
        controllers.extend(v2.iter().flat_map(|(_, names)| names.clone()));
        Self { layout, writable: false, controllers, v1, v2 }
    }

    /// Whether a controller is there to limit something with.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Whether there are controllers on v1 and on v2.
    pub(crate) fn has_controllers_on_both(&self) -> bool {
        self.layout == CgroupLayout::Hybrid
            && self.v2.as_ref().is_some_and(|(_, controllers)| !controllers.is_empty())
    }

    /// The directories of a container's cgroup, one in each hierarchy, whether they exist yet or not.
    #[must_use]
    pub fn directories_of(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.mount_points().map(|mount| below(mount, path)).collect()
    }

    /// Where a container's cgroup is in the hierarchy of a controller; `None` where no hierarchy has that.
    #[must_use]
    pub fn directory_of(&self, path: &CgroupPath, controller: &str) -> Option<ControllerDirectory> {
        if let Some(mount) = self.v1.get(controller) {
            return Some(ControllerDirectory::V1(below(mount, path)));
        }
        let (mount, controllers) = self.v2.as_ref()?;
        let is_there = controllers.iter().any(|name| name == controller);
        is_there.then(|| ControllerDirectory::V2(below(mount, path)))
    }

    /// The directory above all hierarchies, where v1 mounts one folder a controller.
    pub(crate) fn top(&self) -> PathBuf {
        self.v1
            .values()
            .next()
            .and_then(|mount| mount.parent())
            .map_or_else(|| PathBuf::from("/sys/fs/cgroup"), Path::to_path_buf)
    }

    /// Mount points, each once.
    pub(crate) fn mount_points(&self) -> impl Iterator<Item = &Path> {
        let mut points: Vec<&Path> = self.v1.values().map(PathBuf::as_path).collect();
        points.extend(self.v2.iter().map(|(mount, _)| mount.as_path()));
        points.sort_unstable();
        points.dedup();
        points.into_iter()
    }
}

fn below(mount: &Path, path: &CgroupPath) -> PathBuf {
    mount.join(path.as_str().trim_start_matches('/'))
}

/// The controllers that a child of the topmost v2 cgroup that we see can have.
///
/// In a container with a cgroup namespace of its own, that cgroup is no root: as long as there are processes in it
/// (ours), no controller can be given to its children that is not given yet (the rule of no internal processes).
fn controllers_for_children(top: &Path) -> Vec<String> {
    let read = |file: &str| std::fs::read_to_string(top.join(file)).unwrap_or_default();
    // Only the real root has no type.
    let is_root = !top.join("cgroup.type").exists();
    let can_enable = is_root || read("cgroup.procs").trim().is_empty();
    let text = read(if can_enable { "cgroup.controllers" } else { "cgroup.subtree_control" });
    text.split_whitespace().map(str::to_owned).collect()
}

/// Undoes the escapes of mountinfo: space, tab, newline and backslash as three octal digits.
fn unescape_octal(text: &str) -> PathBuf {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('\\') {
        out.push_str(&rest[..position]);
        let code = rest.get(position + 1..position + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[position + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[position + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ContainerId;

    const HYBRID: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 27 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:28 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
36 31 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:35 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    const PURE_V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn path() -> CgroupPath {
        CgroupPath::of_container(&"0123456789abcdef0123456789abcdef".parse::<ContainerId>().unwrap(), None)
    }

    #[test]
    fn hybrid_keeps_memory_on_v1() {
        let cgroups = Cgroups::from_mountinfo(HYBRID, |_| vec!["hugetlb".into()]);
        assert_eq!(cgroups.layout, CgroupLayout::Hybrid);
        assert!(cgroups.has("memory") && cgroups.has("hugetlb") && !cgroups.has("name=systemd"));
        let leaf = format!("cofferdam-{}", "0123456789abcdef".repeat(2));
        let memory = PathBuf::from("/sys/fs/cgroup/memory").join(leaf);
        assert_eq!(cgroups.directory_of(&path(), "memory"), Some(ControllerDirectory::V1(memory)));
        assert_eq!(cgroups.directories_of(&path()).len(), 5);
        assert_eq!(cgroups.top(), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn pure_v2_has_one_directory_for_all() {
        let cgroups = Cgroups::from_mountinfo(PURE_V2, |_| vec!["cpu".into(), "memory".into()]);
        assert_eq!(cgroups.layout, CgroupLayout::V2);
        assert!(matches!(cgroups.directory_of(&path(), "memory"), Some(ControllerDirectory::V2(_))));
        assert_eq!(cgroups.directories_of(&path()).len(), 1);
    }

    #[test]
    fn a_nested_cgroup_with_processes_gives_only_what_it_gives_already() {
        let top = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(top.path().join(name), text).unwrap();
        write("cgroup.controllers", "cpu memory pids\n");
        write("cgroup.subtree_control", "cpu\n");
        write("cgroup.procs", "1\n");
        assert_eq!(controllers_for_children(top.path()), ["cpu", "memory", "pids"], "the real root");
        write("cgroup.type", "domain\n");
        assert_eq!(controllers_for_children(top.path()), ["cpu"]);
        write("cgroup.procs", "");
        assert_eq!(controllers_for_children(top.path()), ["cpu", "memory", "pids"]);
    }

    #[test]
    fn nothing_mounted_is_said() {
        assert_eq!(Cgroups::from_mountinfo("", |_| vec![]).layout, CgroupLayout::None);
        assert_eq!(Cgroups::from_mountinfo("garbage\n - \n", |_| vec![]).layout, CgroupLayout::None);
    }

    #[test]
    fn a_parent_is_kept() {
        let id = ContainerId::generate();
        assert_eq!(
            CgroupPath::of_container(&id, Some("/team/a/")).as_str(),
            format!("/team/a/cofferdam-{id}")
        );
        assert_eq!(CgroupPath::of_container(&id, Some("/")).as_str(), format!("/cofferdam-{id}"));
    }

    #[test]
    fn escaped_mount_points_are_read() {
        assert_eq!(unescape_octal(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape_octal(r"/a\9"), Path::new(r"/a\9"));
    }
}
