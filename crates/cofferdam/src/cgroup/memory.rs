//! What the memory controller counted: the evidence of an out-of-memory kill.
//!
//! The kernel counts a kill before it sends the signal (`memcg_memory_event_mm` in `__oom_kill_process`, since 4.19),
//! so a counter that is read after the death has it. It must be read before the cgroup is removed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MemoryDirectory;

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
}

/// Values of a v1 limit file that mean "no limit": the kernel rounds `u64::MAX / 2` down to pages.
pub(super) const V1_NO_LIMIT: u64 = 0x7fff_ffff_ffff_0000;

impl MemoryDirectory {
    /// The kills that were counted; `None` when the cgroup is gone.
    pub(crate) fn read_kills(&self) -> Option<u64> {
        let file = match self {
            Self::V1(directory) => directory.join("memory.oom_control"),
            Self::V2(directory) => directory.join("memory.events"),
        };
        parse_flat_keyed(&std::fs::read_to_string(file).ok()?, "oom_kill")
    }

    /// Reads the counters; `None` when the cgroup is gone or its files are not understood.
    #[must_use]
    pub fn read(&self) -> Option<MemoryCounters> {
        match self {
            Self::V1(directory) => {
                let file = directory.join("memory.oom_control");
                let oom_kill = parse_flat_keyed(&std::fs::read_to_string(&file).ok()?, "oom_kill")?;
                Some(MemoryCounters {
                    file,
                    oom_kill,
                    limit_bytes: read_number(&directory.join("memory.limit_in_bytes"))
                        .filter(|limit| *limit < V1_NO_LIMIT),
                    peak_bytes: read_number(&directory.join("memory.max_usage_in_bytes")),
                })
            }
            Self::V2(directory) => {
                let file = directory.join("memory.events");
                let oom_kill = parse_flat_keyed(&std::fs::read_to_string(&file).ok()?, "oom_kill")?;
                Some(MemoryCounters {
                    file,
                    oom_kill,
                    // The text is "max" without a limit, which is no number.
                    limit_bytes: read_number(&directory.join("memory.max")),
                    peak_bytes: read_number(&directory.join("memory.peak")),
                })
            }
        }
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
        let counters = MemoryDirectory::V1(directory.path().into()).read().unwrap();
        assert_eq!((counters.oom_kill, counters.limit_bytes, counters.peak_bytes), (2, None, Some(4096)));
        write("memory.events", "oom_kill 0\n");
        write("memory.max", "67108864\n");
        let counters = MemoryDirectory::V2(directory.path().into()).read().unwrap();
        assert_eq!((counters.oom_kill, counters.limit_bytes, counters.peak_bytes), (0, Some(64 << 20), None));
        assert!(MemoryDirectory::V2("/nonexistent".into()).read().is_none());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", key in "[a-z_]{0,12}") {
            let _ = parse_flat_keyed(&text, &key);
        }
    }
}
