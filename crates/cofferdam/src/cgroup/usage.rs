//! What a container used in its life, read once before its cgroup goes.

use serde::{Deserialize, Serialize};

/// CPU time and memory of a whole container, its runtime's own processes included where they share the cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time of all processes, user and system, in microseconds. `None` where it was not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// The most memory in use at once, in bytes. `None` where it was not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
}
