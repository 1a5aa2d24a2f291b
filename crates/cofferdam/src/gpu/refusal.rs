//! A driver that gVisor's nvproxy cannot serve.

use super::{DriverVersion, Verdict};
use crate::error::{Code, Diagnose};

/// Why a driver is refused before `runsc` gets to it, and what there is to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nvproxy of {runtime} does not know the NVIDIA driver {driver}{}", tell_nearest(.nearest.as_ref(), *.same_branch))]
pub struct DriverRefused {
    /// The runtime and its version.
    pub runtime: String,
    /// The driver.
    pub driver: DriverVersion,
    /// The one of its list that is nearest.
    pub nearest: Option<DriverVersion>,
    /// Whether that is of the same branch.
    pub same_branch: bool,
    /// Whether this runsc can be told a version.
    pub takes_version: bool,
    /// Whether this runsc can be told to try.
    pub takes_any: bool,
}

fn tell_nearest(nearest: Option<&DriverVersion>, same_branch: bool) -> String {
    match (nearest, same_branch) {
        (Some(nearest), true) => format!("; the nearest that it knows is {nearest}, of the same branch"),
        (Some(nearest), false) => format!("; it knows none of that branch, and the nearest is {nearest}"),
        (None, _) => String::new(),
    }
}

impl DriverRefused {
    /// The refusal that follows from a verdict; `None` where the driver is in the list, or there is no list.
    #[must_use]
    pub fn of(verdict: &Verdict<'_>, driver: &DriverVersion, runtime: String) -> Option<Self> {
        let (nearest, same_branch) = match verdict {
            Verdict::Listed | Verdict::NoList => return None,
            Verdict::SameBranch(nearest) => (nearest, true),
            Verdict::OtherBranch(nearest) => (nearest, false),
        };
        Some(Self {
            runtime,
            driver: driver.clone(),
            nearest: Some((*nearest).clone()),
            same_branch,
            takes_version: false,
            takes_any: false,
        })
    }
}

impl Diagnose for DriverRefused {
    fn code(&self) -> Code {
        Code::DriverUnsupported
    }

    fn next_step(&self) -> Option<String> {
        let mut ways =
            vec!["install a runsc that knows it (`runsc nvproxy list-supported-drivers`)".to_owned()];
        if let Some(nearest) = self.nearest.as_ref().filter(|_| self.takes_version && self.same_branch) {
            ways.push(format!("try --gpu-driver-override {nearest}, whose interface may be the same"));
        }
        if self.takes_any {
            ways.push("try --gpu-allow-unsupported-driver".into());
        }
        ways.push("use --runtime runc".into());
        Some(ways.join("; or "))
    }
}
