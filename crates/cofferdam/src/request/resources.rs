//! Limits that are set when a container is made, and how its memory and CPU time are enforced.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Limits, Refused, parse_memory, parse_size};
use crate::id::quote;

/// What a user asks for of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRequest {
    /// Tell when so much memory is in use: `90%` of the limit, or a size.
    pub memory_warn: Option<String>,
    /// What the kernel kills when memory runs out: `group` or `single`.
    pub oom_kill: Option<String>,
    /// Let it have all CPUs for this time after its start, in milliseconds, and its CPU quota from then on.
    pub cpu_boost_ms: Option<u64>,
    /// `DEVICE:BYTES` a second that are read at most.
    pub device_read_bps: Vec<String>,
    /// `DEVICE:BYTES` a second that are written at most.
    pub device_write_bps: Vec<String>,
    /// `DEVICE:NUMBER` of reads a second at most.
    pub device_read_iops: Vec<String>,
    /// `DEVICE:NUMBER` of writes a second at most.
    pub device_write_iops: Vec<String>,
    /// `PAGESIZE=BYTES` of huge pages at most.
    pub hugetlb: Vec<String>,
}

/// The same, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// When to tell that memory gets short.
    pub memory_warn: Option<MemoryThreshold>,
    /// What the kernel kills when memory runs out; `None` for what is right here.
    pub oom_kill: Option<OomKill>,
    /// For how long after the start there is no CPU quota.
    pub cpu_boost: Option<Duration>,
    /// How fast devices may be read and written.
    pub device_rates: Vec<DeviceRate>,
    /// How many huge pages there may be.
    pub hugepages: Vec<HugepageLimit>,
}

/// How much memory in use is worth a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryThreshold {
    /// So many hundredths of the limit.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

impl MemoryThreshold {
    /// In bytes, under this limit; never more than it.
    #[must_use]
    pub fn bytes(self, limit: u64) -> u64 {
        match self {
            Self::Percent(percent) => limit / 100 * u64::from(percent),
            Self::Bytes(bytes) => bytes.min(limit),
        }
    }
}

impl FromStr for MemoryThreshold {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let option = "--memory-warn";
        let Some(percent) = text.strip_suffix('%') else {
            return parse_memory(option, text).map(Self::Bytes);
        };
        match percent.parse() {
            Ok(percent @ 1..=99) => Ok(Self::Percent(percent)),
            _ => Err(Refused::new(option, format!("{} is not 1% to 99%, nor a size", quote(text)))),
        }
    }
}

/// What the kernel kills when a container's memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OomKill {
    /// All of it at once (`memory.oom.group`).
    Group,
    /// The one process that is the worst.
    Single,
}

impl FromStr for OomKill {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        match text {
            "group" => Ok(Self::Group),
            "single" => Ok(Self::Single),
            _ => Err(Refused::new("--oom-kill", format!("{} is neither group nor single", quote(text)))),
        }
    }
}

/// Who makes a container's cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupManager {
    /// The runtime, by making directories.
    #[default]
    Cgroupfs,
    /// systemd, as a scope, when the runtime asks it to.
    Systemd,
}

impl FromStr for CgroupManager {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        match text {
            "cgroupfs" => Ok(Self::Cgroupfs),
            "systemd" => Ok(Self::Systemd),
            _ => Err(Refused::new(
                "--cgroup-manager",
                format!("{} is neither cgroupfs nor systemd", quote(text)),
            )),
        }
    }
}

impl CgroupManager {
    /// Checks a parent of the container's cgroup: an absolute path, or a slice of systemd.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn check_parent(self, parent: String) -> Result<String, Refused> {
        let is_right = match self {
            Self::Cgroupfs => {
                parent.starts_with('/')
                    && !parent.contains('\0')
                    && !parent.split('/').any(|part| part == "..")
            }
            Self::Systemd => is_slice(&parent),
        };
        if is_right {
            return Ok(parent);
        }
        let what = match self {
            Self::Cgroupfs => "an absolute path of a cgroup without `..`",
            Self::Systemd => "a slice, such as system.slice: systemd makes the cgroup",
        };
        Err(Refused::new("--cgroup-parent", format!("{} is not {what}", quote(&parent))))
    }
}

/// Whether systemd would take it for a slice's name: each part between hyphens is a slice in the one before.
fn is_slice(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:\\".contains(&b);
    let Some(stem) = name.strip_suffix(".slice") else { return false };
    stem.split('-').all(|part| !part.is_empty() && part.bytes().all(allowed))
}

/// How fast a device may be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRate {
    /// The device's node on the host.
    pub device: PathBuf,
    /// What is limited, as the OCI specification names it: `throttleReadBpsDevice` and its kin.
    pub kind: &'static str,
    /// How much of it a second.
    pub rate: u64,
}

/// How many huge pages of a size there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageLimit {
    /// The size of a page, as the kernel names it: `2MB`.
    pub page_size: String,
    /// In bytes.
    pub limit_bytes: u64,
}

impl fmt::Display for HugepageLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.page_size, self.limit_bytes)
    }
}

impl Resources {
    /// Reads them as a user writes them.
    ///
    /// # Errors
    /// [`Refused`] names the first value that cannot be right.
    pub(super) fn parse(request: &ResourceRequest, limits: &Limits) -> Result<Self, Refused> {
        let boost = request.cpu_boost_ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        if boost.is_some() && limits.cpu_quota_us.is_none() {
            return Err(Refused::new("--cpu-boost", "it delays the quota of --cpus, which is not given"));
        }
        let mut device_rates = Vec::new();
        for (option, kind, texts) in [
            ("--device-read-bps", "throttleReadBpsDevice", &request.device_read_bps),
            ("--device-write-bps", "throttleWriteBpsDevice", &request.device_write_bps),
            ("--device-read-iops", "throttleReadIOPSDevice", &request.device_read_iops),
            ("--device-write-iops", "throttleWriteIOPSDevice", &request.device_write_iops),
        ] {
            for text in texts {
                let parsed = device_rate(text, kind, option.ends_with("bps"));
                device_rates.push(parsed.map_err(|why| Refused::new(option, why))?);
            }
        }
        Ok(Self {
            memory_warn: request.memory_warn.as_deref().map(str::parse).transpose()?,
            oom_kill: request.oom_kill.as_deref().map(str::parse).transpose()?,
            cpu_boost: boost,
            device_rates,
            hugepages: request.hugetlb.iter().map(|text| hugepage_limit(text)).collect::<Result<_, _>>()?,
        })
    }
}

fn device_rate(text: &str, kind: &'static str, is_size: bool) -> Result<DeviceRate, String> {
    let error = || format!("{} is not DEVICE:RATE, such as /dev/sda:10m", quote(text));
    let (device, rate) = text.rsplit_once(':').ok_or_else(error)?;
    // cgroup v1 cuts a longer number of operations off.
    let rate = if is_size { parse_size(rate)? } else { rate.parse::<u32>().map_err(|_| error())?.into() };
    if !device.starts_with('/') || device.contains('\0') || rate == 0 {
        return Err(error());
    }
    Ok(DeviceRate { device: device.into(), kind, rate })
}

fn hugepage_limit(text: &str) -> Result<HugepageLimit, Refused> {
    let refused = |why: String| Refused::new("--hugetlb-limit", why);
    let error = || refused(format!("{} is not PAGESIZE=SIZE, such as 2MB=64m", quote(text)));
    let (page_size, limit) = text.split_once('=').ok_or_else(error)?;
    let digits = page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number || !matches!(&page_size[digits.len()..], "KB" | "MB" | "GB") {
        return Err(error());
    }
    let limit_bytes = parse_size(limit).map_err(refused)?;
    Ok(HugepageLimit { page_size: page_size.into(), limit_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_hundredths_or_sizes() {
        let parse = str::parse::<MemoryThreshold>;
        assert_eq!(parse("90%").unwrap().bytes(100 << 20), 90 << 20);
        assert_eq!(parse("64m").unwrap().bytes(100 << 20), 64 << 20);
        assert_eq!(parse("1g").unwrap().bytes(100 << 20), 100 << 20);
        for text in ["", "%", "0%", "100%", "-1%", "1.5%", "x", "1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parents_are_paths_or_slices() {
        let is_right = |manager: CgroupManager, parent: &str| manager.check_parent(parent.into()).is_ok();
        assert!(is_right(CgroupManager::Cgroupfs, "/a/b") && !is_right(CgroupManager::Cgroupfs, "a.slice"));
        assert!(!is_right(CgroupManager::Cgroupfs, "/a/../b"));
        for slice in ["system.slice", "a-b.slice"] {
            assert!(is_right(CgroupManager::Systemd, slice), "{slice}");
        }
        for wrong in [
            "/system.slice",
            "system",
            ".slice",
            "-.slice",
            "a--b.slice",
            "a-.slice",
            "a/b.slice",
            "a b.slice",
        ] {
            assert!(!is_right(CgroupManager::Systemd, wrong), "{wrong}");
        }
    }

    #[test]
    fn what_is_set_at_the_making_is_checked() {
        let request = ResourceRequest {
            device_read_bps: vec!["/dev/sda:10m".into()],
            device_write_iops: vec!["/dev/disk/by-id/a:b:300".into()],
            hugetlb: vec!["2MB=64m".into()],
            ..ResourceRequest::default()
        };
        let resources = Resources::parse(&request, &Limits::default()).unwrap();
        let kinds: Vec<_> = resources.device_rates.iter().map(|rate| (rate.kind, rate.rate)).collect();
        assert_eq!(kinds, [("throttleReadBpsDevice", 10 << 20), ("throttleWriteIOPSDevice", 300)]);
        assert_eq!(resources.hugepages[0].to_string(), format!("2MB={}", 64 << 20));
        let refused = |change: fn(&mut ResourceRequest)| {
            let mut request = ResourceRequest::default();
            change(&mut request);
            assert!(Resources::parse(&request, &Limits::default()).is_err(), "{request:?}");
        };
        refused(|request| request.device_read_bps = vec!["sda:10m".into()]);
        refused(|request| request.device_read_iops = vec!["/dev/sda:0".into()]);
        refused(|request| request.device_write_iops = vec!["/dev/sda:1m".into()]);
        refused(|request| request.device_write_iops = vec!["/dev/sda:4294967296".into()]);
        refused(|request| request.hugetlb = vec!["2M=64m".into()]);
        refused(|request| request.hugetlb = vec!["MB=64m".into()]);
        refused(|request| request.oom_kill = Some("all".into()));
        refused(|request| request.cpu_boost_ms = Some(1000));
    }
}
