//! Limits of a cgroup that is there: read, and written where no runtime does it.

use std::io;
use std::path::{Path, PathBuf};

use super::ControllerDirectory::{V1, V2};
use super::memory::{V1_NO_LIMIT, read_number};
use super::{CgroupPath, Cgroups, ControllerDirectory};
use crate::error::{Code, Diagnose};
use crate::request::{CPU_PERIOD_US, Limits, in_whole_pages};

/// A limit that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// No hierarchy has the controller.
    #[error("the {0} controller is not there")]
    NoController(&'static str),
    /// The kernel did not take it.
    #[error("{} could not be written", .file.display())]
    Refused {
        /// The file of the cgroup.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was taken, and something else is read back.
    #[error("the limit of {what} is {}, and {wanted} was asked for", .found.as_deref().unwrap_or("none"))]
    Different {
        /// Of what.
        what: &'static str,
        /// What was to be.
        wanted: String,
        /// What is.
        found: Option<String>,
    },
}

impl Diagnose for LimitError {
    fn code(&self) -> Code {
        Code::CgroupUnavailable
    }

    fn next_step(&self) -> Option<String> {
        let Self::Refused { file, source } = self else {
            return Some("`cofferdam doctor` says what is there".into());
        };
        let is_in_use =
            source.kind() == io::ErrorKind::ResourceBusy && file.to_string_lossy().contains("memory");
        is_in_use.then(|| "more than that is in use, and the kernel cannot take it back: `cofferdam stats` says how much".into())
    }
}

/// Writes limits into the files of a container's cgroup.
pub(crate) fn write(cgroups: &Cgroups, path: &CgroupPath, limits: &Limits) -> Result<(), LimitError> {
    let of = |controller| cgroups.directory_of(path, controller).ok_or(LimitError::NoController(controller));
    if let Some(bytes) = limits.memory_bytes {
        write_memory(&of("memory")?, bytes, limits.memory_swap_bytes)?;
    }
    if let Some(quota) = limits.cpu_quota_us {
        match of("cpu")? {
            V1(directory) => {
                put(&directory.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
                put(&directory.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
            V2(directory) => put(&directory.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?,
        }
    }
    match limits.cpu_shares.map(|shares| Ok((of("cpu")?, shares))).transpose()? {
        Some((V1(directory), shares)) => put(&directory.join("cpu.shares"), &shares.to_string())?,
        Some((V2(directory), shares)) => put(&directory.join("cpu.weight"), &weight(shares).to_string())?,
        None => {}
    }
    for (file, list) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)] {
        if let Some(list) = list {
            put(&of("cpuset")?.file(file, file), list)?;
        }
    }
    if let Some(pids) = limits.pids {
        put(&of("pids")?.file("pids.max", "pids.max"), &or_max(pids))?;
    }
    Ok(())
}

/// Lets it have all CPU time that there is.
pub(crate) fn lift_quota(cgroups: &Cgroups, path: &CgroupPath) -> Result<(), LimitError> {
    match cgroups.directory_of(path, "cpu").ok_or(LimitError::NoController("cpu"))? {
        V1(directory) => put(&directory.join("cpu.cfs_quota_us"), "-1"),
        V2(directory) => put(&directory.join("cpu.max"), &format!("max {CPU_PERIOD_US}")),
    }
}

/// Memory, and swap with it. Under v1 the one may never be more than the two together, not for a moment.
fn write_memory(directory: &ControllerDirectory, bytes: u64, swap: Option<i64>) -> Result<(), LimitError> {
    match (directory, swap) {
        (_, None) => put(&directory.memory_limit_file(), &bytes.to_string()),
        (V1(path), Some(swap)) => {
            let both = path.join("memory.memsw.limit_in_bytes");
            let mut files =
                [(directory.memory_limit_file(), bytes.to_string()), (both.clone(), swap.to_string())];
            if read_number(&both).is_some_and(|limit| limit < bytes) {
                files.reverse();
            }
            files.iter().try_for_each(|(file, text)| put(file, text))
        }
        (V2(path), Some(swap)) => {
            put(&directory.memory_limit_file(), &bytes.to_string())?;
            put(&path.join("memory.swap.max"), &or_max(if swap < 0 { swap } else { alone(swap, bytes) }))
        }
    }
}

/// Whether all of the cgroup dies at once when memory runs out; `None` under v1, which cannot.
pub(crate) fn read_oom_group(cgroups: &Cgroups, path: &CgroupPath) -> Option<String> {
    let V2(directory) = cgroups.directory_of(path, "memory")? else { return None };
    Some(std::fs::read_to_string(directory.join("memory.oom.group")).ok()?.trim().to_owned())
}

/// Puts it back as it was read.
pub(crate) fn write_oom_group(
    cgroups: &Cgroups,
    path: &CgroupPath,
    group: Option<String>,
) -> Result<(), LimitError> {
    let Some((V2(directory), group)) = cgroups.directory_of(path, "memory").zip(group) else { return Ok(()) };
    put(&directory.join("memory.oom.group"), &group)
}

/// Swap alone, of memory and swap together.
fn alone(both: i64, memory: u64) -> i64 {
    both.saturating_sub_unsigned(memory).max(0)
}

fn or_max(number: i64) -> String {
    if number < 0 { "max".to_owned() } else { number.to_string() }
}

/// The weight of v2 for shares of v1, as runc 1.1 and the kubelet convert it: 2 to 262144 becomes 1 to 10000.
const fn weight(shares: u64) -> u64 {
    1 + (shares.saturating_sub(2) * 9999) / 262_142
}

/// Reads the limits that hold. What is not limited, or cannot be read, is `None`; no limit of processes, or of swap,
/// is -1. Shares of CPU time are not read: runtimes convert them to weights of v2 in several ways.
pub(crate) fn read(cgroups: &Cgroups, path: &CgroupPath) -> Limits {
    let of = |controller| cgroups.directory_of(path, controller);
    let text = |controller, file: &str| {
        let text = std::fs::read_to_string(of(controller)?.file(file, file)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    Limits {
        memory_bytes: of("memory").and_then(|directory| directory.read_memory_limit()),
        memory_swap_bytes: of("memory").and_then(|directory| read_swap(&directory)),
        cpu_quota_us: of("cpu").and_then(|directory| read_quota(&directory)),
        cpu_shares: None,
        cpuset_cpus: text("cpuset", "cpuset.cpus"),
        cpuset_mems: text("cpuset", "cpuset.mems"),
        pids: text("pids", "pids.max")
            .and_then(|text| if text == "max" { Some(-1) } else { text.parse().ok() }),
    }
}

/// Memory and swap together in bytes, or -1; `None` where swap is not counted.
fn read_swap(directory: &ControllerDirectory) -> Option<i64> {
    let text =
        std::fs::read_to_string(directory.file("memory.memsw.limit_in_bytes", "memory.swap.max")).ok()?;
    let Ok(limit) = text.trim().parse::<u64>() else { return Some(-1) };
    let memory = if matches!(directory, V2(_)) { directory.read_memory_limit()? } else { 0 };
    if limit >= V1_NO_LIMIT { Some(-1) } else { i64::try_from(limit.saturating_add(memory)).ok() }
}

/// The CPU time in microseconds a period of ours, whatever the cgroup's own period is; `None` without a quota.
fn read_quota(directory: &ControllerDirectory) -> Option<u64> {
    let (quota, period) = match directory {
        // -1 without a quota, which is no number here.
        V1(path) => {
            (read_number(&path.join("cpu.cfs_quota_us"))?, read_number(&path.join("cpu.cfs_period_us"))?)
        }
        V2(path) => {
            let text = std::fs::read_to_string(path.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            // The text is "max" without a quota.
            (quota.parse().ok()?, period.parse().ok()?)
        }
    };
    quota.checked_mul(CPU_PERIOD_US)?.checked_div(period)
}

/// Makes sure that what was asked for holds; gives it as the kernel has it.
pub(crate) fn verify(cgroups: &Cgroups, path: &CgroupPath, wanted: &Limits) -> Result<Limits, LimitError> {
    let found = read(cgroups, path);
    let is_v2 = matches!(cgroups.directory_of(path, "memory"), Some(V2(_)));
    let wanted = in_pages(wanted, is_v2);
    expect("memory", wanted.memory_bytes, found.memory_bytes)?;
    expect("memory and swap", wanted.memory_swap_bytes, found.memory_swap_bytes)?;
    expect("CPU time", wanted.cpu_quota_us, found.cpu_quota_us)?;
    expect("CPUs", wanted.cpuset_cpus.as_ref(), found.cpuset_cpus.as_ref())?;
    expect("memory nodes", wanted.cpuset_mems.as_ref(), found.cpuset_mems.as_ref())?;
    expect("processes", wanted.pids, found.pids)?;
    Ok(wanted)
}

/// Limits as the kernel has them, which counts in pages: under v2 memory and swap each for itself.
pub(crate) fn in_pages(limits: &Limits, is_v2: bool) -> Limits {
    let swap = limits.memory_swap_bytes.map(|swap| match u64::try_from(swap) {
        Err(_) => swap,
        Ok(both) => {
            let memory = limits.memory_bytes.filter(|_| is_v2).unwrap_or(0);
            i64::try_from(in_whole_pages(memory) + in_whole_pages(both.saturating_sub(memory)))
                .unwrap_or(i64::MAX)
        }
    });
    Limits {
        memory_bytes: limits.memory_bytes.map(in_whole_pages),
        memory_swap_bytes: swap,
        ..limits.clone()
    }
}

fn expect<T: PartialEq + ToString>(
    what: &'static str,
    wanted: Option<T>,
    found: Option<T>,
) -> Result<(), LimitError> {
    match wanted {
        Some(wanted) if found.as_ref() != Some(&wanted) => {
            let (wanted, found) = (wanted.to_string(), found.map(|found| found.to_string()));
            Err(LimitError::Different { what, wanted, found })
        }
        _ => Ok(()),
    }
}

fn put(file: &Path, text: &str) -> Result<(), LimitError> {
    std::fs::write(file, text).map_err(|source| LimitError::Refused { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Delegation;
    use crate::id::ContainerId;

    /// A v2 hierarchy of plain files with one cgroup.
    fn hierarchy(folder: &Path) -> (Cgroups, CgroupPath, PathBuf) {
        let mountinfo = format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw\n", folder.display());
        let cgroups = Cgroups::from_mountinfo(&mountinfo, |_| Delegation::of_all(&["memory", "cpu"]));
        let id: ContainerId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let path = CgroupPath::of_container(&id, None);
        let directory = folder.join(path.as_str().trim_start_matches('/'));
        std::fs::create_dir(&directory).unwrap();
        (cgroups, path, directory)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (cgroups, path, directory) = hierarchy(folder.path());
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            memory_swap_bytes: Some(96 << 20),
            cpu_quota_us: Some(150_000),
            cpu_shares: Some(1024),
            ..Limits::default()
        };
        write(&cgroups, &path, &limits).unwrap();
        assert_eq!(std::fs::read_to_string(directory.join("cpu.max")).unwrap(), "150000 100000");
        assert_eq!(std::fs::read_to_string(directory.join("cpu.weight")).unwrap(), "39");
        assert_eq!(
            std::fs::read_to_string(directory.join("memory.swap.max")).unwrap(),
            (32 << 20).to_string()
        );
        assert_eq!(verify(&cgroups, &path, &limits).unwrap(), limits);
        std::fs::write(directory.join("cpu.max"), "75000 50000\n").unwrap();
        std::fs::write(directory.join("memory.max"), "max\n").unwrap();
        let found = read(&cgroups, &path);
        assert_eq!((found.cpu_quota_us, found.memory_bytes, found.pids), (Some(150_000), None, None));
    }

    #[test]
    fn what_does_not_hold_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (cgroups, path, directory) = hierarchy(folder.path());
        std::fs::write(directory.join("memory.max"), "4096\n").unwrap();
        let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
        let error = verify(&cgroups, &path, &limits).unwrap_err();
        assert_eq!(error.to_string(), "the limit of memory is 4096, and 67108864 was asked for");
        let limits = Limits { pids: Some(5), ..Limits::default() };
        assert!(matches!(write(&cgroups, &path, &limits), Err(LimitError::NoController("pids"))));
        // Rounded to pages, as the kernel does.
        let limits = Limits { memory_bytes: Some(4097), ..Limits::default() };
        assert_eq!(verify(&cgroups, &path, &limits).unwrap().memory_bytes, Some(4096));
    }
}
