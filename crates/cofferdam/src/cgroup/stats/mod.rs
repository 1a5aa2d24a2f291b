//! What a container uses now: one pass over the files of its cgroup, and of its network namespace.
//!
//! All counters grow from the container's start; a rate is the difference of two readings. A cgroup counts whatever is in
//! it. Under runc that is the container. Under gVisor it is the sandbox: the guest's memory and CPU time and the
//! sentry's and the gofer's own, and threads of theirs as pids.

mod v1;
mod v2;

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CgroupPath, Cgroups};

/// One reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// When it was read.
    pub read: Timestamp,
    /// CPU time; `None` where it is not counted.
    pub cpu: Option<CpuStats>,
    /// Memory; `None` where it is not counted.
    pub memory: Option<MemoryStats>,
    /// Processes and threads; `None` where they are not counted.
    pub pids: Option<PidStats>,
    /// Block devices; `None` where they are not counted.
    pub io: Option<IoStats>,
    /// Its network devices but the loopback, added up; `None` where it has the host's network.
    pub network: Option<NetworkStats>,
    /// How long it had to wait for something; `None` under v1, and of a kernel without PSI.
    pub pressure: Option<Pressures>,
}

/// CPU time of all processes, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    /// All of it.
    pub usage_us: u64,
    /// In programs (v1: in steps of 10 ms).
    pub user_us: u64,
    /// In the kernel (v1: in steps of 10 ms).
    pub system_us: u64,
    /// How long it was held back by its quota, added up over the CPUs.
    pub throttled_us: u64,
    /// In how many periods it was.
    pub throttled_periods: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// What is charged to it, file pages that nobody uses included.
    pub usage_bytes: u64,
    /// What the kernel cannot take back without harm, as Kubernetes counts it: the usage without inactive file pages.
    pub working_set_bytes: u64,
    /// The limit; `None` without one.
    pub limit_bytes: Option<u64>,
    /// The most that was charged at once; `None` where it is not kept (v2 before 5.19).
    pub peak_bytes: Option<u64>,
    /// Of it in swap; `None` where that is not counted.
    pub swap_bytes: Option<u64>,
    /// Anonymous memory: heaps, stacks, and under gVisor the guest's own.
    pub anonymous_bytes: u64,
    /// File pages.
    pub file_bytes: u64,
    /// Out-of-memory kills.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidStats {
    /// How many there are. Under gVisor those of the host: threads of the sandbox, not the guest's processes.
    pub current: u64,
    /// The limit; `None` without one.
    pub limit: Option<u64>,
}

/// What went to and from block devices. Writes into the page cache count when they reach the device: under v1 not at
/// all, but for those that wait for the device themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
}

/// What went over the network devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStats {
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets that came in and were dropped.
    pub received_dropped: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that were to go out and were dropped.
    pub sent_dropped: u64,
}

/// Pressure stall information of the cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressures {
    /// Waiting for a CPU.
    pub cpu: Pressure,
    /// Waiting for memory.
    pub memory: Pressure,
    /// Waiting for block devices.
    pub io: Pressure,
}

/// How long processes had to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Per cent of the last ten seconds in which some process waited.
    pub some_avg10: f64,
    /// The time in which some process waited, in microseconds.
    pub some_us: u64,
    /// Per cent of the last ten seconds in which all of them waited.
    pub full_avg10: f64,
    /// The time in which all of them waited, in microseconds.
    pub full_us: u64,
}

/// Reads what a container uses. `pid` is a process in its network namespace, where it has one of its own.
pub(crate) fn read(cgroups: &Cgroups, path: &CgroupPath, pid: Option<i32>) -> Stats {
    let v1 = |controller: &str| cgroups.v1_directory(path, controller);
    let v2 = |controller: &str| cgroups.v2_directory(path, controller);
    Stats {
        read: Timestamp::now(),
        cpu: match v1("cpuacct") {
            Some(counted) => v1::cpu(&counted, v1("cpu").as_deref()),
            None => v2("cpu").and_then(|directory| v2::cpu(&directory)),
        },
        memory: match v1("memory") {
            Some(directory) => v1::memory(&directory),
            None => v2("memory").and_then(|directory| v2::memory(&directory)),
        },
        // The same files in both.
        pids: v1("pids").or_else(|| v2("pids")).and_then(|directory| read_pids(&directory)),
        io: match v1("blkio") {
            Some(directory) => v1::io(&directory),
            None => v2("io").and_then(|directory| v2::io(&directory)),
        },
        network: pid.and_then(|pid| read_network(Path::new(&format!("/proc/{pid}/net/dev")))),
        pressure: v2("cpu").and_then(|directory| v2::pressures(&directory)),
    }
}

fn read_pids(directory: &Path) -> Option<PidStats> {
    let current = super::memory::read_number(&directory.join("pids.current"))?;
    // The text is "max" without a limit, which is no number.
    Some(PidStats { current, limit: super::memory::read_number(&directory.join("pids.max")) })
}

fn read_network(file: &Path) -> Option<NetworkStats> {
    parse_network(&std::fs::read_to_string(file).ok()?)
}

/// Adds up the devices of a `/proc/net/dev`.
fn parse_network(text: &str) -> Option<NetworkStats> {
    let mut sum = NetworkStats::default();
    for line in text.lines().skip(2) {
        let (name, counters) = line.split_once(':')?;
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = counters.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let [
            received_bytes,
            received_packets,
            _,
            received_dropped,
            _,
            _,
            _,
            _,
            sent_bytes,
            sent_packets,
            _,
            sent_dropped,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        sum.received_bytes += received_bytes;
        sum.received_packets += received_packets;
        sum.received_dropped += received_dropped;
        sum.sent_bytes += sent_bytes;
        sum.sent_packets += sent_packets;
        sum.sent_dropped += sent_dropped;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_devices_are_added_up_without_the_loopback() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1000       9    0    0    0     0          0         0     1000       9    0    0    0     0       0          0
  eth0:     500       5    0    1    0     0          0         0       40       4    0    2    0     0       0          0
  eth1:      10       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0
";
        let stats = parse_network(text).unwrap();
        assert_eq!((stats.received_bytes, stats.sent_bytes), (510, 41));
        assert_eq!((stats.received_packets, stats.received_dropped, stats.sent_dropped), (6, 1, 2));
        assert_eq!(parse_network("a\nb\nc"), None);
        assert_eq!(parse_network(""), Some(NetworkStats::default()));
    }
}
