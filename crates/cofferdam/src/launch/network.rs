//! A container's network and names: looking for what it needs, and writing the files.

use std::path::{Path, PathBuf};

use super::{LaunchError, Launcher, Prepared};
use crate::lifecycle::Status;
use crate::network::{Connection, NameFiles, Names, networks};
use crate::request::{ContainerPlan, NetworkMode, Refused, Source};
use crate::state::{ContainerDir, StateError};

/// Where the attachments of a state directory are written down: they outlast a reboot, as leases of addresses do.
pub(crate) fn directory_of(data_dir: &Path, state_dir: &Path) -> PathBuf {
    let mark = crc32fast::hash(state_dir.as_os_str().as_encoded_bytes());
    data_dir.join("network").join(format!("{mark:08x}"))
}

impl Launcher {
    /// Finds the network that a plan names.
    pub(super) fn find_network(&self, plan: &mut ContainerPlan) -> Result<(), LaunchError> {
        match &plan.network {
            Some(NetworkMode::Cni { network }) => {
                networks(&self.network_dir)?.find(network)?;
            }
            Some(NetworkMode::Container { container }) => {
                let path = self.namespace_of(container)?;
                plan.network = Some(NetworkMode::Namespace { path });
            }
            _ => {}
        }
        Ok(())
    }

    /// The network namespace of another container.
    fn namespace_of(&self, container: &str) -> Result<PathBuf, LaunchError> {
        let refused =
            |why: &str| LaunchError::from(Refused::new("--network", format!("container:{container}: {why}")));
        if self.runtime.is_sandbox() {
            // It would take the addresses away from the other one.
            return Err(refused("gVisor needs a network namespace for itself alone"));
        }
        let folder: ContainerDir = self.state.find(container)?;
        let record =
            folder.read_record()?.ok_or_else(|| StateError::NoSuchContainer(container.to_owned()))?;
        if record.sandboxed {
            return Err(refused("its network is inside of its sandbox, where no other container comes"));
        }
        if let Some(attachment) = &record.attachment {
            let namespace =
                record.connection.as_ref().map(|connection| connection.namespace(&record.id, attachment));
            return Ok(namespace.unwrap_or_else(|| attachment.namespace.clone()));
        }
        let is_running = matches!(record.status, Status::Created | Status::Running | Status::Paused);
        let process = record.process.as_ref().filter(|process| process.is_alive(&self.host.boot_id));
        match process.filter(|_| is_running) {
            Some(process) => Ok(PathBuf::from(format!("/proc/{}/ns/net", process.pid))),
            None => Err(refused("it does not run")),
        }
    }

    /// What a container asks of a network of CNI.
    pub(super) fn connection(&self, plan: &ContainerPlan, network: &NetworkMode) -> Option<Connection> {
        let NetworkMode::Cni { network } = network else { return None };
        Some(Connection {
            directory: self.network_dir.clone(),
            network: network.clone(),
            ports: plan.publish.clone(),
            names: plan.names.clone(),
            egress: plan.egress.clone(),
        })
    }

    /// The files that say names to a container: of an image, whose own would be of where it was built, and wherever there
    /// is a network of CNI.
    pub(super) fn name_files(&self, plan: &ContainerPlan) -> Option<NameFiles> {
        let is_wanted = matches!(plan.source, Source::Image(_))
            || matches!(plan.network, Some(NetworkMode::Cni { .. }))
            || plan.names != Default::default();
        is_wanted.then(|| NameFiles::of(self.state.container(&plan.id).path()))
    }

    /// Writes them, as far as they are known before it has its addresses.
    pub(super) fn write_names(&self, prepared: &Prepared) -> Result<(), LaunchError> {
        let Prepared { plan, spec, .. } = prepared;
        let Some(files) = self.name_files(plan) else { return Ok(()) };
        // The host's address is not known yet.
        let mut request = plan.names.clone();
        if matches!(spec.network, NetworkMode::Cni { .. }) {
            request.hosts.retain(|entry| entry.address.is_some());
        }
        let names = Names {
            request: &request,
            hostname: spec.view().hostname(),
            attachment: None,
            has_host_network: spec.network == NetworkMode::Host,
        };
        Ok(files.write(&names)?)
    }
}
