//! Limits of a cgroup that is there: read, and written where no runtime does it.

use std::io;
use std::path::{Path, PathBuf};

use super::ControllerDirectory::{V1, V2};
use super::memory::read_number;
use super::{CgroupPath, Cgroups, ControllerDirectory};
use crate::error::{Code, Diagnose};
use crate::request::{CPU_PERIOD_US, Limits};

/// A limit that does not hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
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
        put(&of("memory")?.file("memory.limit_in_bytes", "memory.max"), &bytes.to_string())?;
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
    if let Some(pids) = limits.pids {
        let text = if pids < 0 { "max".to_owned() } else { pids.to_string() };
        put(&of("pids")?.file("pids.max", "pids.max"), &text)?;
    }
    Ok(())
}

/// Reads the limits that hold. What is not limited, or cannot be read, is `None`; no limit of processes is -1.
pub(crate) fn read(cgroups: &Cgroups, path: &CgroupPath) -> Limits {
    let of = |controller| cgroups.directory_of(path, controller);
    Limits {
        memory_bytes: of("memory").and_then(|directory| directory.read_memory_limit()),
        cpu_quota_us: of("cpu").and_then(|directory| read_quota(&directory)),
        pids: of("pids").and_then(|directory| {
            let text = std::fs::read_to_string(directory.file("pids.max", "pids.max")).ok()?;
            if text.trim() == "max" { Some(-1) } else { text.trim().parse().ok() }
        }),
    }
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
    // The kernel counts in pages.
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let memory = wanted.memory_bytes.map(|bytes| bytes - bytes % page);
    expect("memory", memory, found.memory_bytes)?;
    expect("CPU time", wanted.cpu_quota_us, found.cpu_quota_us)?;
    expect("processes", wanted.pids, found.pids)?;
    Ok(Limits {
        memory_bytes: memory.and(found.memory_bytes),
        cpu_quota_us: wanted.cpu_quota_us.and(found.cpu_quota_us),
        pids: wanted.pids.and(found.pids),
    })
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
    use crate::id::ContainerId;

    /// A v2 hierarchy of plain files with one cgroup.
    fn hierarchy(folder: &Path) -> (Cgroups, CgroupPath, PathBuf) {
        let mountinfo = format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw\n", folder.display());
        let cgroups = Cgroups::from_mountinfo(&mountinfo, |_| ["memory", "cpu"].map(str::to_owned).to_vec());
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
        let limits = Limits { memory_bytes: Some(64 << 20), cpu_quota_us: Some(150_000), pids: None };
        write(&cgroups, &path, &limits).unwrap();
        assert_eq!(std::fs::read_to_string(directory.join("cpu.max")).unwrap(), "150000 100000");
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
