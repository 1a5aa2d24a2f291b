//! Changing the limits of a container that runs.

use std::path::Path;

use crate::cgroup::{CgroupPath, Cgroups, limits};
use crate::error::Failure;
use crate::request::Limits;
use crate::runtime::{Runtime, RuntimeError, Target};

/// Changes limits, and gives those that hold now, as the kernel has them.
///
/// The runtime does it, which writes it down for itself. What it does not do is written into the cgroup, where the limits
/// are: runsc before 20260202 has no such command, and that of September 2026 passes over a limit of -1.
pub(crate) async fn change_limits(
    (runtime, target): (&dyn Runtime, Target<'_>),
    scratch: &Path,
    (cgroups, cgroup): (&Cgroups, Option<&CgroupPath>),
    wanted: &Limits,
) -> Result<Limits, Failure> {
    let Some(cgroup) = cgroup else {
        let changed = runtime.update(target, wanted, scratch).await;
        return changed.map(|()| *wanted).map_err(|error| Failure::of(&error));
    };
    let holds = match runtime.update(target, wanted, scratch).await {
        Ok(()) => limits::verify(cgroups, cgroup, wanted).ok(),
        Err(RuntimeError::Lacks(_)) => None,
        Err(error) => return Err(Failure::of(&error)),
    };
    match holds {
        Some(limits) => Ok(limits),
        None => limits::write(cgroups, cgroup, wanted)
            .and_then(|()| limits::verify(cgroups, cgroup, wanted))
            .map_err(|error| Failure::of(&error)),
    }
}
