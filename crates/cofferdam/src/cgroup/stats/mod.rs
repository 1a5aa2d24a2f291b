//! What a container uses now: one pass over the files of its cgroup, and of its network namespace.
//!
//! All counters grow from the container's start; a rate is the difference of two readings. A cgroup counts whatever is in
//! it. Under runc that is the container. Under gVisor it is the sandbox: the guest's memory and CPU time and the
//! sentry's and the gofer's own, and threads of theirs as pids.

mod v1;
mod v2;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ControllerDirectory::{V1, V2};
use super::memory::read_number;
use super::{CgroupPath, Cgroups, ControllerDirectory};

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
    let of = |controller| cgroups.directory_of(path, controller);
    Stats {
        read: Timestamp::now(),
        cpu: match cpu_directory(cgroups, path) {
            Some(V1(counted)) => v1::cpu(&counted, of("cpu")),
            Some(V2(directory)) => v2::cpu(&directory),
            None => None,
        },
        memory: of("memory").and_then(|directory| read_memory(&directory)),
        pids: of("pids").and_then(|directory| read_pids(&directory)),
        io: match of("blkio").or_else(|| of("io")) {
            Some(V1(directory)) => v1::io(&directory),
            Some(V2(directory)) => v2::io(&directory),
            None => None,
        },
        network: pid
            .and_then(|pid| parse_network(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?)),
        pressure: match of("cpu") {
            Some(V2(directory)) => v2::pressures(&directory),
            _ => None,
        },
    }
}

/// CPU time of all processes so far, in microseconds; `None` where it is not counted.
pub(crate) fn cpu_usage_us(cgroups: &Cgroups, path: &CgroupPath) -> Option<u64> {
    match cpu_directory(cgroups, path)? {
        V1(directory) => v1::cpu_usage_us(&directory),
        V2(directory) => v2::cpu(&directory).map(|cpu| cpu.usage_us),
    }
}

/// Where CPU time is counted.
fn cpu_directory(cgroups: &Cgroups, path: &CgroupPath) -> Option<ControllerDirectory> {
    cgroups.directory_of(path, "cpuacct").or_else(|| cgroups.directory_of(path, "cpu"))
}

/// What a container uses of memory; `None` when its cgroup is gone.
pub(super) fn read_memory(directory: &ControllerDirectory) -> Option<MemoryStats> {
    let memory = match directory {
        V1(path) => v1::memory(path)?,
        V2(path) => v2::memory(path)?,
    };
    Some(MemoryStats {
        limit_bytes: directory.read_memory_limit(),
        peak_bytes: directory.read_memory_peak(),
        oom_kills: directory.read_kills().unwrap_or_default(),
        ..memory
    })
}

fn read_pids(directory: &ControllerDirectory) -> Option<PidStats> {
    let read = |name| read_number(&directory.file(name, name));
    // The text is "max" without a limit, which is no number.
    Some(PidStats { current: read("pids.current")?, limit: read("pids.max") })
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
