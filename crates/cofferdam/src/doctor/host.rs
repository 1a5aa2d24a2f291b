//! The host's part: kernel, user, cgroups, file systems, tools, GPU driver.

use std::path::Path;

use cofferdam_network::cni::default_plugin_directories;
use cofferdam_network::{bridge, egress};

use super::Check;
use crate::cgroup::{CgroupLayout, Cgroups};
use crate::exit::format_bytes;
use crate::runtime::capabilities::Criu;
use crate::runtime::find_program;

/// The kernel that has everything without which nothing works: openat2 and pidfd_open.
const KERNEL_NEEDED: (u32, u32) = (5, 6);
/// The kernel from which the exit code of a container can be had after its supervisor was killed (PIDFD_INFO_EXIT).
const KERNEL_KEEPS_EXITS: (u32, u32) = (6, 15);
/// The controllers by which something can be limited; others count, freeze or name.
const LIMITING: [&str; 6] = ["memory", "cpu", "cpuset", "io", "pids", "hugetlb"];
/// Less free space than this on the state directory's file system is a danger for records.
const SPACE_NEEDED_BYTES: u64 = 64 << 20;

pub(super) fn kernel(release: &str) -> Check {
    let subject = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_NEEDED {
        let (major, minor) = KERNEL_NEEDED;
        return Check::bad(
            subject,
            format!("Linux {release}"),
            &format!("boot Linux {major}.{minor} or newer"),
        );
    }
    if version < KERNEL_KEEPS_EXITS {
        return Check::good(
            subject,
            format!("Linux {release} (6.15 would keep the exit code also when a supervisor is killed)"),
        );
    }
    Check::good(subject, format!("Linux {release}"))
}

pub(super) fn user(uid: u32) -> Check {
    match uid {
        0 => Check::good("user", "root"),
        uid => Check::bad("user", format!("the user {uid} may not make containers"), "sudo cofferdam doctor"),
    }
}

pub(super) fn cgroups(cgroups: &Cgroups) -> Check {
    let subject = "cgroups";
    let layout = match cgroups.layout {
        CgroupLayout::V1 => "v1",
        CgroupLayout::Hybrid => "hybrid: controllers on v1 beside a v2 hierarchy",
        CgroupLayout::V2 => "v2",
        CgroupLayout::None => {
            let mend = "mount -t cgroup2 none /sys/fs/cgroup";
            return Check::bad(
                subject,
                "no hierarchy is mounted: no limits, and no evidence of OOM kills",
                mend,
            );
        }
    };
    if !cgroups.writable {
        let finding =
            format!("{layout}, which this process may not write: no limits, no evidence of OOM kills");
        return Check::limited(
            subject,
            finding,
            "run with a writable /sys/fs/cgroup (in docker: --cgroupns host and -v)",
        );
    }
    let missing: Vec<&str> =
        ["memory", "cpu", "pids"].into_iter().filter(|name| !cgroups.has(name)).collect();
    if !missing.is_empty() {
        let finding = format!("{layout}, without the controllers {}", missing.join(", "));
        let is_kept = missing.iter().any(|name| cgroups.out_of_reach.iter().any(|kept| kept == name));
        let mend = if is_kept && cgroups.layout == CgroupLayout::V2 {
            "the topmost cgroup here has processes in it, and so cannot hand them down: move those into a cgroup \
             below it, and write +memory, +cpu and +pids into its cgroup.subtree_control"
        } else {
            "boot with cgroup_enable=memory, or have whoever made this container hand the controllers down"
        };
        return Check::limited(subject, finding, mend);
    }
    let mut can: Vec<&str> = LIMITING.into_iter().filter(|name| cgroups.has(name)).collect();
    can.extend(cgroups.counts_swap.then_some("swap"));
    let finding = format!("{layout}; limits {}", can.join(", "));
    if cgroups.out_of_reach.is_empty() {
        return Check::good(subject, finding);
    }
    Check::good(subject, format!("{finding}; out of reach: {}", cgroups.out_of_reach.join(", ")))
}

pub(super) fn overlay(present: bool) -> Check {
    if present {
        return Check::good("overlayfs", "present");
    }
    Check::limited("overlayfs", "not loaded", "modprobe overlay")
}

pub(super) fn state_directory(path: &Path) -> Check {
    let subject = "state directory";
    let shown = path.display();
    match rustix::fs::statvfs(path) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < SPACE_NEEDED_BYTES || stat.f_favail == 0 {
                let finding = format!("{shown} has {} and {} inodes left", format_bytes(free), stat.f_favail);
                return Check::bad(subject, finding, "make room there, or choose another with --state-dir");
            }
            Check::good(subject, format!("{shown}, {} free", format_bytes(free)))
        }
        Err(errno) => Check::bad(
            subject,
            format!("{shown}: {}", std::io::Error::from(errno)),
            "choose another with --state-dir",
        ),
    }
}

pub(super) fn criu(criu: &Criu) -> Check {
    let subject = "criu";
    match criu {
        Criu::Works { version } => Check::good(subject, format!("{version} passes its own check")),
        Criu::Missing => {
            Check::limited(subject, "not installed: runc and crun cannot checkpoint", "apt-get install criu")
        }
        Criu::Fails { version, why } => {
            Check::limited(subject, format!("{version} fails: {why}"), "install a newer criu for this kernel")
        }
    }
}

pub(super) fn network() -> Vec<Check> {
    let path = std::env::var_os("PATH");
    let tool = |name: &str, what_for: &str, package: &str| match find_program(name, path.as_deref()) {
        Some(binary) => Check::good(name, binary.display().to_string()),
        None => {
            Check::limited(name, format!("not installed: {what_for}"), &format!("apt-get install {package}"))
        }
    };
    let namespaces = match crate::sys::with_fresh_network_namespace(|| ()) {
        Ok(()) => Check::good("network namespaces", "can be made"),
        Err(error) => Check::bad(
            "network namespaces",
            format!("cannot be made: {error}"),
            "run as root, with CAP_SYS_ADMIN",
        ),
    };
    let ip = tool("ip", "no way to prepare network namespaces", "iproute2");
    let plugins = default_plugin_directories(std::env::var_os("CNI_PATH").as_deref());
    vec![namespaces, ip, bridge(&bridge::missing_programs(&plugins)), gates(&egress::missing_programs())]
}

fn bridge(missing: &[&str]) -> Check {
    let packages = "containernetworking-plugins iptables";
    programs("network bridge", missing, "no --network bridge and no --publish", packages)
}

fn gates(missing: &[&str]) -> Check {
    programs("egress policies", missing, "no --egress", "nftables util-linux")
}

/// What programs something needs, and what there is not without them.
fn programs(subject: &str, missing: &[&str], without: &str, packages: &str) -> Check {
    if missing.is_empty() {
        return Check::good(subject, "the programs that it needs are there");
    }
    let finding = format!("without {}: {without}", missing.join(", "));
    Check::limited(subject, finding, &format!("apt-get install {packages}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn kernels_are_judged_by_what_they_have() {
        assert_eq!(kernel("5.4.0-100-generic").verdict, Verdict::Bad);
        assert_eq!(kernel("6.1.0-44-amd64").verdict, Verdict::Good);
        assert!(kernel("6.1.0").finding.contains("6.15"));
        assert!(!kernel("6.18.44").finding.contains("6.15"));
        assert_eq!(kernel("").verdict, Verdict::Bad);
    }

    #[test]
    fn what_is_not_good_names_a_way_out() {
        let mut blind = Cgroups::probe();
        let mut read_only = blind.clone();
        blind.layout = CgroupLayout::None;
        (read_only.layout, read_only.writable) = (CgroupLayout::V2, false);
        let checks = [
            kernel("4.19"),
            user(1000),
            cgroups(&blind),
            cgroups(&read_only),
            overlay(false),
            state_directory(Path::new("/nonexistent")),
            criu(&Criu::Missing),
            bridge(&["portmap"]),
            gates(&["nft"]),
            criu(&Criu::Fails { version: "CRIU 3.17".into(), why: "vdso".into() }),
        ];
        for check in checks {
            assert!(check.verdict > Verdict::Good && check.mend.is_some(), "{check:?}");
        }
    }
}
