//! What a container has of a network of CNI, and where that is written down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_network::bridge::BridgeOptions;
use cofferdam_network::{AttachRequest, Attached, Networks, Places};
use serde::{Deserialize, Serialize};

use super::programs::Reaped;
use super::{CniError, NameRequest, PortRequest};
use crate::id::ContainerId;

/// What a container asks of its network, and where its attachment is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Where attachments are written down; empty without a network of CNI.
    pub directory: PathBuf,
    /// The network.
    pub network: String,
    /// Ports to publish.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRequest>,
    /// What it asks about names.
    #[serde(default)]
    pub names: NameRequest,
}

/// The networks of this machine, with attachments written down in a directory.
///
/// # Errors
/// The directory cannot be made.
pub(crate) fn networks(directory: &Path) -> Result<Networks, CniError> {
    let places = Places::usual(directory.to_owned(), std::env::var_os("CNI_PATH").as_deref());
    Networks::open(places, BridgeOptions::default(), Arc::new(Reaped))
}

impl Connection {
    /// Attaches a container.
    ///
    /// # Errors
    /// [`CniError`]; what was made is taken away again, or by [`Connection::end`].
    pub(crate) async fn begin(&self, id: &ContainerId) -> Result<Attached, CniError> {
        let request = AttachRequest {
            network: self.network.clone(),
            ports: self.ports.clone(),
            ..AttachRequest::default()
        };
        networks(&self.directory)?.attach(id.as_str(), &request).await
    }

    /// Takes a container's attachment away; there need not be one.
    ///
    /// # Errors
    /// What could not be taken away.
    pub(crate) async fn end(&self, id: &ContainerId) -> Result<(), CniError> {
        networks(&self.directory)?.detach(id.as_str()).await
    }
}
