//! A container's network: attached before the runtime is called, for one run alone, and taken away after it.

use super::error::StartError;
use super::supervisor::Supervisor;
use crate::bundle;
use crate::fault;
use crate::network::{NameFiles, Names};

impl Supervisor {
    /// Attaches the container to its network, if it has one of CNI. What is made is taken away with the rest of it.
    pub(super) async fn connect(&mut self) -> Result<(), StartError> {
        let Some(connection) = self.record.connection.clone() else { return Ok(()) };
        // Of its last run: gVisor has taken the addresses of that away.
        self.record.attachment = None;
        let attached = connection.begin(&self.container.id).await.map_err(StartError::Network)?;
        fault::reached("launch.network")?;
        let bundle = self.container.bundle();
        bundle::join_network(&bundle, &attached.attachment.namespace)?;
        let config = bundle::read_config(&bundle)?;
        let names = Names {
            request: &connection.names,
            hostname: crate::spec::SpecView::of(&config).hostname(),
            attachment: Some(&attached.attachment),
            has_host_network: false,
        };
        NameFiles::of(self.container.path()).write(&names).map_err(StartError::Network)?;
        self.record.attachment = Some(attached.attachment);
        self.held_ports = attached.held;
        Ok(())
    }
}
