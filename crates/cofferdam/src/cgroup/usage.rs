//! What a container used in its life, read once before its cgroup goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::memory::{parse_flat_keyed, read_number};
use super::{ContainerCgroup, MemoryCounters};

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

/// Reads the usage; what is not there is left out.
pub(crate) fn read_usage(cgroup: &ContainerCgroup, memory: Option<&MemoryCounters>) -> Usage {
    let cpu = cgroup.cpu.as_deref();
    let v1 = cpu
        .and_then(|directory| read_number(&directory.join("cpuacct.usage")))
        .and_then(|nanoseconds| u64::try_from(Duration::from_nanos(nanoseconds).as_micros()).ok());
    let v2 = || {
        let text = std::fs::read_to_string(cpu?.join("cpu.stat")).ok()?;
        parse_flat_keyed(&text, "usage_usec")
    };
    Usage { cpu_us: v1.or_else(v2), memory_peak_bytes: memory.and_then(|counters| counters.peak_bytes) }
}
