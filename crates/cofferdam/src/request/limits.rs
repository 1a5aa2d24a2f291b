//! Limits of a cgroup that can be changed while the container runs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Refused, parse_size};
use crate::id::quote;

/// The least memory limit, in bytes: docker's own floor. Below it runc's init is killed before it can say why.
pub const MEMORY_FLOOR_BYTES: u64 = 6 << 20;
/// Period of the CPU quota, in microseconds: the kernel's default.
pub const CPU_PERIOD_US: u64 = 100_000;
/// The most processes that Linux counts (`PID_MAX_LIMIT`).
const PIDS_LIMIT: i64 = 4 << 20;
/// The least CPU quota that the kernel takes, in microseconds a period.
const CPU_QUOTA_FLOOR_US: u64 = 1_000;
/// What the kernel takes as a weight of cgroup v1 (`MIN_SHARES`, `MAX_SHARES`).
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// Memory from here on is more than any machine has, and what cgroup v1 shows for none.
const MEMORY_CEILING_BYTES: u64 = 1 << 60;
/// The longest list of CPUs, in bytes: one that leaves every other of a thousand out is shorter.
const LIST_LIMIT_BYTES: usize = 8 << 10;
/// The highest number of a CPU or a memory node that is taken for one.
const HIGHEST_NODE: u32 = 8191;

/// Limits as a user writes them. What is `None` is not limited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitRequest {
    /// Memory, such as `64m`.
    pub memory: Option<String>,
    /// Memory and swap together, such as `128m`; -1 for no limit.
    pub memory_swap: Option<String>,
    /// How many CPUs' time, such as 1.5.
    pub cpus: Option<f64>,
    /// The weight against others when CPUs are short; 1024 is everybody's.
    pub cpu_shares: Option<u64>,
    /// The CPUs that it may run on, such as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// The memory nodes that it may have memory of, such as `0`.
    pub cpuset_mems: Option<String>,
    /// How many processes and threads; -1 for no limit.
    pub pids_limit: Option<i64>,
}

/// Limits that a cgroup enforces, and that can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together, in bytes; -1 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap_bytes: Option<i64>,
    /// CPU time, in microseconds a period of [`CPU_PERIOD_US`].
    pub cpu_quota_us: Option<u64>,
    /// The weight against others, as cgroup v1 has it: 1024 is everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// The CPUs that it may run on, as the kernel writes them: `0-3,7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes that it may have memory of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit.
    pub pids: Option<i64>,
}

impl Limits {
    /// Reads limits as a user writes them.
    ///
    /// # Errors
    /// [`Refused`] names the first value that cannot be right.
    pub fn parse(request: &LimitRequest) -> Result<Self, Refused> {
        let memory = request.memory.as_deref();
        let memory_bytes = memory.map(|text| parse_memory("--memory", text)).transpose()?;
        let list = |option: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(parse_list).transpose();
            parsed.map_err(|why| Refused::new(option, why))
        };
        let limits = Self {
            memory_bytes,
            memory_swap_bytes: request.memory_swap.as_deref().map(parse_swap).transpose()?,
            cpu_quota_us: request.cpus.map(cpu_quota).transpose()?,
            cpu_shares: request.cpu_shares.map(check_shares).transpose()?,
            cpuset_cpus: list("--cpuset-cpus", &request.cpuset_cpus)?,
            cpuset_mems: list("--cpuset-mems", &request.cpuset_mems)?,
            pids: request.pids_limit.map(check_pids).transpose()?,
        };
        limits.check_swap()?;
        Ok(limits)
    }

    /// Swap is counted together with memory, so it cannot be less.
    pub(crate) fn check_swap(&self) -> Result<(), Refused> {
        match (self.memory_bytes, self.memory_swap_bytes) {
            (Some(memory), Some(swap)) if swap >= 0 && swap.unsigned_abs() < memory => Err(Refused::new(
                "--memory-swap",
                format!(
                    "{swap} is less than the {memory} bytes of --memory, and is memory and swap together"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The limits that a specification's `linux.resources` has.
    pub(crate) fn of_resources(resources: &Value) -> Self {
        let number = |path: &str| resources.pointer(path).and_then(Value::as_i64);
        let count =
            |path: &str| number(path).and_then(|number| u64::try_from(number).ok()).filter(|n| *n > 0);
        let list = |path: &str| {
            let text = resources.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
            text.map(|text| parse_list(text).unwrap_or_else(|_| text.to_owned()))
        };
        let period = count("/cpu/period").unwrap_or(CPU_PERIOD_US);
        let quota = count("/cpu/quota").and_then(|quota| quota.checked_mul(CPU_PERIOD_US));
        Self {
            memory_bytes: count("/memory/limit"),
            memory_swap_bytes: number("/memory/swap").filter(|swap| *swap != 0),
            cpu_quota_us: quota.map(|quota| quota / period),
            cpu_shares: count("/cpu/shares"),
            cpuset_cpus: list("/cpu/cpus"),
            cpuset_mems: list("/cpu/mems"),
            pids: number("/pids/limit").filter(|pids| *pids > 0),
        }
    }

    /// These limits, with those of `newer` in place of the ones that it has.
    #[must_use]
    pub fn overlaid_with(&self, newer: &Self) -> Self {
        let newer = newer.clone();
        Self {
            memory_bytes: newer.memory_bytes.or(self.memory_bytes),
            memory_swap_bytes: newer.memory_swap_bytes.or(self.memory_swap_bytes),
            cpu_quota_us: newer.cpu_quota_us.or(self.cpu_quota_us),
            cpu_shares: newer.cpu_shares.or(self.cpu_shares),
            cpuset_cpus: newer.cpuset_cpus.or_else(|| self.cpuset_cpus.clone()),
            cpuset_mems: newer.cpuset_mems.or_else(|| self.cpuset_mems.clone()),
            pids: newer.pids.or(self.pids),
        }
    }

    /// These limits as a change of others that hold: what belongs together comes together.
    ///
    /// # Errors
    /// [`Refused`] when they do not go with what stays.
    pub(crate) fn as_change_of(&self, old: &Self) -> Result<Self, Refused> {
        let mut change = self.clone();
        if change.memory_bytes.is_none() && change.memory_swap_bytes.is_none() {
            return Ok(change);
        }
        change.memory_bytes = change.memory_bytes.or(old.memory_bytes);
        if change.memory_swap_bytes.is_none() && old.memory_swap_bytes != old.memory_bytes.map(twice) {
            change.memory_swap_bytes = old.memory_swap_bytes;
        }
        if change.memory_swap_bytes.is_some() && change.memory_bytes.is_none() {
            return Err(Refused::new("--memory-swap", "it needs a limit of memory: give --memory"));
        }
        change.check_swap()?;
        Ok(change)
    }

    /// As much swap as memory where nothing is said of it: docker's rule. Without a limit of its own, swap would make
    /// the limit of memory one of speed.
    #[must_use]
    pub(crate) fn with_default_swap(mut self) -> Self {
        self.memory_swap_bytes = self.memory_swap_bytes.or_else(|| self.memory_bytes.map(twice));
        self
    }

    /// These limits with more memory: what a sandbox needs itself.
    #[must_use]
    pub(crate) fn with_more_memory(mut self, bytes: u64) -> Self {
        let more = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory_bytes = self.memory_bytes.map(|limit| limit.saturating_add(bytes));
        self.memory_swap_bytes =
            self.memory_swap_bytes.map(|limit| if limit < 0 { limit } else { limit.saturating_add(more) });
        self
    }

    /// The resources of the OCI specification, by their path below `linux.resources` and the option they come from.
    pub(crate) fn resources(&self) -> Vec<(&'static str, Value, &'static str)> {
        let mut resources = Vec::new();
        let mut put = |path, value: Option<Value>, option| {
            resources.extend(value.map(|value| (path, value, option)));
        };
        put("/memory/limit", self.memory_bytes.map(Value::from), "--memory");
        put("/memory/swap", self.memory_swap_bytes.map(Value::from), "--memory-swap, or twice --memory");
        put("/cpu/quota", self.cpu_quota_us.map(Value::from), "--cpus");
        put("/cpu/period", self.cpu_quota_us.map(|_| json!(CPU_PERIOD_US)), "--cpus");
        put("/cpu/shares", self.cpu_shares.map(Value::from), "--cpu-shares");
        put("/cpu/cpus", self.cpuset_cpus.clone().map(Value::from), "--cpuset-cpus");
        put("/cpu/mems", self.cpuset_mems.clone().map(Value::from), "--cpuset-mems");
        put("/pids/limit", self.pids.map(Value::from), "--pids-limit");
        resources
    }

    /// Each limit by itself, but memory with its swap.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let all = self.clone();
        let none = Self::default;
        let parts = [
            Self { memory_bytes: all.memory_bytes, memory_swap_bytes: all.memory_swap_bytes, ..none() },
            Self { cpu_quota_us: all.cpu_quota_us, ..none() },
            Self { cpu_shares: all.cpu_shares, ..none() },
            Self { cpuset_cpus: all.cpuset_cpus, ..none() },
            Self { cpuset_mems: all.cpuset_mems, ..none() },
            Self { pids: all.pids, ..none() },
        ];
        parts.into_iter().filter(|part| !part.is_empty()).collect()
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn twice(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(2)
}

/// Reads a limit of memory, in whole pages as the kernel has it.
pub(crate) fn parse_memory(option: &str, text: &str) -> Result<u64, Refused> {
    let bytes = parse_size(text).map_err(|why| Refused::new(option, why))?;
    if bytes < MEMORY_FLOOR_BYTES {
        let why = format!("{bytes} bytes is too little to start a process in: give at least 6m");
        return Err(Refused::new(option, why));
    }
    if bytes >= MEMORY_CEILING_BYTES {
        return Err(Refused::new(option, format!("{bytes} bytes is more than any machine has")));
    }
    Ok(in_whole_pages(bytes))
}

/// So many bytes as the kernel has them, which counts memory in pages.
pub(crate) fn in_whole_pages(bytes: u64) -> u64 {
    bytes - bytes % u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

fn parse_swap(text: &str) -> Result<i64, Refused> {
    let option = "--memory-swap";
    if text.trim() == "-1" {
        return Ok(-1);
    }
    i64::try_from(parse_memory(option, text)?)
        .map_err(|_| Refused::new(option, "it is more than the kernel counts"))
}

fn cpu_quota(cpus: f64) -> Result<u64, Refused> {
    const MOST: f64 = 65536.0;
    if !(cpus > 0.0 && cpus <= MOST) {
        return Err(Refused::new(
            "--cpus",
            format!("{cpus:e} is not a number of CPUs above 0 and up to {MOST}"),
        ));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in 0..=MOST")]
    #[expect(clippy::cast_precision_loss, reason = "the period is a small constant")]
    let quota = (cpus * CPU_PERIOD_US as f64).round() as u64;
    if quota < CPU_QUOTA_FLOOR_US {
        return Err(Refused::new("--cpus", format!("{cpus} is less than the kernel's least of 0.01")));
    }
    Ok(quota)
}

fn check_shares(shares: u64) -> Result<u64, Refused> {
    if CPU_SHARES.contains(&shares) {
        return Ok(shares);
    }
    let (least, most) = (CPU_SHARES.start(), CPU_SHARES.end());
    Err(Refused::new("--cpu-shares", format!("{shares} is not a weight from {least} to {most}")))
}

fn check_pids(pids: i64) -> Result<i64, Refused> {
    if pids == -1 || (1..=PIDS_LIMIT).contains(&pids) {
        return Ok(pids);
    }
    let why = format!("{pids} is not a number from 1 to {PIDS_LIMIT}, nor -1 for no limit");
    Err(Refused::new("--pids-limit", why))
}

/// Reads a list such as `0-3,7`, and writes it as the kernel does: in order, ranges joined.
pub(crate) fn parse_list(text: &str) -> Result<String, String> {
    Ok(format_list(&list_of(text).ok_or_else(|| {
        format!("{} is not a list such as 0-3,7 of numbers up to {HIGHEST_NODE}", quote(text))
    })?))
}

/// The numbers of a list; `None` where it is none, or has none.
pub(crate) fn list_of(text: &str) -> Option<BTreeSet<u32>> {
    if text.len() > LIST_LIMIT_BYTES {
        return None;
    }
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > HIGHEST_NODE {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

fn format_list(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let words = ranges.iter().map(
        |(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(request: &LimitRequest) -> Result<Limits, Refused> {
        Limits::parse(request)
    }

    #[test]
    fn lists_are_written_as_the_kernel_does() {
        for (text, written) in [("0", "0"), ("1,0", "0-1"), ("0-3,7,4", "0-4,7"), ("3,3", "3")] {
            assert_eq!(parse_list(text).unwrap(), written, "{text}");
        }
        for text in ["", "x", "3-1", "-1", "0,,1", "8192", "0-4294967295", "0 1", &"0-8191,".repeat(9999)] {
            assert!(parse_list(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn swap_goes_with_memory() {
        let with = |memory: &str, swap: &str| {
            let (memory, memory_swap) = (Some(memory.into()), Some(swap.into()));
            parse(&LimitRequest { memory, memory_swap, ..LimitRequest::default() })
        };
        assert!(with("64m", "32m").is_err() && with("64m", "x").is_err());
        assert_eq!(with("64m", "-1").unwrap().memory_swap_bytes, Some(-1));
        assert_eq!(
            with("100000001", "-1").unwrap().memory_bytes.map(|bytes| bytes % 4096),
            Some(0),
            "in pages"
        );
        assert_eq!(with("64m", "64m").unwrap().memory_swap_bytes, Some(64 << 20));
        let memory = |bytes| Limits { memory_bytes: Some(bytes), ..Limits::default() };
        let old = memory(64 << 20).with_default_swap();
        assert_eq!(old.memory_swap_bytes, Some(128 << 20));
        let change = memory(256 << 20).as_change_of(&old).unwrap().with_default_swap();
        assert_eq!(change.memory_swap_bytes, Some(512 << 20), "the rule still holds");
        let old = Limits { memory_swap_bytes: Some(100 << 20), ..old };
        assert_eq!(memory(70 << 20).as_change_of(&old).unwrap().memory_swap_bytes, Some(100 << 20));
        assert!(memory(256 << 20).as_change_of(&old).is_err(), "more memory than the two together");
        let swap = Limits { memory_swap_bytes: Some(1 << 30), ..Limits::default() };
        assert_eq!(swap.as_change_of(&old).unwrap().memory_bytes, Some(64 << 20));
        assert!(swap.as_change_of(&Limits::default()).is_err());
    }

    #[test]
    fn limits_come_from_a_specification_too() {
        let resources = json!({
            "memory": { "limit": 64 << 20, "swap": -1 },
            "cpu": { "quota": 50_000, "period": 50_000, "shares": 0, "cpus": "1,0", "mems": "" },
            "pids": { "limit": -1 },
        });
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            memory_swap_bytes: Some(-1),
            cpu_quota_us: Some(100_000),
            cpuset_cpus: Some("0-1".into()),
            ..Limits::default()
        };
        assert_eq!(Limits::of_resources(&resources), limits);
        for nothing in [json!({ "memory": { "limit": null }, "cpu": { "cpus": 7 }, "pids": [] }), Value::Null]
        {
            assert_eq!(Limits::of_resources(&nothing), Limits::default(), "{nothing}");
        }
    }

    #[test]
    fn a_sandbox_gets_more_and_no_limit_stays_none() {
        let limits = Limits { memory_bytes: Some(10), memory_swap_bytes: Some(-1), ..Limits::default() };
        let more = limits.with_more_memory(5);
        assert_eq!((more.memory_bytes, more.memory_swap_bytes), (Some(15), Some(-1)));
        assert_eq!(Limits::default().with_more_memory(5), Limits::default());
    }
}
