//! What a container has mounted: looking at the sources of what a user wants, taking volumes, and making what a reserved container
//! still lacks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::{LaunchError, Launcher, Prepared};
use crate::error::Failure;
use crate::mountinfo::{mount_of, mount_points};
use crate::request::{ContainerPlan, MountKind, MountRequest, Refused, Source};
use crate::rootfs::{Rootfs, overlay};
use crate::spec::PreparedSpec;
use crate::state::{ContainerDir, ContainerLock, Record};
use crate::supervise::{StartError, forget};

/// A container that has all but its process.
pub(super) type Reserved = (ContainerDir, ContainerLock, Record);

/// Tells a thread that its work is not wanted any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks at what is to be bound into the container. Volumes are made later, and so is the root filesystem of an image.
pub(super) fn check_sources(
    plan: &ContainerPlan,
    spec: &PreparedSpec,
    (rootfs, volumes): (&Path, &Path),
    names: &[(PathBuf, &'static str)],
) -> Result<(), LaunchError> {
    let is_volume = |mount: &&MountRequest| matches!(mount.kind, MountKind::Volume { .. });
    let made_later: Vec<PathBuf> =
        plan.mounts.iter().filter(is_volume).filter_map(|mount| mount.source(volumes)).collect();
    let is_ours = |path: &PathBuf| *path == rootfs.join("tmp") || names.iter().any(|(file, _)| file == path);
    for path in spec.view().bind_sources().filter(|path| !made_later.contains(path) && !is_ours(path)) {
        if let Err(source) = std::fs::metadata(&path) {
            return Err(LaunchError::MountSource { path, source });
        }
    }
    Ok(plan.mounts.iter().try_for_each(check_propagation)?)
}

/// Says which read-only mounts have something below them that this runtime, or this kernel, leaves writable.
pub(super) fn warn_of_writable(plan: &ContainerPlan, spec: &mut PreparedSpec) {
    let is_left = |mount: &&MountRequest| {
        let mut entries = spec.value["mounts"].as_array().into_iter().flatten();
        let entry = entries.find(|entry| entry["destination"] == mount.destination.as_str());
        let mut options = entry.and_then(|entry| entry["options"].as_array()).into_iter().flatten();
        options.any(|option| option == "ro")
    };
    let is_recursive = |mount: &&MountRequest| matches!(mount.kind, MountKind::Bind { recursive: true, .. });
    let left: Vec<&MountRequest> = plan.mounts.iter().filter(is_recursive).filter(is_left).collect();
    if left.is_empty() {
        return;
    }
    let all = mount_points();
    for mount in left {
        let MountKind::Bind { source, .. } = &mount.kind else { continue };
        let resolved = std::fs::canonicalize(source).unwrap_or_else(|_| source.clone());
        let below = all.iter().find(|point| point.place != resolved && point.place.starts_with(&resolved));
        if let Some(below) = below {
            spec.warnings.push(format!(
                "{} {}: what is mounted below it, at {}, stays writable with this runtime or kernel",
                mount.option,
                mount.destination,
                below.place.display()
            ));
        }
    }
}

/// Mounts go between host and container only where the host's mount is shared. runc would not say so, and share nothing.
fn check_propagation(mount: &MountRequest) -> Result<(), Refused> {
    let MountKind::Bind { source, propagation, .. } = &mount.kind else { return Ok(()) };
    if !propagation.is_shared() && !propagation.is_slave() {
        return Ok(());
    }
    let mounts = mount_points();
    let resolved = std::fs::canonicalize(source).unwrap_or_else(|_| source.clone());
    let Some(around) = mount_of(&mounts, &resolved) else { return Ok(()) };
    if around.shared || (propagation.is_slave() && around.slave) {
        return Ok(());
    }
    let place = around.place.display();
    let why = format!(
        "{} is on the mount {place}, which is not shared, so {} is without effect: `mount --make-rshared {place}` shares \
         it",
        source.display(),
        propagation.word()
    );
    Err(Refused::new(&mount.option.to_string(), why))
}

/// Makes the disk that a container writes to, if it is to have one.
async fn make_disk(record: &Record) -> Result<(), LaunchError> {
    match (&record.source, record.disk_bytes) {
        (Source::Image(image), Some(bytes)) => Ok(overlay::assemble_on_disk(image, &record.id, bytes).await?),
        _ => Ok(()),
    }
}

impl Launcher {
    /// Makes the volumes that are not there, and takes all of them.
    pub(super) fn take_volumes(
        &self,
        container: &ContainerDir,
        prepared: &Prepared,
    ) -> Result<(), LaunchError> {
        let mounts = &prepared.plan.mounts;
        if !mounts.iter().any(|mount| matches!(mount.kind, MountKind::Volume { .. })) {
            return Ok(());
        }
        self.volumes.sweep();
        Ok(self.volumes.take(mounts, container)?)
    }

    /// Makes what a container that is reserved still lacks: the disk that it writes to, and what an image has for its new
    /// volumes, which may be much. In a thread. When that fails, or `cancel` resolves first, or the future is dropped, the
    /// container is unmade.
    pub(super) async fn furnish(
        &self,
        mounts: Vec<MountRequest>,
        reserved: Reserved,
        cancel: impl Future<Output = ()>,
    ) -> Result<Reserved, LaunchError> {
        let has_volumes = mounts.iter().any(|mount| matches!(mount.kind, MountKind::Volume { .. }));
        if !has_volumes && reserved.2.disk_bytes.is_none() {
            return Ok(reserved);
        }
        let runtime = tokio::runtime::Handle::current();
        let stop = StopOnDrop::default();
        let (sender, mut filled) = oneshot::channel();
        let (launcher, flag) = (self.clone(), Arc::clone(&stop.0));
        let fill = move || {
            let (container, _, record) = &reserved;
            let result = runtime.block_on(make_disk(record)).and_then(|()| {
                let rootfs = Rootfs::open(&record.rootfs)?;
                Ok(launcher.volumes.fill(&mounts, container, &rootfs, &flag)?)
            });
            let outcome = match result {
                Ok(()) => Ok(reserved),
                Err(error) => {
                    launcher.unmake(&reserved);
                    Err(error)
                }
            };
            if let Err(Ok(unwanted)) = sender.send(outcome) {
                launcher.unmake(&unwanted);
            }
        };
        drop(tokio::task::spawn_blocking(fill));
        tokio::select! {
            filled = &mut filled => filled.map_err(|_| LaunchError::SupervisorDied)?,
            () = cancel => {
                stop.0.store(true, Ordering::Relaxed);
                if let Ok(Ok(reserved)) = filled.await {
                    self.unmake(&reserved);
                }
                Err(StartError::Cancelled.into())
            }
        }
    }

    /// Takes a container away that has no process yet.
    fn unmake(&self, (container, _lock, record): &Reserved) {
        let mut errors = vec![];
        forget(&self.state, container, record, None, &mut errors);
        for error in errors {
            tracing::error!(%error, "something is left of a launch that was cut short");
        }
    }

    /// Removes the volumes without a name of a launch that has failed.
    pub(super) fn let_go_of_volumes(&self, container: &ContainerDir, mounts: &[MountRequest]) {
        for mount in mounts {
            if let MountKind::Volume { name, anonymous: true, .. } = &mount.kind
                && let Err(left) = self.volumes.let_go(name, container)
            {
                tracing::error!(error = %Failure::of(&left), "a volume is left");
            }
        }
    }
}
