//! The facts about this host that decisions rest on, looked up once and passed on as a value.
//!
//! Not here: what a runtime can do (`runtime::features`), and judgement of the facts (`doctor`).

use std::collections::BTreeMap;

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;

/// What is true of this host and of this process on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Kernel release, such as `6.12.38+deb12-amd64`.
    pub kernel: String,
    /// Machine architecture as the kernel names it, such as `x86_64`.
    pub machine: String,
    /// Changes with each boot; pids from another boot mean nothing.
    pub boot_id: String,
    /// Effective user id of this process.
    pub uid: u32,
    /// The cgroup hierarchies.
    pub cgroups: Cgroups,
    /// Hard limits of this process by their OCI name (`RLIMIT_NOFILE`); `None` is no limit.
    pub hard_limits: BTreeMap<String, Option<u64>>,
    /// The kernel's bound of RLIMIT_NOFILE for everybody (`fs.nr_open`).
    pub most_open_files: u64,
    /// Whether this process may raise hard limits and lower `oom_score_adj` (CAP_SYS_RESOURCE).
    pub may_raise_limits: bool,
    /// This process's own `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Whether foreign binary formats are registered with the kernel, so that a file's format proves nothing.
    pub foreign_binaries: bool,
    /// Whether systemd is the first process of this host, as `sd_booted` tells it.
    #[serde(default)]
    pub systemd: bool,
    /// Whether the kernel has overlayfs, loaded now.
    pub overlay: bool,
}

/// `CAP_SYS_RESOURCE` in the bit mask of `/proc/self/status`.
const CAP_SYS_RESOURCE: u32 = 24;

impl HostFacts {
    /// Looks at this host. What cannot be read is taken as absent.
    #[must_use]
    pub fn probe() -> Self {
        let uname = rustix::system::uname();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            cgroups: Cgroups::probe(),
            hard_limits: hard_limits(),
            most_open_files: read("/proc/sys/fs/nr_open").trim().parse().unwrap_or(u64::MAX),
            may_raise_limits: effective_capabilities(&status) & (1 << CAP_SYS_RESOURCE) != 0,
            oom_score_adj: read("/proc/self/oom_score_adj").trim().parse().unwrap_or(0),
            foreign_binaries: has_foreign_binaries(),
            systemd: std::path::Path::new("/run/systemd/system").is_dir(),
            overlay: read("/proc/filesystems").lines().any(|line| line.trim() == "nodev\toverlay"),
        }
    }

    /// Whether the kernel is of this version or a newer one; not, where its release tells none.
    #[must_use]
    pub fn kernel_is_at_least(&self, version: (u32, u32)) -> bool {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let found = (numbers.next(), numbers.next());
        matches!(found, (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= version)
    }
}

/// Reads the effective capability mask from the text of `/proc/PID/status`.
fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn hard_limits() -> BTreeMap<String, Option<u64>> {
    RESOURCES.iter().map(|(name, resource)| ((*name).to_owned(), getrlimit(*resource).maximum)).collect()
}

/// The resource limits that the OCI runtime specification names.
const RESOURCES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// Whether the OCI specification names a resource limit so.
pub(crate) fn is_resource(name: &str) -> bool {
    RESOURCES.iter().any(|(known, _)| *known == name)
}

fn has_foreign_binaries() -> bool {
    std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        name != "register" && name != "status"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        // Verbatim from a root process without CAP_SYS_RESOURCE.
        let status =
            "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001fffeffffff\nCapBnd:\t000001fffeffffff\n";
        assert_eq!(effective_capabilities(status) & (1 << CAP_SYS_RESOURCE), 0);
        assert_ne!(effective_capabilities(status) & 1, 0);
        assert_eq!(effective_capabilities("nothing"), 0);
    }

    #[test]
    fn kernels_are_compared_by_their_numbers() {
        let is = |kernel: &str, version| {
            HostFacts { kernel: kernel.into(), ..HostFacts::probe() }.kernel_is_at_least(version)
        };
        assert!(is("6.12.38+deb12-amd64", (5, 12)) && is("5.12.0", (5, 12)) && !is("5.9-rc1", (5, 12)));
        assert!(!is("", (0, 0)) && !is("next", (0, 0)));
    }

    #[test]
    fn this_host_has_facts() {
        let facts = HostFacts::probe();
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty());
        assert!(facts.hard_limits.contains_key("RLIMIT_NOFILE"));
    }
}
