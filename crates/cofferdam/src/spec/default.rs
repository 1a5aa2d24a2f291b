//! The specification that a root filesystem gets when there is no bundle: as strict as docker's, and stricter where
//! docker keeps something for compatibility (no MKNOD, no NET_RAW, no new privileges).

use serde_json::{Value, json};

use super::{capability, seccomp};
use crate::cgroup::CgroupLayout;
use crate::host::HostFacts;
use crate::request::ContainerPlan;

/// The search path that a container starts with: docker's.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Size of /dev/shm: docker's.
const SHM_OPTION: &str = "size=65536k";

/// Files of /proc and /sys that tell about, or change, the whole machine: hidden.
const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/proc/sysrq-trigger",
];

/// Files of /proc that may be read. `/proc/sys` holds vm/drop_caches.
const READ_ONLY_PATHS: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// The specification for a root filesystem, before the request's own wishes are put in.
pub(crate) fn for_rootfs(plan: &ContainerPlan, host: &HostFacts) -> Value {
    let capabilities = capability::default_set(&plan.cap_add, &plan.cap_drop);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [],
            "env": [DEFAULT_PATH],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": true,
        },
        "root": { "path": "", "readonly": false },
        "hostname": plan.id.short(),
        "mounts": mounts(host),
        "linux": {
            "namespaces": [
                { "type": "pid" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "mount" },
                { "type": "network" },
                { "type": "cgroup" },
            ],
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "seccomp": seccomp::profile(&host.machine, &capabilities),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READ_ONLY_PATHS,
        },
    })
}

fn mounts(host: &HostFacts) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", SHM_OPTION]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if host.cgroups.layout != CgroupLayout::None && host.cgroups.writable {
        mounts.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ));
    }
    mounts
}
