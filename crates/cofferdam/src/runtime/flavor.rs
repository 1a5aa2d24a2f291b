//! Where runc, crun and youki differ: one table.

use super::RuntimeKind;

/// The differences of one runc-compatible runtime.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flavor {
    /// How it is told to go on where cgroups cannot be made.
    pub(super) without_cgroups: &'static [&'static str],
    /// Whether `list` and `ps` can print JSON.
    pub(super) prints_json: bool,
    /// See `Runtime::leaves_only_files`: only where it was looked at.
    pub(super) leaves_only_files: bool,
    /// Whether `run --detach` leaves a process that ends at once to its caller. crun 1.21 takes its status itself.
    pub(super) hands_over_early_exits: bool,
    /// Whether it refuses a host with controllers on both v1 and v2.
    pub(super) refuses_hybrid: bool,
}

impl Flavor {
    pub(super) fn of(kind: RuntimeKind) -> Self {
        match kind {
            RuntimeKind::Runc | RuntimeKind::Runsc => Self {
                without_cgroups: &["--rootless", "true"],
                prints_json: true,
                leaves_only_files: true,
                hands_over_early_exits: true,
                refuses_hybrid: false,
            },
            RuntimeKind::Crun => Self {
                without_cgroups: &["--cgroup-manager=disabled"],
                prints_json: true,
                leaves_only_files: false,
                hands_over_early_exits: false,
                // "cgroups in hybrid mode not supported, drop all controllers from cgroupv2" (1.8.1).
                refuses_hybrid: true,
            },
            RuntimeKind::Youki => Self {
                without_cgroups: &[],
                // Its `list` knows a table only (0.5.7).
                prints_json: false,
                leaves_only_files: false,
                hands_over_early_exits: false,
                refuses_hybrid: false,
            },
        }
    }
}
