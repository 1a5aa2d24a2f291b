//! The system calls that a container may make under a runtime that shares the host's kernel.
//!
//! Everything is refused (EPERM) but a list. Off it are calls that load code into the kernel, change the machine's
//! clock or mounts, reach into other processes' memory, or had a history of holes (io_uring, userfaultfd, keyrings).
//! A capability that is granted brings the calls that are useless without it.
//! gVisor has a kernel of its own: there the profile is left out unless it is asked for.

use serde_json::{Value, json};

/// Calls that need no privilege that a container should not have: one name a line.
const ALLOWED: &str = include_str!("seccomp_allowed.txt");

/// Calls that come with a capability.
const BY_CAPABILITY: [(&str, &[&str]); 14] = [
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "swapoff",
            "swapon",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["kexec_file_load", "kexec_load", "reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    (
        "CAP_SYS_TIME",
        &["clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    (
        "CAP_SYS_NICE",
        &[
            "get_mempolicy",
            "mbind",
            "migrate_pages",
            "move_pages",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
];

/// All flags of clone(2) that make a namespace.
const CLONE_NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// `ENOSYS`: makes libc fall back from clone3, whose flags lie in memory where a filter cannot look, to clone.
const ENOSYS: u32 = 38;
/// `EPERM`.
const EPERM: u32 = 1;
/// Personalities that change no address layout or file format in a way that helps an attack (personality(2)).
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// `AF_VSOCK`: reaches the hypervisor of the host past all network namespaces.
const AF_VSOCK: u64 = 40;
/// The highest number that is let through: one above `AF_MCTP`, the last family of Linux 6.18.
const AF_LAST: u64 = 46;

/// The profile for a set of capabilities on a machine (`uname -m`), as `linux.seccomp` of the specification.
pub(crate) fn profile(machine: &str, capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let mut names: Vec<&str> = ALLOWED.lines().collect();
    for (capability, calls) in BY_CAPABILITY {
        if has(capability) {
            names.extend(calls);
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![json!({ "names": names, "action": "SCMP_ACT_ALLOW" })];
    for persona in PERSONALITIES {
        rules.push(json!({
            "names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": persona, "op": "SCMP_CMP_EQ" }],
        }));
    }
    // Not "all but vsock": the kernel looks at the lower half of the argument, the filter at the whole.
    rules.push(socket_rule(AF_VSOCK - 1, "SCMP_CMP_LE"));
    rules.extend((AF_VSOCK + 1..=AF_LAST).map(|family| socket_rule(family, "SCMP_CMP_EQ")));
    if !has("CAP_SYS_ADMIN") {
        rules.push(json!({
            "names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{
                "index": 0, "value": CLONE_NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
            }],
        }));
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(machine),
        "syscalls": rules,
    })
}

fn socket_rule(family: u64, comparison: &str) -> Value {
    json!({
        "names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": family, "op": comparison }],
    })
}

fn architectures(machine: &str) -> Vec<&'static str> {
    match machine {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        // Empty means the native architecture alone.
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &Value) -> Vec<&str> {
        profile["syscalls"][0]["names"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect()
    }

    #[test]
    fn the_dangerous_calls_are_off_the_list() {
        let profile = profile("x86_64", &[]);
        for call in [
            "mount",
            "bpf",
            "io_uring_setup",
            "userfaultfd",
            "keyctl",
            "init_module",
            "setns",
            "unshare",
            "reboot",
            "open_by_handle_at",
            "process_vm_readv",
            "perf_event_open",
            "clone",
            "clone3",
            "personality",
            "socket",
            "socketcall",
            "clock_settime",
            "swapon",
            "kexec_load",
            "syslog",
        ] {
            assert!(!allowed(&profile).contains(&call), "{call}");
        }
        for call in ["read", "execve", "futex", "epoll_wait", "ptrace", "seccomp", "openat2"] {
            assert!(allowed(&profile).contains(&call), "{call}");
        }
    }

    #[test]
    fn a_vsock_is_refused_whatever_the_upper_half_of_the_argument_says() {
        let profile = profile("x86_64", &[]);
        let rules: Vec<&Value> = profile["syscalls"].as_array().unwrap().iter().collect();
        let allows = |family: u64| {
            let sockets = rules.iter().filter(|rule| rule["names"][0] == "socket");
            sockets.map(|rule| &rule["args"][0]).any(|arg| {
                let value = arg["value"].as_u64().unwrap();
                if arg["op"] == "SCMP_CMP_LE" { family <= value } else { family == value }
            })
        };
        assert!([1, 2, 10, 16, 17, 38, 39, 41, 44].into_iter().all(allows));
        assert!(![AF_VSOCK, AF_VSOCK | 1 << 32, u64::MAX].into_iter().any(allows));
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let profile = profile("x86_64", &["CAP_SYS_ADMIN".to_owned()]);
        assert!(allowed(&profile).contains(&"mount") && allowed(&profile).contains(&"clone"));
        assert!(!allowed(&profile).contains(&"reboot"));
    }

    #[test]
    fn the_list_is_sorted_names_without_doubles() {
        let names: Vec<&str> = ALLOWED.lines().collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
    }
}
