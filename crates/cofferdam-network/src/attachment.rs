//! What one container has of a network.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cni::{AddResult, Dns, Route};
use crate::ports::{HeldPorts, PublishedPort};
use crate::record::Record;

/// A container's attachment to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The container.
    pub id: String,
    /// The network's name.
    pub network: String,
    /// The file of the network namespace, for the runtime to join. One container alone may ever use it: gVisor takes
    /// the addresses of its interfaces away.
    pub namespace: PathBuf,
    /// The interface's name, inside.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Who forwards, by family.
    pub gateways: Vec<IpAddr>,
    /// Routes inside.
    pub routes: Vec<Route>,
    /// The interface's hardware address.
    pub mac: Option<String>,
    /// Its MTU, in bytes.
    pub mtu: Option<u32>,
    /// Who resolves names, as the network says; often nobody.
    pub dns: Dns,
    /// Ports of the host that lead to the container.
    pub ports: Vec<PublishedPort>,
}

/// An attachment that was just made.
#[derive(Debug)]
pub struct Attached {
    /// The attachment.
    pub attachment: Attachment,
    /// Its ports of the host.
    pub held: HeldPorts,
}

impl Attachment {
    pub(crate) fn new(id: &str, record: &Record) -> Self {
        let result = record.parsed_result();
        let ips: Vec<_> = result.own_addresses(&record.parameters.interface).collect();
        let own = result.interfaces.iter().find(|one| one.is_inside(&record.parameters.interface));
        let AddResult { routes, dns, .. } = result.clone();
        Self {
            id: id.to_owned(),
            network: record.network.name.clone(),
            namespace: record.parameters.namespace.clone(),
            interface: record.parameters.interface.clone(),
            addresses: ips.iter().map(|ip| ip.address).collect(),
            gateways: ips.iter().filter_map(|ip| ip.gateway).collect(),
            routes,
            mac: own.map(|one| one.mac.clone()).filter(|mac| !mac.is_empty()),
            mtu: record.mtu,
            dns,
            ports: record.ports.clone(),
        }
    }
}
