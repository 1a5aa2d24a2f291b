//! The files of cgroup v2.

use std::path::Path;

use super::{CpuStats, IoStats, MemoryStats, Pressure, Pressures};
use crate::cgroup::memory::{FlatKeyed, read_number};

pub(super) fn cpu(directory: &Path) -> Option<CpuStats> {
    let counted = FlatKeyed::read(&directory.join("cpu.stat"))?;
    Some(CpuStats {
        usage_us: counted.find("usage_usec")?,
        user_us: counted.get("user_usec"),
        system_us: counted.get("system_usec"),
        throttled_us: counted.get("throttled_usec"),
        throttled_periods: counted.get("nr_throttled"),
    })
}

/// What is called otherwise in v1, or counted in another way.
pub(super) fn memory(directory: &Path) -> Option<MemoryStats> {
    let usage_bytes = read_number(&directory.join("memory.current"))?;
    let counted = FlatKeyed::read(&directory.join("memory.stat"))?;
    Some(MemoryStats {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(counted.get("inactive_file")),
        swap_bytes: read_number(&directory.join("memory.swap.current")),
        anonymous_bytes: counted.get("anon"),
        file_bytes: counted.get("file"),
        ..MemoryStats::default()
    })
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`, one a device.
pub(super) fn io(directory: &Path) -> Option<IoStats> {
    let text = std::fs::read_to_string(directory.join("io.stat")).ok()?;
    let sum_of = |key: &str| {
        let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
        pairs.filter(|(name, _)| *name == key).filter_map(|(_, number)| number.parse::<u64>().ok()).sum()
    };
    Some(IoStats {
        read_bytes: sum_of("rbytes"),
        write_bytes: sum_of("wbytes"),
        reads: sum_of("rios"),
        writes: sum_of("wios"),
    })
}

pub(super) fn pressures(directory: &Path) -> Option<Pressures> {
    let of =
        |file: &str| std::fs::read_to_string(directory.join(file)).ok().map(|text| parse_pressure(&text));
    Some(Pressures { cpu: of("cpu.pressure")?, memory: of("memory.pressure")?, io: of("io.pressure")? })
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same with `full`.
fn parse_pressure(text: &str) -> Pressure {
    let field = |kind: &str, key: &str| {
        let line = text.lines().find(|line| line.split(' ').next() == Some(kind))?;
        line.split(' ')
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    };
    let average = |kind| field(kind, "avg10").and_then(|value| value.parse().ok()).unwrap_or_default();
    let total = |kind| field(kind, "total").and_then(|value| value.parse().ok()).unwrap_or_default();
    Pressure {
        some_avg10: average("some"),
        some_us: total("some"),
        full_avg10: average("full"),
        full_us: total("full"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_kernel_are_understood() {
        // Verbatim from kernel 6.12, shortened.
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 15\nuser_usec 10\nsystem_usec 5\nnr_throttled 2\nthrottled_usec 7\n");
        let cpu = cpu(folder.path()).unwrap();
        assert_eq!((cpu.usage_us, cpu.user_us, cpu.throttled_us, cpu.throttled_periods), (15, 10, 7, 2));
        write("memory.current", "10000\n");
        write("memory.stat", "anon 3000\nfile 5000\ninactive_file 4000\n");
        write("memory.max", "max\n");
        write("memory.swap.current", "0\n");
        write("memory.events", "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n");
        let directory = crate::cgroup::ControllerDirectory::V2(folder.path().into());
        let memory = crate::cgroup::stats::read_memory(&directory).unwrap();
        assert_eq!((memory.working_set_bytes, memory.limit_bytes, memory.swap_bytes), (6000, None, Some(0)));
        assert_eq!((memory.oom_kills, memory.peak_bytes), (1, None));
        write(
            "io.stat",
            "8:0 rbytes=4096 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=4 wbytes=0 rios=1 wios=0\n",
        );
        let io = io(folder.path()).unwrap();
        assert_eq!((io.read_bytes, io.write_bytes, io.reads, io.writes), (4100, 1, 2, 1));
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=120\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=20\n";
        for file in ["cpu.pressure", "memory.pressure", "io.pressure"] {
            write(file, text);
        }
        let pressures = pressures(folder.path()).unwrap();
        assert_eq!((pressures.io.some_avg10, pressures.io.full_us), (1.5, 20));
        assert!(super::io(Path::new("/nonexistent")).is_none());
    }
}
