//! What a test needs of the machine.
//!
//! Invariant: a test whose need is missing is shown as skipped; in CI (`CI=true`) it fails, unless [`CI_CANNOT`] says
//! that CI's machine cannot meet the need, and which tier covers it instead.

use std::fmt;
use std::path::Path;

use crate::runtimes::Choice;

/// One thing that a machine may lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// To be root.
    Root,
    /// A static busybox.
    Busybox,
    /// A runtime.
    Runtime(Choice),
    /// The command `ip`, to make network namespaces.
    IpCommand,
    /// cgroup v2 alone.
    PureCgroupV2,
    /// The command `script`, to have a terminal.
    ScriptCommand,
    /// A static init for containers.
    Catatonit,
    /// The command `faketime` and its library, to set a process's clock.
    Faketime,
    /// systemd-journald and journalctl.
    Journald,
    /// The command `tmux`, to be at a terminal.
    Tmux,
    /// A C compiler.
    CCompiler,
    /// A registry, with skopeo and umoci to make and push images, and htpasswd for its users.
    DockerRegistry,
    /// The command `skopeo`, which copies images.
    Skopeo,
    /// The command `umoci`, which makes images.
    Umoci,
    /// The command `unshare`, for a mount namespace.
    Unshare,
    /// NVIDIA's container toolkit, of the release that tests compare with.
    NvidiaToolkit,
    /// Plugins of CNI, and iptables, which they call.
    CniPlugins,
    /// The command `nft`, to filter packets.
    Nftables,
    /// Loop devices, and the command `mkfs.ext4`, to have a file system in a file.
    LoopDevices,
}

/// A need that CI's machine cannot meet.
#[derive(Debug)]
pub struct Exemption {
    /// The need.
    pub need: Need,
    /// Why CI's machine lacks it.
    pub why: &'static str,
    /// What covers it.
    pub covered_by: &'static str,
}

/// Needs that CI's machine cannot meet, and what covers them. A missing need that is not here fails in CI.
pub const CI_CANNOT: [Exemption; 3] = [
    Exemption {
        need: Need::Runtime(Choice::Crun),
        why: "CI has hybrid cgroups, which crun refuses",
        covered_by: "cargo xtask test --tier vm",
    },
    Exemption {
        need: Need::PureCgroupV2,
        why: "CI has hybrid cgroups",
        covered_by: "cargo xtask test --tier vm",
    },
    Exemption {
        need: Need::NvidiaToolkit,
        why: "it is built through the Go module proxy, which not every CI reaches",
        covered_by: "cargo xtask test where Go is installed, and cargo xtask gpu-test",
    },
];

impl Need {
    /// Whether this machine has it.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self {
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Busybox => Path::new(crate::fixture::BUSYBOX).is_file(),
            Self::Runtime(choice) => choice.binary().is_some() && choice.suits_this_machine(),
            Self::IpCommand => in_path("ip"),
            Self::PureCgroupV2 => Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            Self::ScriptCommand => in_path("script"),
            Self::Catatonit => in_path("catatonit"),
            Self::Faketime => in_path("faketime"),
            Self::Tmux => in_path("tmux"),
            Self::CCompiler => in_path("cc"),
            Self::DockerRegistry => {
                ["docker-registry", "skopeo", "umoci", "htpasswd"].into_iter().all(in_path)
            }
            Self::Skopeo => in_path("skopeo"),
            Self::Umoci => in_path("umoci"),
            Self::Unshare => in_path("unshare"),
            Self::NvidiaToolkit => crate::runtimes::nvidia_toolkit("nvidia-ctk").is_file(),
            Self::CniPlugins => Path::new("/usr/lib/cni/bridge").is_file() && in_path("iptables"),
            Self::Nftables => in_path("nft"),
            Self::LoopDevices => Path::new("/dev/loop-control").exists() && in_path("mkfs.ext4"),
            Self::Journald => in_path("journalctl") && Path::new("/lib/systemd/systemd-journald").exists(),
        }
    }

    fn is_excused_in_ci(&self) -> bool {
        CI_CANNOT.iter().any(|exemption| exemption.need == *self)
    }
}

/// What becomes of a test on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It runs.
    Run,
    /// It is shown as skipped, for these needs.
    Skip(Vec<Need>),
    /// It fails: CI must have what is missing.
    Fail(Vec<Need>),
}

/// Decides what becomes of a test with these needs.
#[must_use]
pub fn fate(needs: &[Need], in_ci: bool) -> Fate {
    let missing: Vec<Need> = needs.iter().filter(|need| !need.is_met()).cloned().collect();
    if missing.is_empty() {
        Fate::Run
    } else if in_ci && missing.iter().any(|need| !need.is_excused_in_ci()) {
        Fate::Fail(missing)
    } else {
        Fate::Skip(missing)
    }
}

/// Whether this is CI.
#[must_use]
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Busybox => f.write_str("busybox-static"),
            Self::Runtime(choice) => write!(f, "{choice}"),
            Self::IpCommand => f.write_str("iproute2"),
            Self::PureCgroupV2 => f.write_str("pure cgroup v2"),
            Self::ScriptCommand => f.write_str("bsdutils"),
            Self::Catatonit => f.write_str("catatonit"),
            Self::Faketime => f.write_str("faketime"),
            Self::Journald => f.write_str("systemd"),
            Self::Tmux => f.write_str("tmux"),
            Self::CCompiler => f.write_str("gcc"),
            Self::DockerRegistry => f.write_str("docker-registry, skopeo, umoci and apache2-utils"),
            Self::Skopeo => f.write_str("skopeo"),
            Self::Umoci => f.write_str("umoci"),
            Self::Unshare => f.write_str("util-linux"),
            Self::NvidiaToolkit => f.write_str("nvidia-container-toolkit"),
            Self::CniPlugins => f.write_str("containernetworking-plugins and iptables"),
            Self::Nftables => f.write_str("nftables"),
            Self::LoopDevices => f.write_str("loop devices and e2fsprogs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_need_is_a_skip_at_home_and_a_failure_in_ci() {
        let nowhere = Need::Runtime(Choice::Custom("/nonexistent/runtime".into()));
        assert_eq!(fate(std::slice::from_ref(&nowhere), false), Fate::Skip(vec![nowhere.clone()]));
        assert_eq!(fate(std::slice::from_ref(&nowhere), true), Fate::Fail(vec![nowhere]));
        assert_eq!(fate(&[], true), Fate::Run);
    }

    #[test]
    fn what_ci_cannot_have_is_a_skip_there_too() {
        let Some(lacking) =
            CI_CANNOT.iter().map(|exemption| exemption.need.clone()).find(|need| !need.is_met())
        else {
            return;
        };
        assert_eq!(fate(std::slice::from_ref(&lacking), true), Fate::Skip(vec![lacking]));
    }
}
