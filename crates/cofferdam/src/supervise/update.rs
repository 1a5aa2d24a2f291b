//! Changing the limits of a container that runs.

use crate::cgroup::{CgroupLayout, CgroupPath, limits};
use crate::error::{Code, Failure};
use crate::host::HostFacts;
use crate::request::Limits;
use crate::runtime::{Runtime, RuntimeError, Target};
use crate::spec::{check_floor, write_limits};
use crate::state::{ContainerDir, Record};

/// Changes limits, here and for the runs to come, and gives those that hold now, as the kernel has them.
///
/// The runtime does it, which writes it down for itself. What it does not do is written into the cgroup, where the limits
/// are: runsc before 20260202 has no such command, and that of September 2026 passes over a limit of -1.
pub(crate) async fn change_limits(
    (runtime, target): (&dyn Runtime, Target<'_>),
    host: &HostFacts,
    container: &ContainerDir,
    record: &mut Record,
    wanted: &Limits,
) -> Result<Limits, Failure> {
    let refused = |error| Failure::of(&error);
    let mut wanted = wanted.as_change_of(&record.limits).map_err(refused)?;
    if host.cgroups.counts_swap {
        wanted = wanted.with_default_swap();
    } else if wanted.memory_swap_bytes.is_some() {
        return Err(Failure {
            code: Code::CgroupUnavailable,
            what: "swap cannot be limited: this kernel does not count it".into(),
            why: vec![],
            next: None,
        });
    }
    let mut headroom = record.memory_headroom_bytes;
    if let Some(limit) = wanted.memory_bytes {
        check_floor(limit, runtime).map_err(refused)?;
        headroom = runtime.memory_headroom(limit);
    }
    host.cgroups.check_cpusets(&wanted).map_err(refused)?;
    // In whole pages, as the kernel has it; the headroom is no part of what was asked for.
    let wanted = limits::in_pages(&wanted, host.cgroups.layout == CgroupLayout::V2);
    let limits = record.limits.overlaid_with(&wanted);
    // First, for the runs to come: where there is no room on the disk, nothing is changed.
    write_limits(&container.bundle(), &lasting(&limits, record)).map_err(|error| unwritten(&error))?;
    let change = wanted.clone().with_more_memory(headroom);
    if let Err(failure) = change_in_cgroup((runtime, target), host, container, record, change).await {
        if let Some(cgroup) = &record.cgroup {
            put_back(host, cgroup, record);
        }
        let before = lasting(&record.limits, record);
        write_limits(&container.bundle(), &before)
            .unwrap_or_else(|error| tracing::warn!(%error, "the next run has the limits that were refused"));
        return Err(failure);
    }
    record.limits = limits;
    record.memory_headroom_bytes = headroom;
    Ok(wanted)
}

/// What a run begins with: not the CPU quota that comes later.
fn lasting(limits: &Limits, record: &Record) -> Limits {
    let quota = limits.cpu_quota_us.filter(|_| record.cpu_boost.is_none());
    Limits { cpu_quota_us: quota, ..limits.clone() }
}

fn unwritten(error: &std::io::Error) -> Failure {
    Failure {
        code: Code::StateWrite,
        what: "the limits cannot be written down, so that they would not hold in the next run".into(),
        why: vec![error.to_string()],
        next: Some("make room on the file system of the state directory".into()),
    }
}

/// What held before a change of which a part has failed. Each by itself: what cannot be put back has not been changed.
fn put_back(host: &HostFacts, cgroup: &CgroupPath, record: &Record) {
    for part in held(record).parts() {
        if let Err(error) = limits::write(&host.cgroups, cgroup, &part) {
            tracing::warn!(%error, "a limit of before the update does not hold again");
        }
    }
}

/// The limits that its cgroup has by the record.
fn held(record: &Record) -> Limits {
    lasting(&record.limits, record).with_more_memory(record.memory_headroom_bytes)
}

async fn change_in_cgroup(
    (runtime, target): (&dyn Runtime, Target<'_>),
    host: &HostFacts,
    container: &ContainerDir,
    record: &Record,
    wanted: Limits,
) -> Result<(), Failure> {
    let Some(cgroup) = &record.cgroup else {
        let changed = runtime.update(target, &wanted, container.path()).await;
        return changed.map_err(|error| Failure::of(&error));
    };
    let group = limits::read_oom_group(&host.cgroups, cgroup);
    let changed = runtime.update(target, &wanted, container.path()).await;
    let mut wanted = wanted;
    if cgroup.is_scope() {
        // systemd has written the memory files of it anew, by what it knows: neither swap nor what dies together.
        wanted = held(record).overlaid_with(&wanted);
        limits::write_oom_group(&host.cgroups, cgroup, group).map_err(|error| Failure::of(&error))?;
    }
    let words = match changed {
        Ok(()) if limits::verify(&host.cgroups, cgroup, &wanted).is_ok() => return Ok(()),
        Ok(()) | Err(RuntimeError::Lacks(_)) => None,
        Err(error) => Some(error),
    };
    let written = limits::write(&host.cgroups, cgroup, &wanted)
        .and_then(|()| limits::verify(&host.cgroups, cgroup, &wanted));
    written.map(drop).map_err(|error| {
        let mut failure = Failure::of(&error);
        failure.why.extend(words.map(|words| Failure::of(&words).to_string()));
        failure
    })
}
