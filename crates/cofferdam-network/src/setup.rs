//! Making one attachment, and taking it away.

use std::path::Path;

use serde_json::Value;

use crate::bridge;
use crate::cni::{NetworkConfig, PluginError};
use crate::error::NetworkError;
use crate::lock::{Hold, Lock};
use crate::namespace;
use crate::networks::Networks;
use crate::ports::{HeldPorts, PortRequest, PublishedPort, mappings, reserve};
use crate::record::{Phase, Record};
use crate::{netlink, stragglers};

impl Networks {
    /// Makes all of an attachment. On an error, anything may be there; the record, if written, says what.
    pub(crate) async fn set_up(
        &self,
        directory: &Path,
        record: &mut Record,
        ports: &[PortRequest],
    ) -> Result<HeldPorts, NetworkError> {
        let held = self.take_ports(directory, record, ports).await?;
        let (namespaces, key) = (self.namespaces.clone(), record.key().to_owned());
        blocking(move || namespaces.create(&key)).await?;
        if record.network.source == bridge::file(&self.places.runtime) {
            self.ensure_bridge_rules(&record.network).await?;
        }
        let (raw, _) = self.client.add(&self.chain(record), record.cni_version, &record.parameters).await?;
        record.result = Some(raw);
        Self::check_families(record)?;
        let (path, interface) = (record.parameters.namespace.clone(), record.parameters.interface.clone());
        record.mtu = blocking(move || {
            let link = interface.clone();
            namespace::enter(&path, move || netlink::mtu(&link)).map_err(|source| NetworkError::Link {
                link: interface,
                what: "looked at",
                source,
            })
        })
        .await?;
        record.phase = Phase::Added;
        record.write(directory)?;
        Ok(held)
    }

    /// Holds ports of the host, and writes the record with them. Between the look at other records and the writing of
    /// this one nobody else chooses.
    pub(crate) async fn take_ports(
        &self,
        directory: &Path,
        record: &mut Record,
        ports: &[PortRequest],
    ) -> Result<HeldPorts, NetworkError> {
        if ports.is_empty() {
            record.write(directory)?;
            return Ok(HeldPorts::default());
        }
        let path = self.places.state.join("ports.lock");
        let failed = |source| NetworkError::Record { path: path.clone(), what: "locked", source };
        let _lock = Lock::file_async(path.clone(), Hold::Alone).await.map_err(failed)?;
        let (chosen, held) = reserve(ports, &self.published()?)?;
        record.parameters.capabilities.insert("portMappings".into(), mappings(&chosen));
        record.ports = chosen;
        record.write(directory)?;
        Ok(held)
    }

    /// The plugins that have something to do for an attachment: without ports that of our own network which publishes
    /// them has nothing, and each call costs a process. A prepared attachment has none until it is claimed.
    pub(crate) fn chain(&self, record: &Record) -> NetworkConfig {
        let mut network = record.network.clone();
        if record.ports.is_empty() && network.source == bridge::file(&self.places.runtime) {
            network.plugins.retain(|plugin| !plugin.is_capable("portMappings"));
        }
        network
    }

    /// Ports of all containers, with their ids.
    fn published(&self) -> Result<Vec<(String, PublishedPort)>, NetworkError> {
        let records = self.attached_records()?;
        let ports =
            |(id, record): (String, Record)| record.ports.into_iter().map(move |port| (id.clone(), port));
        Ok(records.into_iter().flat_map(ports).collect())
    }

    /// portmap says nothing when a port cannot be published for want of an address of its family.
    pub(crate) fn check_families(record: &Record) -> Result<(), NetworkError> {
        let result = record.parsed_result();
        let has = |v4: bool| result.ips.iter().any(|ip| ip.address.addr().is_ipv4() == v4);
        match record.ports.iter().find(|port| !has(port.address.is_ipv4())) {
            None => Ok(()),
            Some(port) => Err(NetworkError::Invalid {
                what: "the published address",
                text: port.address.to_string(),
                reason: format!("the network {} gives no address of its family", record.network.name),
            }),
        }
    }

    /// Takes away whatever there is of an attachment, and goes on after failures.
    ///
    /// # Errors
    /// All of them.
    pub(crate) async fn take_away(&self, record: &Record) -> Result<(), NetworkError> {
        let key = record.key().to_owned();
        let mut errors = Vec::new();
        let waited = key.clone();
        let ended = blocking(move || {
            let failed =
                |source| NetworkError::Program { program: "a plugin".into(), reason: format!("{source}") };
            stragglers::wait_for_end(&waited).map_err(failed)
        });
        errors.extend(ended.await.err());
        let mut parameters = record.parameters.clone();
        if self.restore_addresses(record).await {
            tracing::debug!(id = key, "the namespace is there");
        } else {
            // Plugins refuse a path that is there and is no namespace.
            parameters.namespace = "".into();
        }
        let deleted = self
            .client
            .del(&self.chain(record), record.cni_version, &parameters, record.result.as_ref())
            .await;
        errors.extend(deleted.err().into_iter().flatten().filter(|error| !is_unknown_container(error)));
        let namespaces = self.namespaces.clone();
        errors.extend(blocking(move || namespaces.destroy(&key)).await.err());
        match errors.len() {
            0 | 1 => errors.pop().map_or(Ok(()), Err),
            _ => Err(NetworkError::Several(errors)),
        }
    }

    /// Gives the interface its addresses back, which gVisor has taken away: plugins find by them the rules to remove.
    ///
    /// `false`: the namespace is not there. An interface that is not there has no addresses to give back.
    async fn restore_addresses(&self, record: &Record) -> bool {
        let result = record.parsed_result();
        let link = record.parameters.interface.clone();
        let addresses: Vec<_> = result.own_addresses(&link).map(|ip| ip.address).collect();
        let path = record.parameters.namespace.clone();
        blocking(move || {
            let entered = namespace::enter(&path, move || {
                if let Err(error) = netlink::restore_addresses(&link, &addresses) {
                    tracing::debug!(link, %error, "no addresses given back");
                }
                Ok(())
            });
            Ok(entered.is_ok())
        })
        .await
        .unwrap_or(false)
    }
}

fn is_unknown_container(error: &NetworkError) -> bool {
    matches!(error, NetworkError::Refused { error, .. } if error.code == PluginError::UNKNOWN_CONTAINER)
}

/// Runs what blocks beside the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let failed = |error: tokio::task::JoinError| NetworkError::Program {
        program: "a thread of ours".into(),
        reason: error.to_string(),
    };
    tokio::task::spawn_blocking(act).await.map_err(failed)?
}

/// The value of a capability that is there only if it was asked for.
pub(crate) fn given(values: &[String]) -> Option<Value> {
    (!values.is_empty()).then(|| Value::from(values.to_vec()))
}
