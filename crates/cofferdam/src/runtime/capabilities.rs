//! The capabilities matrix: what a runtime's binary can do on this host, and the reason for every "no".
//!
//! A pure function of what was probed. Nothing is taken from the runtime's name alone.

use serde::{Deserialize, Serialize};

use super::flavor::Flavor;
use super::{Features, RuntimeKind};
use crate::cgroup::CgroupLayout;
use crate::host::HostFacts;

/// One thing that a runtime may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Write a running container to disk and bring it back.
    CheckpointRestore,
    /// Give NVIDIA GPUs to a container.
    Gpu,
    /// Apply what a CDI specification asks for: devices, mounts, environment, hooks.
    Cdi,
    /// Tell an out-of-memory kill by the cgroup's own counter.
    OomEvents,
    /// Put a container into a network namespace that exists already.
    JoinNetworkNamespace,
    /// Use an overlay as root filesystem.
    OverlayRootfs,
}

/// Whether something can be done, and how or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it can.
    pub supported: bool,
    /// How, or why not.
    pub reason: String,
}

/// CRIU as it was found on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Criu {
    /// There is no binary of that name.
    Missing,
    /// It is there, and `criu check` passes.
    Works {
        /// Its version line.
        version: String,
    },
    /// It is there and does not work here.
    Fails {
        /// Its version line.
        version: String,
        /// What `criu check` says.
        why: String,
    },
}

impl Capability {
    /// All of them, in the order of the matrix.
    pub const ALL: [Self; 6] = [
        Self::CheckpointRestore,
        Self::Gpu,
        Self::Cdi,
        Self::OomEvents,
        Self::JoinNetworkNamespace,
        Self::OverlayRootfs,
    ];

    /// Its name in the matrix.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::CheckpointRestore => "checkpoint/restore",
            Self::Gpu => "GPU",
            Self::Cdi => "CDI",
            Self::OomEvents => "OOM events",
            Self::JoinNetworkNamespace => "join a network namespace",
            Self::OverlayRootfs => "overlay rootfs",
        }
    }

    /// Whether a runtime with these features has it on this host.
    #[must_use]
    pub fn answer(self, features: &Features, host: &HostFacts, criu: &Criu) -> Answer {
        if refuses_host(features, host) {
            return no("it refuses this host, which has controllers on cgroup v1 and v2 at once");
        }
        match self {
            Self::CheckpointRestore => checkpoint(features, criu),
            Self::Gpu => gpu(features),
            Self::Cdi => cdi(features),
            Self::OomEvents => oom_events(host),
            Self::JoinNetworkNamespace => join_network(features),
            Self::OverlayRootfs => overlay(features, host),
        }
    }
}

/// Whether this runtime runs no container at all here.
fn refuses_host(features: &Features, host: &HostFacts) -> bool {
    Flavor::of(features.kind).refuses_hybrid && host.cgroups.has_controllers_on_both()
}

fn yes(reason: impl Into<String>) -> Answer {
    Answer { supported: true, reason: reason.into() }
}

fn no(reason: impl Into<String>) -> Answer {
    Answer { supported: false, reason: reason.into() }
}

fn checkpoint(features: &Features, criu: &Criu) -> Answer {
    for command in ["checkpoint", "restore"] {
        if !features.has_command(command) {
            return no(format!("this build of {} has no command `{command}`", features.kind));
        }
    }
    match (features.kind, criu) {
        (RuntimeKind::Runsc, _) => yes("by the sandbox itself, without CRIU"),
        (_, Criu::Works { version }) => yes(format!("by {version}")),
        (_, Criu::Missing) => no("CRIU is not installed"),
        (_, Criu::Fails { version, why }) => no(format!("{version} does not work on this kernel: {why}")),
    }
}

fn gpu(features: &Features) -> Answer {
    match features.kind {
        RuntimeKind::Runsc if features.has_flag("nvproxy") => {
            yes("by nvproxy, for the driver versions that `runsc nvproxy list-supported-drivers` prints")
        }
        RuntimeKind::Runsc => no("no nvproxy in this build; it is there since release 20230529"),
        RuntimeKind::Runc | RuntimeKind::Crun | RuntimeKind::Youki => yes("by passing device nodes in"),
    }
}

fn cdi(features: &Features) -> Answer {
    let runs_hooks = features
        .oci
        .as_ref()
        .and_then(|oci| oci.get("hooks"))
        .and_then(serde_json::Value::as_array)
        .is_some_and(|hooks| hooks.iter().any(|hook| hook == "createContainer"));
    match features.kind {
        RuntimeKind::Runsc if !features.has_flag("nvproxy") => {
            no("no nvproxy in this build, so no device to inject")
        }
        RuntimeKind::Runsc if runs_hooks => yes("devices of nvproxy, mounts, environment, and hooks"),
        RuntimeKind::Runsc => {
            yes("devices of nvproxy, mounts and environment; this build skips createContainer hooks")
        }
        RuntimeKind::Runc | RuntimeKind::Crun | RuntimeKind::Youki => {
            yes("devices, mounts, environment and hooks")
        }
    }
}

fn oom_events(host: &HostFacts) -> Answer {
    let cgroups = &host.cgroups;

    match (cgroups.layout, cgroups.has("memory"), cgroups.writable) {
        (CgroupLayout::None, ..) => no("no cgroup hierarchy is mounted"),
        (_, false, _) => no("the memory controller is not there"),
        (_, _, false) => no("this process may not make cgroups"),
        (CgroupLayout::V2, ..) => yes("by oom_kill in memory.events of its cgroup"),
        (CgroupLayout::V1 | CgroupLayout::Hybrid, ..) => {
            yes("by oom_kill in memory.oom_control of its cgroup")
        }
    }
}

fn join_network(features: &Features) -> Answer {
    if features.kernel.mistakes_namespaces_for_root {
        return no(
            "this build takes every namespace of this kernel for the host's own; fixed in release 20240807",
        );
    }
    yes(match features.kind {
        RuntimeKind::Runsc => "by its own network stack on the namespace's links",
        RuntimeKind::Runc | RuntimeKind::Crun | RuntimeKind::Youki => "by joining it",
    })
}

fn overlay(features: &Features, host: &HostFacts) -> Answer {
    match features.kind {
        RuntimeKind::Runsc if features.has_flag("overlay2") => yes("by the sandbox itself (--overlay2)"),
        _ if host.overlay => yes("by the kernel's overlayfs"),
        _ => no("the kernel has no overlayfs; `modprobe overlay` may load it"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::runtime::{KernelFacts, RuntimeVersion};

    fn features(kind: RuntimeKind, flags: &[&str], commands: &[&str]) -> Features {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        Features {
            kind,
            version: RuntimeVersion::Unknown,
            version_line: String::new(),
            commands: set(commands),
            flags: set(flags),
            oci: None,
            nvidia_drivers: vec![],
            kernel: KernelFacts::default(),
        }
    }

    #[test]
    fn every_no_has_a_reason() {
        let host = HostFacts::probe();
        for kind in RuntimeKind::ALL {
            for capability in Capability::ALL {
                let answer = capability.answer(&features(kind, &[], &[]), &host, &Criu::Missing);
                assert!(!answer.reason.is_empty(), "{kind} {capability:?}");
            }
        }
    }

    #[test]
    fn answers_follow_the_probe_and_not_the_name() {
        let host = HostFacts::probe();
        let ask =
            |capability: Capability, features: &Features| capability.answer(features, &host, &Criu::Missing);
        let old = features(RuntimeKind::Runsc, &[], &["checkpoint", "restore"]);
        assert!(!ask(Capability::Gpu, &old).supported);
        assert!(ask(Capability::CheckpointRestore, &old).supported, "gVisor needs no CRIU");
        let new = features(RuntimeKind::Runsc, &["nvproxy", "overlay2"], &[]);
        assert!(ask(Capability::Gpu, &new).supported && ask(Capability::OverlayRootfs, &new).supported);
        assert!(!ask(Capability::CheckpointRestore, &new).supported);
        let runc = features(RuntimeKind::Runc, &[], &["checkpoint", "restore"]);
        assert_eq!(ask(Capability::CheckpointRestore, &runc).reason, "CRIU is not installed");
        let mut blind = new;
        blind.kernel.mistakes_namespaces_for_root = true;
        assert!(!ask(Capability::JoinNetworkNamespace, &blind).supported);
    }
}
