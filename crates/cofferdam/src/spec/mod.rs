//! From a checked request to the specification that the runtime gets.
//!
//! Invariant: everything here is a pure function of its arguments; each change of a specification carries its reason
//! (`--dry-run` and `inspect` print them).
//! Not here: reading a bundle (`bundle`), and what only one runtime needs (`runtime::runc`, `runtime::runsc`).

mod apply;
pub(crate) mod capability;
mod cdi;
pub(crate) mod check;
mod default;
pub(crate) mod devices;
mod edit;
pub(crate) mod hooks;
mod host_limits;
pub(crate) mod init;
pub(crate) mod mount_adapt;
mod mounts;
mod network;
pub(crate) mod nvproxy;
mod resources;
mod seccomp;
mod view;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::check as check_config;
pub use edit::{Edit, EditAction, SpecEditor};
pub use network::NetworkChoice;
pub use nvproxy::{QUIRKS, Quirk};
pub use resources::{RateError, ResolvedRate, resolve_rates};
pub(crate) use resources::{check_floor, write_limits};
pub use view::SpecView;

use crate::cgroup::CgroupPath;
use crate::error::{Code, Diagnose};
use crate::gpu::{DriverRefused, GpuError, Granted};
use crate::host::HostFacts;
use crate::request::{CgroupManager, ContainerPlan, NetworkMode, Refused, Source};
use crate::runtime::{Lacks, Runtime, RuntimeFlags, Surroundings};

/// A user as the root filesystem knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
    /// Home directory, where it is known.
    pub home: Option<String>,
}

/// Everything that a specification is made from.
#[derive(Debug, Clone, Copy)]
pub struct Ingredients<'a> {
    /// What was asked for.
    pub plan: &'a ContainerPlan,
    /// The bundle's directory and its own specification; `None` for a root filesystem.
    pub bundle: Option<(&'a Path, &'a Value)>,
    /// The root filesystem: an absolute path.
    pub rootfs: &'a Path,
    /// The directory that holds the volumes.
    pub volumes: &'a Path,
    /// The root filesystem's own /tmp, where it is to be seen though the runtime would mount something over it.
    pub own_tmp: Option<&'a Path>,
    /// The user, looked up in the root filesystem, where one was asked for.
    pub user: Option<&'a ResolvedUser>,
    /// The init that is to run before the command, where one was asked for.
    pub init: Option<&'a Path>,
    /// The devices whose rates are limited, looked up on the host.
    pub rates: &'a [ResolvedRate],
    /// The devices that it is given.
    pub granted: &'a Granted,
    /// The files that say names to it, and their places in it.
    pub names: &'a [(PathBuf, &'static str)],
    /// The host.
    pub host: &'a HostFacts,
    /// The runtime that is to run it.
    pub runtime: &'a dyn Runtime,
}

/// A specification that is ready for its runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedSpec {
    /// What is written to config.json.
    pub value: Value,
    /// Every change and its reason.
    pub edits: Vec<Edit>,
    /// What the user should know before it starts.
    pub warnings: Vec<String>,
    /// How it is connected.
    pub network: NetworkMode,
    /// Its cgroup; `None` where cgroups are not used.
    pub cgroup: Option<CgroupPath>,
    /// What its cgroup may have on top of the limit of memory, for a sandbox's own needs.
    pub memory_headroom_bytes: u64,
    /// Flags of the runtime that this container needs at every call.
    pub flags: RuntimeFlags,
}

/// A specification that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Something that was asked for cannot be right.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A bundle's specification says something that cannot be right.
    #[error("config.json: {0}")]
    Bundle(Refused),
    /// The bundle has no network namespace: under gVisor the host's network is only given when it is asked for.
    #[error("the bundle has no network namespace, which means the host's network")]
    HostNetworkImplied,
    /// A limit cannot be enforced on this host.
    #[error("cannot limit {what}: {why}")]
    CgroupUnavailable {
        /// What was to be limited.
        what: &'static str,
        /// Why it cannot be.
        why: String,
    },
    /// The runtime lacks something that is needed.
    #[error(transparent)]
    Lacks(#[from] Lacks),
    /// The driver is one that the runtime cannot serve.
    #[error(transparent)]
    Driver(Box<DriverRefused>),
    /// There are no GPUs to be had.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

impl Diagnose for PrepareError {
    fn code(&self) -> Code {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Bundle(_) => Code::SpecRefused,
            Self::HostNetworkImplied => Code::HostNetwork,
            Self::CgroupUnavailable { .. } => Code::CgroupUnavailable,
            Self::Lacks(lacks) => lacks.code(),
            Self::Driver(refused) => refused.code(),
            Self::Gpu(error) => error.code(),
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Refused(refused) => refused.next_step(),
            Self::Bundle(_) => {
                Some("mend config.json; `cofferdam run --dry-run` checks without starting".into())
            }
            Self::HostNetworkImplied => Some(
                "pass --network none for a network of its own, or --network host if you mean the host's"
                    .into(),
            ),
            Self::CgroupUnavailable { .. } => {
                Some("run without the limit, or see `cofferdam doctor` for what the cgroups lack".into())
            }
            Self::Lacks(lacks) => lacks.next_step(),
            Self::Driver(refused) => refused.next_step(),
            Self::Gpu(error) => error.next_step(),
        }
    }
}

impl PreparedSpec {
    /// A look at it.
    #[must_use]
    pub fn view(&self) -> SpecView<'_> {
        SpecView::of(&self.value)
    }
}

/// Makes the specification of a container.
///
/// # Errors
/// [`PrepareError`] when what is asked for cannot be right, or this host or runtime cannot do it.
pub fn prepare(ingredients: Ingredients<'_>) -> Result<PreparedSpec, PrepareError> {
    let Ingredients {
        plan,
        bundle,
        rootfs,
        volumes,
        own_tmp,
        user,
        init,
        rates,
        granted,
        names,
        host,
        runtime,
    } = ingredients;
    let base = bundle.map_or_else(|| default::for_rootfs(plan, host), |(_, config)| config.clone());
    let mut editor = SpecEditor::new(base);
    let root = rootfs.to_string_lossy().into_owned();
    editor.set("/root/path", root, "an absolute path: the bundle that the runtime gets lies elsewhere");
    apply::apply(&mut editor, plan, user, volumes);
    apply::apply_names(&mut editor, names);
    if let Some(path) = own_tmp {
        mounts::keep_tmp(&mut editor, path, plan.read_only);
    }
    let network = network::choose(&mut editor, plan.network.as_ref());
    if let Some((directory, _)) = bundle {
        check::check(editor.value()).map_err(PrepareError::Bundle)?;
        apply::make_sources_absolute(&mut editor, directory);
    }
    if let Some(init) = init {
        init::apply(&mut editor, init);
    }
    cdi::apply(&mut editor, &granted.edits);
    hooks::guard(&mut editor);
    granted.warnings.iter().for_each(|warning| editor.warn(warning.as_str()));
    if !granted.gpus.is_empty() {
        cdi::warn_without_libraries(&mut editor);
    }
    host_limits::clamp(&mut editor, host);
    resources::apply(&mut editor, plan, rates, host, runtime)?;
    resources::check(&mut editor, host, runtime)?;
    let memory_headroom_bytes = resources::leave_room(&editor, runtime)?;
    let cgroup = resources::place(&mut editor, plan, host)?;
    let mut flags = runtime.prepare(&mut editor, &Surroundings { network: &network, plan, host, granted })?;
    if plan.cgroup_manager == CgroupManager::Systemd {
        flags.0.push("--systemd-cgroup".into());
    }
    let (value, edits, warnings) = editor.finish();
    Ok(PreparedSpec { value, edits, warnings, network: network.mode, cgroup, memory_headroom_bytes, flags })
}

/// Whether the plan's source is a bundle.
pub(crate) fn is_bundle(plan: &ContainerPlan) -> bool {
    matches!(plan.source, Source::Bundle { .. })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
