//! The files of cgroup v1.

use std::path::Path;

use super::{CpuStats, IoStats, MemoryStats};
use crate::cgroup::ControllerDirectory;
use crate::cgroup::memory::{FlatKeyed, read_number};
use crate::proc::TICK_US;

/// `cpuacct.stat` is in ticks; the quota is another controller's, in nanoseconds.
pub(super) fn cpu(counted: &Path, limited: Option<ControllerDirectory>) -> Option<CpuStats> {
    let ticks = FlatKeyed::read(&counted.join("cpuacct.stat"))?;
    let in_us = |ticks: u64| ticks.saturating_mul(TICK_US);
    let quota = limited.and_then(|directory| FlatKeyed::read(&directory.file("cpu.stat", "cpu.stat")));
    let throttled = |key| quota.as_ref().map_or(0, |quota| quota.get(key));
    Some(CpuStats {
        usage_us: cpu_usage_us(counted)?,
        user_us: in_us(ticks.get("user")),
        system_us: in_us(ticks.get("system")),
        throttled_us: throttled("throttled_time") / 1000,
        throttled_periods: throttled("nr_throttled"),
    })
}

/// `cpuacct.usage` is in nanoseconds.
pub(super) fn cpu_usage_us(counted: &Path) -> Option<u64> {
    read_number(&counted.join("cpuacct.usage")).map(|nanoseconds| nanoseconds / 1000)
}

/// What is called otherwise in v2, or counted in another way.
pub(super) fn memory(directory: &Path) -> Option<MemoryStats> {
    let usage_bytes = read_number(&directory.join("memory.usage_in_bytes"))?;
    // Those with `total_` have the cgroups below in them.
    let counted = FlatKeyed::read(&directory.join("memory.stat"))?;
    let with_swap = read_number(&directory.join("memory.memsw.usage_in_bytes"));
    Some(MemoryStats {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(counted.get("total_inactive_file")),
        swap_bytes: with_swap.map(|both| both.saturating_sub(usage_bytes)),
        anonymous_bytes: counted.get("total_rss"),
        file_bytes: counted.get("total_cache"),
        ..MemoryStats::default()
    })
}

/// Lines of `8:0 Read 4096`, and a sum at the end.
pub(super) fn io(directory: &Path) -> Option<IoStats> {
    let sum_of = |file: &str, operation: &str| {
        let text = std::fs::read_to_string(directory.join(file)).ok()?;
        let numbers = text.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next() == Some(operation)).then(|| words.next()?.parse::<u64>().ok()).flatten()
        });
        Some(numbers.sum::<u64>())
    };
    let (bytes, requests) =
        ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive");
    Some(IoStats {
        read_bytes: sum_of(bytes, "Read")?,
        write_bytes: sum_of(bytes, "Write")?,
        reads: sum_of(requests, "Read")?,
        writes: sum_of(requests, "Write")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_kernel_are_understood() {
        // Verbatim from kernel 6.18, shortened.
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("cpuacct.usage", "1500000000\n");
        write("cpuacct.stat", "user 100\nsystem 50\n");
        write(
            "cpu.stat",
            "nr_periods 7\nnr_throttled 3\nthrottled_time 2000000\nnr_bursts 0\nburst_time 0\n",
        );
        let directory = ControllerDirectory::V1(folder.path().into());
        let cpu = cpu(folder.path(), Some(directory.clone())).unwrap();
        assert_eq!((cpu.usage_us, cpu.user_us, cpu.system_us), (1_500_000, 1_000_000, 500_000));
        assert_eq!((cpu.throttled_us, cpu.throttled_periods), (2000, 3));
        write("memory.usage_in_bytes", "10000\n");
        write("memory.stat", "inactive_file 1\ntotal_cache 5000\ntotal_rss 3000\ntotal_inactive_file 4000\n");
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        write("memory.limit_in_bytes", "9223372036854771712\n");
        let memory = crate::cgroup::stats::read_memory(&directory).unwrap();
        assert_eq!((memory.working_set_bytes, memory.limit_bytes, memory.swap_bytes), (6000, None, None));
        assert_eq!((memory.anonymous_bytes, memory.file_bytes, memory.oom_kills), (3000, 5000, 2));
        let text = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 0\n254:16 Read 1\n254:0 Total 12288\nTotal 12289\n";
        write("blkio.throttle.io_service_bytes_recursive", text);
        write("blkio.throttle.io_serviced_recursive", "Total 0\n");
        let io = io(folder.path()).unwrap();
        assert_eq!((io.read_bytes, io.write_bytes, io.reads), (4097, 8192, 0));
    }
}
