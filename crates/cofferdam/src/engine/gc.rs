//! What processes of ours have left behind that were killed, found and taken away.
//!
//! Invariant: nothing is touched that is not proven to be ours, and nothing of a living container. What lies in the state
//! directory is ours; what a runtime or the kernel has is ours if the runtime has it in a root of our own, under an id
//! that no folder has: the folder is made before the runtime is called, and goes after what the runtime has.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::{Engine, EngineError};
use crate::cgroup::CgroupPath;
use crate::error::Failure;
use crate::id::{ContainerId, ContainerName, ID_LENGTH};
use crate::lifecycle::Status;
use crate::network::{gated, networks};
use crate::rootfs::overlay;
use crate::state::{ContainerDir, lock_is_free};

/// How often containers are looked through before one is made.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// Something that was left behind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// Which: an id, a name, a path.
    pub what: String,
    /// How it is known to be one.
    pub why: String,
    /// Whether it has been taken care of.
    pub done: bool,
    /// Why it could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// What can be left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverKind {
    /// A container without a supervisor: it gets one, or a report.
    Container,
    /// A session of `exec --detach` without one.
    Session,
    /// A folder whose container or session was never completed, or is half removed.
    Folder,
    /// What a runtime has of a container that has no folder: its state, its processes, its cgroup.
    Runtime,
    /// A name of no container.
    Name,
    /// What a container wrote that is forgotten.
    Log,
    /// A report whose time is over.
    Report,
    /// The root filesystem of a container of an image that is gone.
    Rootfs,
    /// What a network has of a container that is gone: a namespace, an address, rules.
    Network,
    /// Content of images that neither an image nor a container needs.
    Image,
    /// A volume without a name whose container is gone, and which was to go with it.
    Volume,
}

impl LeftoverKind {
    /// A word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Session => "session",
            Self::Folder => "folder",
            Self::Runtime => "runtime",
            Self::Name => "name",
            Self::Log => "log",
            Self::Report => "report",
            Self::Rootfs => "rootfs",
            Self::Network => "network",
            Self::Image => "image",
            Self::Volume => "volume",
        }
    }
}

impl Engine {
    /// Finds what killed processes have left behind, and takes it away unless it is only to be shown.
    ///
    /// Several may run at once, and beside everything else.
    ///
    /// # Errors
    /// [`EngineError::State`] when the state directory cannot be read.
    pub async fn collect_garbage(&self, only_show: bool) -> Result<Vec<Leftover>, EngineError> {
        let mut found = Vec::new();
        self.collect_folders(only_show, &mut found).await?;
        self.collect_from_runtimes(only_show, &mut found).await;
        self.collect_names(only_show, &mut found);
        self.collect_logs(only_show, &mut found);
        self.collect_rootfs(only_show, &mut found);
        self.collect_networks(only_show, &mut found).await;
        self.collect_volumes(only_show, &mut found);
        let reports = if only_show { self.state.expired_reports() } else { self.state.sweep_reports() };
        let report =
            |path: PathBuf| leftover(LeftoverKind::Report, show(&path), "its time is over", !only_show);
        found.extend(reports.into_iter().map(report));
        if !only_show {
            self.state.sweep_trash();
            self.sweep_stale_locks();
        }
        Ok(found)
    }

    /// Before a container is made, and not too often: gives those a supervisor, or a report, that have lost theirs.
    pub async fn sweep_at_times(&self) {
        let stamp = self.state.path().join(".swept");
        let swept = std::fs::metadata(&stamp).and_then(|metadata| metadata.modified());
        let is_recent = swept.is_ok_and(|swept| swept.elapsed().is_ok_and(|since| since < SWEEP_PAUSE));
        // A state directory that cannot be written to is told of by the launch.
        if !is_recent && std::fs::write(&stamp, "").is_ok() {
            let mut found = Vec::new();
            if let Err(error) = self.collect_folders(false, &mut found).await {
                tracing::warn!(error = %Failure::of(&error), "the state directory could not be looked through");
            }
        }
    }

    async fn collect_folders(&self, only_show: bool, found: &mut Vec<Leftover>) -> Result<(), EngineError> {
        for container in self.state.containers()? {
            let Some((kind, why)) = without_supervisor(&container) else { continue };
            let mut item = leftover(kind, container.id.to_string(), why, false);
            if !only_show {
                item.take(self.view(container).await.map(|_| ()));
            }
            found.push(item);
        }
        for session in self.state.sessions()? {
            let is_left =
                matches!(lock_is_free(&session), Ok(true)) && matches!(session.read_report(), Ok(None));
            if !is_left {
                continue;
            }
            let why = "its supervisor has died";
            let mut item = leftover(LeftoverKind::Session, session.id.to_string(), why, false);
            if !only_show {
                item.take(self.session(session.id.as_str()).await.map(|_| ()));
            }
            found.push(item);
        }
        Ok(())
    }

    async fn collect_from_runtimes(&self, only_show: bool, found: &mut Vec<Leftover>) {
        for (name, root) in self.own_roots() {
            let entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
            let ids = entries.filter_map(|entry| id_in(&entry.file_name().to_string_lossy()));
            let orphans = ids.filter(|id| !self.state.container(id).path().exists());
            for id in orphans.collect::<BTreeSet<_>>() {
                let why = format!("{name} has it in {}, and there is no record of it", root.display());
                let mut item = leftover(LeftoverKind::Runtime, id.to_string(), why, false);
                if !only_show {
                    let container = self.state.container(&id);
                    let cgroups = crate::cgroup::find(&self.host.cgroups, &id);
                    let cgroup =
                        cgroups.first().cloned().unwrap_or_else(|| CgroupPath::of_container(&id, None));
                    item.take(self.discard_from(&container, &cgroup, name.clone(), root.clone()).await);
                    if let Err(error) = crate::cgroup::remove_leftovers(&self.host.cgroups, &cgroup) {
                        tracing::warn!(%error, "a cgroup is left of a container without a record");
                    }
                }
                found.push(item);
            }
        }
    }

    fn collect_names(&self, only_show: bool, found: &mut Vec<Leftover>) {
        let names = self.state.path().join("names");
        for entry in std::fs::read_dir(names).into_iter().flatten().flatten() {
            let (Ok(to), Some(name)) =
                (std::fs::read_link(entry.path()), entry.file_name().to_str().map(str::to_owned))
            else {
                continue;
            };
            let Some(id) = to.to_str().and_then(|id| id.parse::<ContainerId>().ok()) else { continue };
            if self.state.container(&id).path().exists() {
                continue;
            }
            let why = format!("its container {} is gone", id.short());
            let mut item = leftover(LeftoverKind::Name, name.clone(), why, false);
            if !only_show && let Ok(name) = name.parse::<ContainerName>() {
                item.take(self.state.release_name(&name, &id).map_err(EngineError::from));
            }
            found.push(item);
        }
    }

    /// Nothing is looked for where no container has ever been attached.
    async fn collect_networks(&self, only_show: bool, found: &mut Vec<Leftover>) {
        let directory = self.network_dir();
        if !directory.exists() {
            return;
        }
        let is_known =
            |id: &str| id.parse().is_ok_and(|id: ContainerId| self.state.container(&id).path().exists());
        let why = "its container is gone";
        let gated = gated(&directory);
        // One that cannot be listed says so again below.
        for name in gated.list().unwrap_or_default().into_iter().filter(|name| !is_known(name)) {
            let mut item = leftover(LeftoverKind::Network, show(&gated.path(&name)), why, false);
            if !only_show {
                item.take(gated.destroy(&name).map_err(|error| Failure::of(&error).into()));
            }
            found.push(item);
        }
        let collected = async {
            let networks = networks(&directory)?;
            if only_show { networks.leftovers(&is_known).await } else { networks.gc(&is_known).await }
        };
        match collected.await {
            Ok(left) => {
                let namespaces = left.namespaces.into_iter().chain(left.rules);
                let paths = left.prepared.iter().chain(&left.leases).map(|path| show(path));
                let all = left.containers.into_iter().chain(namespaces).chain(paths);
                found.extend(all.map(|what| leftover(LeftoverKind::Network, what, why, !only_show)));
            }
            Err(error) => {
                let mut item = leftover(LeftoverKind::Network, show(&directory), why, false);
                item.failure = Some(Failure::of(&error));
                found.push(item);
            }
        }
    }

    fn collect_rootfs(&self, only_show: bool, found: &mut Vec<Leftover>) {
        let rootfs_dir = self.rootfs_dir();
        let is_known = |id: &ContainerId| self.state.container(id).path().exists();
        for id in overlay::leftovers(&rootfs_dir, self.state.path(), is_known) {
            let mut item = leftover(LeftoverKind::Rootfs, id.to_string(), "its container is gone", false);
            if !only_show {
                item.take(overlay::discard(&rootfs_dir, &id).map_err(|error| Failure::of(&error).into()));
            }
            found.push(item);
        }
        if !only_show {
            overlay::remove_unowned(&rootfs_dir);
        }
        for place in overlay::abandoned_looks(&rootfs_dir) {
            let why = "whoever looked into layers there is gone";
            let mut item = leftover(LeftoverKind::Rootfs, show(&place), why, false);
            if !only_show {
                item.take(overlay::end_look(&place).map_err(|error| Failure::of(&error).into()));
            }
            found.push(item);
        }
    }

    fn collect_logs(&self, only_show: bool, found: &mut Vec<Leftover>) {
        let logs = self.state.logs();
        for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
            let Some(id) = id_in(&entry.file_name().to_string_lossy()) else { continue };
            if self.state.container(&id).path().exists() || self.state.session(&id).path().exists() {
                continue;
            }
            let why = "its container, or session, is gone";
            let mut item = leftover(LeftoverKind::Log, show(&entry.path()), why, false);
            if !only_show {
                let removed = match std::fs::remove_dir_all(entry.path()) {
                    // Another process was faster.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                };
                let what = "the log could not be removed";
                item.take(removed.map_err(|source| EngineError::Kernel { what, source }));
            }
            found.push(item);
        }
    }

    fn collect_volumes(&self, only_show: bool, found: &mut Vec<Leftover>) {
        let volumes = self.volumes();
        for volume in volumes.orphans(self.state.path()) {
            let why = "it went with a container that is gone";
            let mut item = leftover(LeftoverKind::Volume, volume.name().to_string(), why, false);
            if !only_show {
                item.take(volumes.remove_or_keep(volume.name(), None).map_err(EngineError::from));
            }
            found.push(item);
        }
        if !only_show {
            volumes.sweep();
        }
    }
}

impl Leftover {
    fn take(&mut self, result: Result<(), EngineError>) {
        self.done = result.is_ok();
        self.failure = result.err().map(|error| Failure::of(&error));
    }
}

fn leftover(kind: LeftoverKind, what: String, why: impl Into<String>, done: bool) -> Leftover {
    Leftover { kind, what, why: why.into(), done, failure: None }
}

/// What a container without a living supervisor lacks; `None` when it lacks nothing.
fn without_supervisor(container: &ContainerDir) -> Option<(LeftoverKind, &'static str)> {
    if !matches!(lock_is_free(container), Ok(true)) {
        return None;
    }
    match (container.read_record().ok()?, container.read_report().ok()?) {
        (None, _) => Some((LeftoverKind::Folder, "its maker died before it had written its record")),
        (Some(_), None) => Some((LeftoverKind::Container, "its supervisor has died")),
        (Some(record), Some(_)) if record.status != Status::Stopped => {
            Some((LeftoverKind::Container, "its supervisor died in its clean-up"))
        }
        (Some(_), Some(_)) => None,
    }
}

/// The id that the name of a file begins with: `ID`, `ID.lock`, `ID_sandbox:ID.state`.
fn id_in(name: &str) -> Option<ContainerId> {
    name.get(..ID_LENGTH)?.parse().ok()
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
