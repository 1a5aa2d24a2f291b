//! Which cgroup hierarchies this host has: v1, v2, or both at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::{CgroupPath, ControllerDirectory};
use crate::request::{Limits, Refused, list_of};

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
    /// The controllers that can limit a container here, by their names under v2.
    pub controllers: Vec<String>,
    /// Controllers that are there and cannot: in a v2 hierarchy beside v1 ones, which no runtime uses for them, or not
    /// handed down to the cgroup that is the topmost here.
    #[serde(default)]
    pub out_of_reach: Vec<String>,
    /// Whether swap can be limited.
    #[serde(default)]
    pub counts_swap: bool,
    /// The CPUs that can be given to a container, as the kernel writes them; empty where they are not known.
    #[serde(default)]
    pub cpus: String,
    /// The memory nodes.
    #[serde(default)]
    pub memory_nodes: String,
    /// What is mounted at each mount point: `/`, or the cgroup that stands for it in a container.
    #[serde(default)]
    roots: BTreeMap<PathBuf, String>,
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
        let mut cgroups = Self::from_mountinfo(&mountinfo, Delegation::at);
        cgroups.writable = cgroups.layout != CgroupLayout::None
            && cgroups.mount_points().all(|path| access(path, Access::WRITE_OK).is_ok());
        cgroups.counts_swap = match cgroups.v1.get("memory") {
            Some(mount) => mount.join("memory.memsw.limit_in_bytes").exists(),
            None => cgroups.has("memory") && Path::new("/proc/swaps").exists(),
        };
        cgroups.cpus = cgroups.read_cpuset("cpus").unwrap_or_default();
        cgroups.memory_nodes = cgroups.read_cpuset("mems").unwrap_or_default();
        cgroups
    }

    /// Reads the layout off the text of `/proc/self/mountinfo`; `delegation` looks at a v2 mount.
    #[must_use]
    pub fn from_mountinfo(mountinfo: &str, delegation: impl Fn(&Path) -> Delegation) -> Self {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        let mut roots = BTreeMap::new();
        for line in mountinfo.lines() {
            let Some((mount, tail)) = line.split_once(" - ") else { continue };
            let mut mount = mount.split(' ').skip(3).map(unescape_octal);
            let (Some(root), Some(point)) = (mount.next(), mount.next()) else { continue };
            let mut tail = tail.split(' ');
            match tail.next() {
                // The first mount is the system's; later ones are somebody's views of the same.
                Some("cgroup2") if v2.is_none() => v2 = Some(point.clone()),
                Some("cgroup") => {
                    for option in tail.nth(1).unwrap_or_default().split(',') {
                        if !matches!(option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "none")
                            && !option.starts_with("release_agent=")
                        {
                            v1.entry(option.to_owned()).or_insert_with(|| point.clone());
                        }
                    }
                }
                _ => continue,
            }
            roots.entry(point).or_insert_with(|| root.to_string_lossy().into_owned());
        }
        let layout = match (v1.is_empty(), &v2) {
            (true, None) => CgroupLayout::None,
            (true, Some(_)) => CgroupLayout::V2,
            (false, Some(_)) => CgroupLayout::Hybrid,
            (false, None) => CgroupLayout::V1,
        };
        let Delegation { delegated, kept } = v2.as_deref().map(delegation).unwrap_or_default();
        let of_v1 = v1.keys().filter(|name| !name.starts_with("name=")).map(|name| v2_name(name).to_owned());
        let (controllers, out_of_reach) = match layout {
            CgroupLayout::V2 => (delegated.clone(), kept),
            // Runtimes use the v1 hierarchies alone then.
            _ => (of_v1.collect(), delegated.clone()),
        };
        Self {
            layout,
            writable: false,
            controllers,
            out_of_reach,
            counts_swap: false,
            cpus: String::new(),
            memory_nodes: String::new(),
            roots,
            v1,
            v2: v2.map(|point| (point, delegated)),
        }
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
        if let Some(mount) = self.v1.get(v1_name(controller)) {
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

    /// Checks that a container can have its CPUs and memory nodes.
    ///
    /// # Errors
    /// [`Refused`] says what there is.
    pub(crate) fn check_cpusets(&self, limits: &Limits) -> Result<(), Refused> {
        for (option, wanted, there) in [
            ("--cpuset-cpus", &limits.cpuset_cpus, &self.cpus),
            ("--cpuset-mems", &limits.cpuset_mems, &self.memory_nodes),
        ] {
            let (Some(wanted), Some(known)) = (wanted, list_of(there)) else { continue };
            if !list_of(wanted).is_some_and(|wanted| wanted.is_subset(&known)) {
                return Err(Refused::new(option, format!("{wanted} is not there; there is {there}")));
            }
        }
        Ok(())
    }

    /// What there is for containers, as the topmost cgroup says it.
    fn read_cpuset(&self, what: &str) -> Option<String> {
        let file = match self.v1.get("cpuset") {
            Some(mount) => mount.join(format!("cpuset.effective_{what}")),
            None => self.v2.as_ref()?.0.join(format!("cpuset.{what}.effective")),
        };
        Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
    }

    /// The path of the cgroup that a process is in, below the mount point where a container's limits are: the memory
    /// controller's, or another one where there is none. `None` when the process is gone or on its way.
    #[must_use]
    pub fn path_of_process(&self, pid: i32) -> Option<CgroupPath> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        self.path_in(&text)
    }

    /// Whether a process is in a cgroup, by the cgroup's own list.
    pub(crate) fn has_process(&self, path: &CgroupPath, pid: i32) -> bool {
        let listed = |directory: &PathBuf| {
            let list = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            list.lines().any(|line| line.parse() == Ok(pid))
        };
        self.directories_of(path).iter().any(listed)
    }

    /// Reads the path off the text of `/proc/PID/cgroup`.
    fn path_in(&self, text: &str) -> Option<CgroupPath> {
        let (controller, mount) = match self.v1.get_key_value("memory").or_else(|| self.v1.iter().next()) {
            Some((controller, mount)) => (controller.as_str(), mount),
            None => ("", &self.v2.as_ref()?.0),
        };
        let path = text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == controller).then_some(path)
        })?;
        let root = self.roots.get(mount).map_or("/", String::as_str).trim_end_matches('/');
        let below = path.strip_prefix(root).filter(|below| below.starts_with('/')).unwrap_or(path);
        (below != "/").then(|| CgroupPath::at(below))
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

/// The name under v2 of a controller of v1.
fn v2_name(controller: &str) -> &str {
    if controller == "blkio" { "io" } else { controller }
}

/// The name under v1 of a controller of v2.
fn v1_name(controller: &str) -> &str {
    if controller == "io" { "blkio" } else { controller }
}

/// The controllers of the topmost v2 cgroup that is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delegation {
    /// Those that a child of it can have.
    delegated: Vec<String>,
    /// Those that it keeps.
    kept: Vec<String>,
}

impl Delegation {
    /// These are delegated, and none is kept.
    #[cfg(test)]
    pub(super) fn of_all(delegated: &[&str]) -> Self {
        Self { delegated: delegated.iter().map(|&name| name.to_owned()).collect(), kept: vec![] }
    }

    /// In a container with a cgroup namespace of its own, the topmost cgroup is no root: as long as there are processes
    /// in it (ours), no controller can be given to its children that is not given yet (the rule of no internal
    /// processes).
    fn at(top: &Path) -> Self {
        let read = |file: &str| -> Vec<String> {
            let text = std::fs::read_to_string(top.join(file)).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        // Only the real root has no type.
        let is_root = !top.join("cgroup.type").exists();
        let all = read("cgroup.controllers");
        if is_root || read("cgroup.procs").is_empty() {
            return Self { delegated: all, kept: vec![] };
        }
        let delegated = read("cgroup.subtree_control");
        let kept = all.into_iter().filter(|name| !delegated.contains(name)).collect();
        Self { delegated, kept }
    }
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
#[path = "layout_tests.rs"]
mod tests;
