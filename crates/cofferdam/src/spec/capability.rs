//! The capabilities of Linux by name, and the few that a container starts with.

/// All capabilities, in the order of their numbers (linux/capability.h, 6.12).
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has by default: docker's list without MKNOD (device nodes) and NET_RAW (forged packets).
const DEFAULT: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// The full name of a capability given with or without `CAP_`, in any case; `ALL` stays `ALL`.
pub(crate) fn full_name(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Some(upper);
    }
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    ALL.contains(&full.as_str()).then_some(full)
}

/// The default capabilities, more and fewer: `drop` goes first, so that dropping ALL and adding one leaves that one.
pub(crate) fn default_set(add: &[String], drop: &[String]) -> Vec<String> {
    adjust(DEFAULT.iter().map(|name| (*name).to_owned()), add, drop)
}

/// A set of capabilities, more and fewer, in the order of their numbers.
pub(crate) fn adjust(base: impl Iterator<Item = String>, add: &[String], drop: &[String]) -> Vec<String> {
    let is_in = |list: &[String], name: &str| list.iter().any(|other| other == name || other == "ALL");
    let base: Vec<String> = base.collect();
    ALL.iter()
        .filter(|name| {
            let kept = base.iter().any(|other| other == *name) && !is_in(drop, name);
            kept || is_in(add, name)
        })
        .map(|name| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_default_has_no_way_to_make_devices_or_raw_packets() {
        let set = default_set(&[], &[]);
        assert_eq!(set.len(), DEFAULT.len());
        assert!(!set.contains(&"CAP_MKNOD".to_owned()) && !set.contains(&"CAP_NET_RAW".to_owned()));
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        assert_eq!(default_set(&names(&["CAP_NET_RAW"]), &names(&["ALL"])), ["CAP_NET_RAW"]);
        assert_eq!(default_set(&names(&["ALL"]), &[]).len(), ALL.len());
    }

    #[test]
    fn names_are_read_in_any_form() {
        assert_eq!(full_name("net_raw").as_deref(), Some("CAP_NET_RAW"));
        assert_eq!(full_name("cap_net_raw").as_deref(), Some("CAP_NET_RAW"));
        assert_eq!(full_name("all").as_deref(), Some("ALL"));
        assert_eq!(full_name("CAP_"), None);
    }
}
