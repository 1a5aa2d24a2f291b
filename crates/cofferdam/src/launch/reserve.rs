//! The folder, the name, the root filesystem, the bundle and the record of a container, made before the runtime is called.

use std::path::Path;

use jiff::Timestamp;

use super::source::make_private;
use super::{LaunchError, Launcher, NAME_ATTEMPTS, Prepared};
use crate::bundle;
use crate::error::Failure;
use crate::fault;
use crate::id::{ContainerId, ContainerName};
use crate::lifecycle::Status;
use crate::request::{Limits, Restarts, Source};
use crate::rootfs::overlay;
use crate::runtime::Clearing;
use crate::state::{ContainerDir, ContainerLock, PipeIds, ProcessId, RECORD_VERSION, Record};

impl Launcher {
    /// Makes the container's folder, name, bundle and record; unmakes them if one fails.
    pub(super) fn reserve(
        &self,
        prepared: Prepared,
    ) -> Result<(ContainerDir, ContainerLock, Record), LaunchError> {
        let id = prepared.plan.id.clone();
        let rootfs_dir = prepared.plan.source.rootfs_dir().map(Path::to_owned);
        let mounts = prepared.plan.mounts.clone();
        let (container, lock) = self.state.create_container(&id)?;
        let filled = self.take_gpus(prepared).and_then(|prepared| self.fill(&container, &prepared));
        match filled {
            Ok(record) => Ok((container, lock, record)),
            Err(error) => {
                self.let_go_of_volumes(&container, &mounts);
                if let Err(left) =
                    self.state.release_all_names(&id).and_then(|()| self.state.release_gpus(&id))
                {
                    tracing::error!(error = %Failure::of(&left), "the name or a GPU is left");
                }
                if let Some(rootfs_dir) = &rootfs_dir
                    && let Err(left) = overlay::discard(rootfs_dir, &id)
                {
                    tracing::error!(error = %Failure::of(&left), "the root filesystem is left");
                }
                if let Err(left) = self.state.remove_container(&container) {
                    tracing::error!(error = %Failure::of(&left), "the folder is left");
                }
                Err(error)
            }
        }
    }

    /// A name such as docker gives, which no other container has. One that is not found is not missed.
    fn find_name(&self, id: &ContainerId) -> Option<ContainerName> {
        let names =
            (0..NAME_ATTEMPTS).filter_map(|_| petname::petname(2, "_")?.parse::<ContainerName>().ok());
        names.into_iter().find(|name| self.state.claim_name(name, id).is_ok())
    }

    fn fill(&self, container: &ContainerDir, prepared: &Prepared) -> Result<Record, LaunchError> {
        fault::reached("launch.folder")?;
        let Prepared { plan, spec, rootfs, granted } = prepared;
        let name = match &plan.name {
            Some(name) => {
                self.state.claim_name(name, &plan.id)?;
                Some(name.clone())
            }
            None => self.find_name(&plan.id),
        };
        fault::reached("launch.name")?;
        let mut disk_bytes = None;
        if let Source::Image(image) = &plan.source {
            disk_bytes = overlay::assemble(image, &plan.id, self.state.path(), plan.storage_bytes)?;
        }
        fault::reached("launch.rootfs")?;
        self.write_names(prepared)?;
        self.take_volumes(container, prepared)?;
        bundle::write(&container.bundle(), spec)?;
        fault::reached("launch.bundle")?;
        make_private(&self.runtime.config().root)?;
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let boot_id = &self.host.boot_id;
        let record = Record {
            version: RECORD_VERSION,
            id: plan.id.clone(),
            name,
            status: Status::Creating,
            runtime: self.runtime.config().clone(),
            flags: spec.flags.clone(),
            sandboxed: self.runtime.is_sandbox(),
            process: None,
            supervisor: ProcessId::of(own, boot_id).unwrap_or_else(|| ProcessId {
                pid: own,
                start_time: 0,
                boot_id: boot_id.clone(),
            }),
            cgroup: spec.cgroup.clone(),
            source: plan.source.clone(),
            rootfs: rootfs.clone(),
            disk_bytes,
            command: spec.view().command().into_iter().map(str::to_owned).collect(),
            mounts: plan.mounts.iter().map(|mount| mount.record(self.volumes.path())).collect(),
            network: spec.network.clone(),
            connection: self.connection(plan, &spec.network).map(Box::new),
            attachment: None,
            gpus: granted.gpus.clone(),
            limits: Limits::of_resources(&spec.value["linux"]["resources"]).overlaid_with(&plan.limits),
            memory_headroom_bytes: spec.memory_headroom_bytes,
            memory_warn: plan.resources.memory_warn,
            memory_warned: false,
            cpu_boost: plan.resources.cpu_boost,
            terminal: spec.view().terminal(),
            own_pid_namespace: spec.view().own_pid_namespace(),
            stopping: plan.stopping,
            labels: plan.labels.clone(),
            restarts: Restarts::by(plan.restart),
            health_check: plan.health.clone(),
            health: None,
            remove: plan.remove,
            keep_report: plan.keep_report,
            log: plan.log,
            journald: plan.journald.clone(),
            background: self.background.as_ref().map(|background| background.streams.clone()),
            pipes: PipeIds::default(),
            clearing: Clearing::after_the_end(&spec.value, self.runtime.as_ref()),
            sent: vec![],
            oom_kills: 0,
            cleared: false,
            created: Timestamp::now(),
            started: None,
        };
        container.set_reserve_aside()?;
        container.write_edits(&spec.edits)?;
        container.write_record(&record)?;
        if !record.remove {
            self.volumes.settle(&record.mounts)?;
        }
        fault::reached("launch.record")?;
        Ok(record)
    }
}
