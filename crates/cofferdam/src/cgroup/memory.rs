//! What the memory controller counted: the evidence of an out-of-memory kill.
//!
//! The kernel counts a kill before it sends the signal (`memcg_memory_event_mm` in `__oom_kill_process`, since 4.19),
//! so a counter that is read after the death has it. It must be read before the cgroup is removed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ControllerDirectory;
use crate::exit::is_default;

/// The memory controller's account of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCounters {
    /// The file that `oom_kill` was read from.
    pub file: PathBuf,
    /// Processes of this cgroup that the kernel's out-of-memory killer has killed.
    pub oom_kill: u64,
    /// The limit in bytes; `None` when there is none.
    pub limit_bytes: Option<u64>,
    /// The most memory that was in use at once, in bytes; `None` where the kernel does not keep it (v2 before 5.19).
    pub peak_bytes: Option<u64>,
    /// What of the limit is there for a sandbox itself, on top of what was asked for, in bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headroom_bytes: u64,
    /// Whose lack of memory the last kill was; `None` without a kill, or where nobody tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<OomScope>,
}

/// Whose lack of memory a kill was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OomScope {
    /// The container's own limit was reached.
    Own,
    /// That of a cgroup above it.
    Above {
        /// Which, as the kernel's log names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<String>,
        /// Its limit, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit_bytes: Option<u64>,
    },
    /// The machine had none left.
    Machine,
}

/// Values of a v1 limit file that mean "no limit": the kernel rounds `u64::MAX / 2` down to pages.
pub(super) const V1_NO_LIMIT: u64 = 0x7fff_ffff_ffff_0000;

impl ControllerDirectory {
    /// The out-of-memory kills that were counted; `None` when the cgroup is gone.
    pub(crate) fn read_kills(&self) -> Option<u64> {
        FlatKeyed::read(&self.kills_file())?.find("oom_kill")
    }

    /// Whether a kill was for this cgroup's own limit, or one below it: v2 counts that apart. `None` where nobody tells.
    pub(super) fn was_own_limit(&self) -> Option<bool> {
        let Self::V2(path) = self else { return None };
        FlatKeyed::read(&path.join("memory.events.local"))?.find("oom").map(|count| count > 0)
    }

    fn kills_file(&self) -> PathBuf {
        self.file("memory.oom_control", "memory.events")
    }

    pub(super) fn memory_limit_file(&self) -> PathBuf {
        self.file("memory.limit_in_bytes", "memory.max")
    }

    /// The limit of memory in bytes; `None` without one.
    pub(super) fn read_memory_limit(&self) -> Option<u64> {
        // Under v2 the text is "max" without a limit, which is no number.
        let limit = read_number(&self.memory_limit_file());
        limit.filter(|limit| *limit < V1_NO_LIMIT)
    }

    /// The most memory that was in use at once, in bytes; `None` where the kernel does not keep it (v2 before 5.19).
    pub(super) fn read_memory_peak(&self) -> Option<u64> {
        read_number(&self.file("memory.max_usage_in_bytes", "memory.peak"))
    }

    /// Reads the counters of the memory controller; `None` when the cgroup is gone or its files are not understood.
    #[must_use]
    pub fn read_memory(&self) -> Option<MemoryCounters> {
        Some(MemoryCounters {
            file: self.kills_file(),
            oom_kill: self.read_kills()?,
            limit_bytes: self.read_memory_limit(),
            peak_bytes: self.read_memory_peak(),
            headroom_bytes: 0,
            scope: None,
        })
    }
}

/// The text of a "flat keyed" cgroup file: lines of `key value`.
pub(super) struct FlatKeyed(String);

impl FlatKeyed {
    /// Reads a file; `None` where it is not there.
    pub(super) fn read(file: &Path) -> Option<Self> {
        std::fs::read_to_string(file).ok().map(Self)
    }

    /// The number of a key, if it has one.
    pub(super) fn find(&self, key: &str) -> Option<u64> {
        parse_flat_keyed(&self.0, key)
    }

    /// The number of a key; 0 for what this kernel does not count.
    pub(super) fn get(&self, key: &str) -> u64 {
        self.find(key).unwrap_or_default()
    }
}

/// Reads a file that holds one number.
pub(super) fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Finds the number of a key in a "flat keyed" cgroup file: lines of `key value`.
#[must_use]
pub fn parse_flat_keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kills_are_read_from_both_versions() {
        // Verbatim from kernel 6.18 (v1) and 6.12 (v2).
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(parse_flat_keyed(v1, "oom_kill"), Some(3));
        let v2 = "low 0\nhigh 0\nmax 123\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(parse_flat_keyed(v2, "oom_kill"), Some(1));
        assert_eq!(parse_flat_keyed(v2, "oom"), Some(1));
        assert_eq!(parse_flat_keyed("oom_kill\noom_kill x\n", "oom_kill"), None);
    }

    #[test]
    fn counters_come_from_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        write("memory.limit_in_bytes", "9223372036854771712\n");
        write("memory.max_usage_in_bytes", "4096\n");
        let counters = ControllerDirectory::V1(directory.path().into()).read_memory().unwrap();
        assert_eq!((counters.oom_kill, counters.limit_bytes, counters.peak_bytes), (2, None, Some(4096)));
        write("memory.events", "oom_kill 0\n");
        write("memory.max", "67108864\n");
        let counters = ControllerDirectory::V2(directory.path().into()).read_memory().unwrap();
        assert_eq!((counters.oom_kill, counters.limit_bytes, counters.peak_bytes), (0, Some(64 << 20), None));
        assert!(ControllerDirectory::V2("/nonexistent".into()).read_memory().is_none());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", key in "[a-z_]{0,12}") {
            let _ = parse_flat_keyed(&text, &key);
        }
    }
}
