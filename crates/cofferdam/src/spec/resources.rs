//! Limits in a specification, and the cgroup that enforces them.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use serde_json::{Value, json};

use super::{PrepareError, SpecEditor};
use crate::cgroup::{CgroupLayout, CgroupPath};
use crate::error::{Code, Diagnose};
use crate::exit::format_bytes;
use crate::host::HostFacts;
use crate::request::{CgroupManager, ContainerPlan, DeviceRate, Limits, MemoryThreshold, OomKill, Refused};
use crate::runtime::Runtime;
use crate::state::write_atomically;

const RESOURCES: &str = "/linux/resources";
const MEMORY_LIMIT: &str = "/linux/resources/memory/limit";
const UNIFIED: &str = "/linux/resources/unified";
/// The file of cgroup v2 that has all of a cgroup killed at once, below `linux.resources.unified`.
const OOM_GROUP: &str = "/linux/resources/unified/memory.oom.group";

/// A rate of a device, by the device's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRate {
    rate: DeviceRate,
    major: u32,
    minor: u32,
}

/// A device whose rate cannot be limited.
#[derive(Debug, thiserror::Error)]
pub enum RateError {
    /// It cannot be looked at.
    #[error("the device {} cannot be found", .path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a block device", .0.display())]
    NoBlockDevice(PathBuf),
}

impl Diagnose for RateError {
    fn code(&self) -> Code {
        Code::InvalidValue
    }

    fn next_step(&self) -> Option<String> {
        Some("name the disk, not a file on it: `lsblk` and `findmnt` show which".into())
    }
}

/// Looks devices up on the host.
///
/// # Errors
/// [`RateError`] names the first that is none.
pub fn resolve_rates(rates: &[DeviceRate]) -> Result<Vec<ResolvedRate>, RateError> {
    let resolve = |rate: &DeviceRate| {
        let path = rate.device.clone();
        let found = std::fs::metadata(&path);
        let found = found.map_err(|source| RateError::Missing { path: path.clone(), source })?;
        if !found.file_type().is_block_device() {
            return Err(RateError::NoBlockDevice(path));
        }
        let (major, minor) = (major(found.rdev()), minor(found.rdev()));
        Ok(ResolvedRate { rate: rate.clone(), major, minor })
    };
    rates.iter().map(resolve).collect()
}

/// Puts the limits of the plan in.
pub(super) fn apply(
    editor: &mut SpecEditor,
    plan: &ContainerPlan,
    rates: &[ResolvedRate],
    host: &HostFacts,
    runtime: &dyn Runtime,
) -> Result<(), PrepareError> {
    let mut limits = plan.limits.clone();
    if host.cgroups.counts_swap {
        limits = limits.with_default_swap();
    } else if limits.memory_swap_bytes.is_some() {
        return Err(unavailable("swap", "this kernel does not count it"));
    }
    if plan.resources.cpu_boost.is_some() {
        limits.cpu_quota_us = None;
        editor.remove("/linux/resources/cpu/quota", "--cpu-boost: the quota comes later");
    }
    for (path, value, option) in limits.resources() {
        editor.set(&format!("{RESOURCES}{path}"), value, option);
    }
    let has_limit = editor.get(MEMORY_LIMIT).is_some_and(|limit| limit.as_i64() > Some(0));
    if limits.memory_swap_bytes.is_some() && !has_limit {
        return Err(Refused::new("--memory-swap", "it needs a limit of memory: give --memory").into());
    }
    if let Some(threshold) = plan.resources.memory_warn {
        let limit = editor.get(MEMORY_LIMIT).and_then(Value::as_u64).filter(|_| has_limit);
        check_warning(threshold, limit)?;
    }
    if plan.resources.memory_warn.is_some() && editor.get("/linux/resources/unified/memory.high").is_some() {
        let why = "the bundle sets memory.high, by which it would be told";
        return Err(Refused::new("--memory-warn", why).into());
    }
    if !rates.is_empty() && runtime.is_sandbox() && plan.cgroup_manager == CgroupManager::Systemd {
        // systemd takes its message for garbled (measured: 20240729).
        let why = "runsc cannot have systemd limit devices: use --cgroup-manager cgroupfs";
        return Err(Refused::new("--device-*-bps, --device-*-iops", why).into());
    }
    for ResolvedRate { rate, major, minor } in rates {
        let value = json!({ "major": major, "minor": minor, "rate": rate.rate });
        editor.push(&format!("{RESOURCES}/blockIO/{}", rate.kind), value, "--device-*-bps, --device-*-iops");
    }
    if !plan.resources.hugepages.is_empty() && runtime.is_sandbox() && host.cgroups.layout == CgroupLayout::V2
    {
        // It looks for the files of v1 (measured: 20240729).
        return Err(Refused::new("--hugetlb-limit", "runsc cannot limit huge pages under cgroup v2").into());
    }
    for limit in &plan.resources.hugepages {
        let value = json!({ "pageSize": limit.page_size, "limit": limit.limit_bytes });
        editor.push(&format!("{RESOURCES}/hugepageLimits"), value, "--hugetlb-limit");
    }
    Ok(apply_oom_kill(editor, plan.resources.oom_kill, host, runtime)?)
}

fn check_warning(threshold: MemoryThreshold, limit: Option<u64>) -> Result<(), Refused> {
    let refused = |why| Err(Refused::new("--memory-warn", why));
    match (limit, threshold) {
        (None, _) => refused("there is no limit of memory: give --memory"),
        (Some(limit), MemoryThreshold::Bytes(bytes)) if bytes >= limit => {
            refused("it is not below the limit")
        }
        _ => Ok(()),
    }
}

/// What lives on after an out-of-memory kill is seldom whole, so all goes at once where the kernel can do that: the
/// rule of Kubernetes since 1.28.
fn apply_oom_kill(
    editor: &mut SpecEditor,
    wanted: Option<OomKill>,
    host: &HostFacts,
    runtime: &dyn Runtime,
) -> Result<(), Refused> {
    let refused = |why| Err(Refused::new("--oom-kill", why));
    if runtime.is_sandbox() {
        // The sandbox is one, whatever of it is killed.
        return match wanted {
            Some(OomKill::Single) => refused("gVisor's sandbox dies as a whole"),
            _ => Ok(()),
        };
    }
    if host.cgroups.layout != CgroupLayout::V2 {
        return match wanted {
            Some(OomKill::Group) => refused("cgroup v1 can only have a single process killed"),
            _ => Ok(()),
        };
    }
    match wanted {
        Some(OomKill::Single) => editor.set(OOM_GROUP, "0", "--oom-kill single"),
        None if editor.get(OOM_GROUP).is_some() || !host.cgroups.has("memory") || !host.cgroups.writable => {}
        _ => editor.set(
            OOM_GROUP,
            "1",
            "out of memory, all of it is killed; keep the rest with --oom-kill single",
        ),
    }
    Ok(())
}

/// How much more memory than was asked for the cgroup gets, for what the runtime needs there itself.
pub(super) fn leave_room(editor: &SpecEditor, runtime: &dyn Runtime) -> Result<u64, Refused> {
    let Some(limit) = editor.get(MEMORY_LIMIT).and_then(Value::as_u64).filter(|limit| *limit > 0) else {
        return Ok(0);
    };
    check_floor(limit, runtime)?;
    Ok(runtime.memory_headroom(limit))
}

/// Checks what a bundle's own resources say, of which a plan has been checked.
pub(super) fn check(editor: &mut SpecEditor, host: &HostFacts, runtime: &dyn Runtime) -> Result<(), Refused> {
    let limits = Limits::of_resources(editor.get(RESOURCES).unwrap_or(&Value::Null));
    limits.check_swap()?;
    host.cgroups.check_cpusets(&limits)?;
    let unified = editor.get(UNIFIED).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    if unified > 0 && host.cgroups.layout != CgroupLayout::V2 {
        return Err(Refused::new("linux.resources.unified", "it is for cgroup v2, which is not here"));
    }
    if editor.get("/linux/resources/memory/disableOOMKiller") == Some(&Value::Bool(true)) {
        editor.warn("disableOOMKiller: when its memory runs out, it stands still instead of ending");
    }
    if unified > 0 && runtime.is_sandbox() {
        editor.warn("runsc passes over linux.resources.unified: nothing of it holds");
    }
    Ok(())
}

/// Refuses a limit of memory under which the runtime cannot make a container.
pub(crate) fn check_floor(limit: u64, runtime: &dyn Runtime) -> Result<(), Refused> {
    let floor = runtime.memory_floor();
    if limit >= floor {
        return Ok(());
    }
    let (limit, floor) = (format_bytes(limit), format_bytes(floor));
    let what = if runtime.is_sandbox() { "a sandbox" } else { "a process" };
    Err(Refused::new("--memory", format!("{limit} is too little to start {what} in: give at least {floor}")))
}

/// Gives the container a cgroup of its own, or makes sure that nothing was asked for that needs one.
pub(super) fn place(
    editor: &mut SpecEditor,
    plan: &ContainerPlan,
    host: &HostFacts,
) -> Result<Option<CgroupPath>, PrepareError> {
    for (what, controller) in limited(editor, plan) {
        if !host.cgroups.writable {
            return Err(unavailable(what, "this process may not make cgroups here"));
        }
        if !host.cgroups.has(controller) {
            return Err(unavailable(
                what,
                &format!("the controller `{controller}` is not there on this host"),
            ));
        }
    }
    if plan.cgroup_manager == CgroupManager::Systemd {
        check_systemd(host)?;
    }
    if !host.cgroups.writable {
        editor.remove("/linux/cgroupsPath", "cgroups cannot be made here");
        return Ok(None);
    }
    let parent = plan.cgroup_parent.as_deref();
    let (path, text) = match plan.cgroup_manager {
        CgroupManager::Cgroupfs => {
            let path = CgroupPath::of_container(&plan.id, parent);
            (path.clone(), path.as_str().to_owned())
        }
        CgroupManager::Systemd => {
            let slice = parent.unwrap_or("system.slice");
            (CgroupPath::of_scope(&plan.id, slice), format!("{slice}:cofferdam:{}", plan.id))
        }
    };
    editor.set(
        "/linux/cgroupsPath",
        text,
        "a cgroup of its own, named after the id: its counters tell how the container ended",
    );
    Ok(Some(path))
}

/// systemd makes cgroups where it is the first process, and hands controllers down under v2 alone.
fn check_systemd(host: &HostFacts) -> Result<(), Refused> {
    let refused = |why| Err(Refused::new("--cgroup-manager", why));
    match host.cgroups.layout {
        _ if !host.systemd => refused("systemd does not run here"),
        CgroupLayout::V2 => Ok(()),
        _ => refused("systemd is asked for cgroups under cgroup v2 only"),
    }
}

/// What a specification limits, and the controller that does it.
fn limited(editor: &SpecEditor, plan: &ContainerPlan) -> Vec<(&'static str, &'static str)> {
    let known = [
        ("memory", "memory", MEMORY_LIMIT),
        ("CPU time", "cpu", "/linux/resources/cpu/quota"),
        ("the weight of CPU time", "cpu", "/linux/resources/cpu/shares"),
        ("processes", "pids", "/linux/resources/pids/limit"),
    ];
    let is_limited = |path: &str| editor.get(path).and_then(Value::as_i64).is_some_and(|limit| limit > 0);
    let numbers = known.into_iter().filter(|(_, _, path)| is_limited(path));
    let mut limited: Vec<_> = numbers.map(|(what, controller, _)| (what, controller)).collect();
    let is_there = |path: &str| editor.get(path).is_some_and(|value| !is_empty(value));
    let others = [
        ("CPUs", "cpuset", is_there("/linux/resources/cpu/cpus") || is_there("/linux/resources/cpu/mems")),
        ("CPU time", "cpu", plan.limits.cpu_quota_us.is_some()),
        ("devices", "io", is_there("/linux/resources/blockIO")),
        ("huge pages", "hugetlb", is_there("/linux/resources/hugepageLimits")),
    ];
    limited
        .extend(others.into_iter().filter(|(_, _, is_limited)| *is_limited).map(|(what, by, _)| (what, by)));
    limited
}

/// Whether a value says nothing: null, or an empty text, list or object.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn unavailable(what: &'static str, why: &str) -> PrepareError {
    PrepareError::CgroupUnavailable { what, why: why.to_owned() }
}

/// Puts changed limits into the bundle that a container is made from again.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn write_limits(bundle: &Path, limits: &Limits) -> io::Result<()> {
    let file = bundle.join("config.json");
    let mut editor = SpecEditor::new(serde_json::from_slice(&std::fs::read(&file)?)?);
    for (path, value, option) in limits.resources() {
        editor.set(&format!("{RESOURCES}{path}"), value, option);
    }
    let text = editor.value().to_string();
    write_atomically(&file, |out| io::Write::write_all(out, text.as_bytes()))
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
