//! From a checked request to the specification that the runtime gets.
//!
//! Invariant: everything here is a pure function of its arguments; each change of a specification carries its reason
//! (`--dry-run` and `inspect` print them).
//! Not here: reading a bundle (`bundle`), and what only one runtime needs (`runtime::runc`, `runtime::runsc`).

mod apply;
pub(crate) mod capability;
pub(crate) mod check;
mod default;
pub(crate) mod devices;
mod edit;
mod host_limits;
pub(crate) mod init;
mod network;
mod seccomp;
mod view;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::check as check_config;
pub use edit::{Edit, EditAction, SpecEditor};
pub use network::NetworkChoice;
pub use view::SpecView;

use crate::cgroup::CgroupPath;
use crate::error::{Code, Diagnose};
use crate::host::HostFacts;
use crate::request::{ContainerPlan, NetworkMode, Refused, Source};
use crate::runtime::{Lacks, Runtime, RuntimeFlags};

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
    /// The user, looked up in the root filesystem, where one was asked for.
    pub user: Option<&'a ResolvedUser>,
    /// The init that is to run before the command, where one was asked for.
    pub init: Option<&'a Path>,
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
}

impl Diagnose for PrepareError {
    fn code(&self) -> Code {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Bundle(_) => Code::SpecRefused,
            Self::HostNetworkImplied => Code::HostNetwork,
            Self::CgroupUnavailable { .. } => Code::CgroupUnavailable,
            Self::Lacks(lacks) => lacks.code(),
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
    let Ingredients { plan, bundle, rootfs, user, init, host, runtime } = ingredients;
    let base = bundle.map_or_else(|| default::for_rootfs(plan, host), |(_, config)| config.clone());
    let mut editor = SpecEditor::new(base);
    let root = rootfs.to_string_lossy().into_owned();
    editor.set("/root/path", root, "an absolute path: the bundle that the runtime gets lies elsewhere");
    apply::apply(&mut editor, plan, user);
    let network = network::choose(&mut editor, plan.network.as_ref());
    if let Some((directory, _)) = bundle {
        check::check(editor.value()).map_err(PrepareError::Bundle)?;
        apply::make_sources_absolute(&mut editor, directory);
    }
    if let Some(init) = init {
        init::apply(&mut editor, init);
    }
    host_limits::clamp(&mut editor, host);
    let cgroup = place_in_cgroup(&mut editor, plan, host)?;
    let flags = runtime.prepare(&mut editor, &network, plan, host)?;
    let (value, edits, warnings) = editor.finish();
    Ok(PreparedSpec { value, edits, warnings, network: network.mode, cgroup, flags })
}

/// Whether the plan's source is a bundle.
pub(crate) fn is_bundle(plan: &ContainerPlan) -> bool {
    matches!(plan.source, Source::Bundle { .. })
}

/// Gives the container a cgroup of its own, or makes sure that nothing was asked for that needs one.
fn place_in_cgroup(
    editor: &mut SpecEditor,
    plan: &ContainerPlan,
    host: &HostFacts,
) -> Result<Option<CgroupPath>, PrepareError> {
    let wanted = [
        ("memory", "memory", "/linux/resources/memory/limit"),
        ("CPU time", "cpu", "/linux/resources/cpu/quota"),
        ("processes", "pids", "/linux/resources/pids/limit"),
    ];
    for (what, controller, path) in wanted {
        let limit = editor.get(path).and_then(serde_json::Value::as_i64);
        if limit.is_none_or(|limit| limit <= 0) {
            continue;
        }
        if !host.cgroups.writable {
            let why = "this process may not make cgroups here".to_owned();
            return Err(PrepareError::CgroupUnavailable { what, why });
        }
        if !host.cgroups.has(controller) {
            let why = format!("the controller `{controller}` is not there on this host");
            return Err(PrepareError::CgroupUnavailable { what, why });
        }
    }
    if !host.cgroups.writable {
        editor.remove("/linux/cgroupsPath", "cgroups cannot be made here");
        return Ok(None);
    }
    let path = CgroupPath::of_container(&plan.id, plan.cgroup_parent.as_deref());
    editor.set(
        "/linux/cgroupsPath",
        path.as_str(),
        "a cgroup of its own, named after the id: its counters tell how the container ended",
    );
    Ok(Some(path))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
