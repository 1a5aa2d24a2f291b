//! What a container has of a network of CNI, and where that is written down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_network::bridge::BridgeOptions;
use cofferdam_network::egress::{Gate, GateError, ParseError, Policy, Uplink};
use cofferdam_network::namespace::Namespaces;
use cofferdam_network::ports::HeldPorts;
use cofferdam_network::{AttachRequest, Attached, Networks, Places};
use serde::{Deserialize, Serialize};

use super::programs::Reaped;
use super::{Attachment, CniError, NameRequest, PortRequest};
use crate::error::{Code, Diagnose};
use crate::id::ContainerId;

/// Where the namespaces are that containers with a gate are in. They go with a reboot, as all namespaces do.
const GATED: &str = "/run/cofferdam/gated";

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
    /// What it may reach, as `--egress` says it; everything without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
}

/// A container's network, just made.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) attachment: Attachment,
    pub(crate) held: HeldPorts,
    /// The namespace for the runtime to join.
    pub(crate) namespace: PathBuf,
    /// What holds it to what it may reach.
    pub(crate) gate: Option<Gate>,
}

/// A container that is not connected, or not held to what it may reach.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its network fails.
    #[error(transparent)]
    Network(#[from] CniError),
    /// It cannot be held to what it may reach.
    #[error("it cannot be held to what it may reach")]
    Gate(#[from] GateError),
    /// What it may reach is written in no way that is known.
    #[error(transparent)]
    Policy(#[from] ParseError),
}

impl Diagnose for ConnectError {
    fn code(&self) -> Code {
        match self {
            Self::Network(error) => error.code(),
            Self::Gate(GateError::Missing { .. }) => Code::NetworkProgramMissing,
            Self::Gate(_) => Code::EgressFailed,
            Self::Policy(_) => Code::InvalidValue,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Network(error) => Diagnose::next_step(error),
            Self::Gate(_) => Some(
                "install nftables (1.0.1 or newer) and util-linux; the kernel has to know nftables' egress hook (5.16)".into(),
            ),
            Self::Policy(_) => None,
        }
    }
}

/// The networks of this machine, with attachments written down in a directory.
///
/// # Errors
/// The directory cannot be made.
pub(crate) fn networks(directory: &Path) -> Result<Networks, CniError> {
    let places = Places::usual(directory.to_owned(), std::env::var_os("CNI_PATH").as_deref());
    Networks::open(places, BridgeOptions::default(), Arc::new(Reaped))
}

/// The namespaces that containers with a gate are in, by the containers' ids.
pub(crate) fn gated(directory: &Path) -> Namespaces {
    Namespaces::new(Path::new(GATED).join(directory.file_name().unwrap_or_default()))
}

impl Connection {
    /// Attaches a container, and puts its gate before it where it has one.
    ///
    /// # Errors
    /// [`ConnectError`]; what was made is taken away by [`Connection::end`].
    pub(crate) async fn begin(&self, id: &ContainerId) -> Result<Connected, ConnectError> {
        let policy = self.egress.as_deref().map(Policy::parse).transpose()?;
        let request = AttachRequest {
            network: self.network.clone(),
            ports: self.ports.clone(),
            ..AttachRequest::default()
        };
        let Attached { attachment, held } = networks(&self.directory)?.attach(id.as_str(), &request).await?;
        let Some(policy) = policy else {
            let namespace = attachment.namespace.clone();
            return Ok(Connected { attachment, held, namespace, gate: None });
        };
        let (gated, name) = (gated(&self.directory), id.to_string());
        let namespace = blocking(move || gated.create(&name)).await?;
        let (programs, uplink) = (Arc::new(Reaped), Uplink::from(&attachment));
        let gate = Gate::make(programs, &attachment.namespace, &namespace, &uplink, &policy).await?;
        Ok(Connected { attachment, held, namespace, gate: Some(gate) })
    }

    /// The gate of a container whose supervisor has died; `None` where it has none.
    ///
    /// # Errors
    /// [`ConnectError`]; it holds what it held.
    pub(crate) async fn reopen_gate(&self, attachment: &Attachment) -> Result<Option<Gate>, ConnectError> {
        let Some(policy) = self.egress.as_deref().map(Policy::parse).transpose()? else { return Ok(None) };
        Ok(Some(Gate::open(Arc::new(Reaped), &attachment.namespace, &policy).await?))
    }

    /// The namespace that a container is in which has this attachment.
    pub(crate) fn namespace(&self, id: &ContainerId, attachment: &Attachment) -> PathBuf {
        match &self.egress {
            Some(_) => gated(&self.directory).path(id.as_str()),
            None => attachment.namespace.clone(),
        }
    }

    /// Takes a container's attachment away, and its gate; there need not be one.
    ///
    /// # Errors
    /// What could not be taken away.
    pub(crate) async fn end(&self, id: &ContainerId) -> Result<(), ConnectError> {
        end_attachment(&self.directory, id).await
    }
}

/// Takes away what a container has of a network, whatever it asked for, and goes on after failures.
///
/// # Errors
/// The first thing that could not be taken away; the others are logged.
pub(crate) async fn end_attachment(directory: &Path, id: &ContainerId) -> Result<(), ConnectError> {
    let (networks, gated) = (networks(directory)?, gated(directory));
    let mut errors = Vec::new();
    if gated.path(id.as_str()).exists() {
        // It has taken the addresses, which the plugins look for.
        errors.extend(end_gate(&networks, id).await.err());
    }
    errors.extend(networks.detach(id.as_str()).await.err().map(ConnectError::from));
    let name = id.to_string();
    errors.extend(blocking(move || gated.destroy(&name)).await.err().map(ConnectError::from));
    let mut errors = errors.into_iter();
    let first = errors.next();
    for error in errors {
        tracing::warn!(%id, %error, "more of a container's network could not be taken away");
    }
    first.map_or(Ok(()), Err)
}

async fn end_gate(networks: &Networks, id: &ContainerId) -> Result<(), ConnectError> {
    let Some(attachment) = networks.attachment(id.as_str())? else { return Ok(()) };
    Ok(Gate::unmake(Arc::new(Reaped), &attachment.namespace).await?)
}

/// Runs what blocks for some milliseconds beside the event loop.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    let failed = |error: tokio::task::JoinError| CniError::Program {
        program: "a thread of ours".into(),
        reason: error.to_string(),
    };
    tokio::task::spawn_blocking(act).await.map_err(failed)?
}
