//! Taking away what nobody detached: after a crash, a kill -9, a reboot.
//!
//! Each kind of thing is listed before the records are read: a record is there before the thing, so that what is listed
//! and has no record belongs to nobody. Records that move from the pool to a container are seen at least once, as the
//! pool is read first.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cni::ValidAttachment;
use crate::error::NetworkError;
use crate::leases;
use crate::lock::{Hold, Lock};
use crate::namespace::is_namespace;
use crate::networks::Networks;
use crate::record::{Phase, Record, entries};

/// What belongs to nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// Ids of containers that are gone and still attached.
    pub containers: Vec<String>,
    /// Attachments for the pool whose maker died, or from before a reboot.
    pub prepared: Vec<PathBuf>,
    /// Namespaces without an attachment.
    pub namespaces: Vec<String>,
    /// Addresses that host-local holds for attachments that are gone.
    pub leases: Vec<PathBuf>,
    /// Rules and chains of iptables of attachments that are gone, by the plugins' ids.
    pub rules: BTreeSet<String>,
}

impl Leftovers {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Networks {
    /// What belongs to nobody. `is_living` says of a container's id whether its attachment is still wanted.
    ///
    /// # Errors
    /// Something cannot be listed, or a record cannot be read: without knowing what is its container's, whose it is of the
    /// rest cannot be said. A missing iptables has no rules.
    pub async fn leftovers(
        &self,
        is_living: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Leftovers, NetworkError> {
        let namespaces = self.namespaces.list()?;
        let ruled = self.ids_in_rules().await?;
        let leases = leases::all(&self.catalog(), &self.places.runtime)?;
        let mut left = Leftovers::default();
        let mut known = BTreeSet::new();
        for path in self.pool_directories()? {
            let record = Record::read(&path)?;
            let is_ready = record.as_ref().is_some_and(|record| {
                record.phase == Phase::Added && is_namespace(&record.parameters.namespace)
            });
            if is_ready || !is_abandoned(&path) {
                known.extend(record.map(|record| record.key().to_owned()));
            } else {
                left.prepared.push(path);
            }
        }
        for (id, path) in entries(&self.places.state.join("attached"))? {
            let record = Record::read(&path)?;
            if is_living(&id) || !is_abandoned(&path) {
                known.extend(record.map(|record| record.key().to_owned()));
            } else {
                left.containers.push(id);
            }
        }
        let is_gone = |key: &str| key.starts_with(&self.prefix) && !known.contains(key);
        let is_stray = |lease: &leases::Lease| lease.key.as_ref().is_none_or(|key| is_gone(key));
        left.namespaces = namespaces.into_iter().filter(|name| is_gone(name)).collect();
        left.rules = ruled.into_iter().filter(|key| is_gone(key)).collect();
        left.leases = leases.into_iter().filter(is_stray).map(|lease| lease.path).collect();
        Ok(left)
    }

    /// Takes away what belongs to nobody, and says what it was.
    ///
    /// # Errors
    /// All that could not be taken away; the rest has gone.
    pub async fn gc(&self, is_living: &(dyn Fn(&str) -> bool + Sync)) -> Result<Leftovers, NetworkError> {
        let left = self.leftovers(is_living).await?;
        let mut errors = Vec::new();
        let abandoned =
            left.containers.iter().map(|id| self.attached(id)).chain(left.prepared.iter().cloned());
        for path in abandoned {
            errors.extend(self.remove_abandoned(&path).await.err());
        }
        // What a record leads to has gone with it; now for what no record leads to.
        let rest = self.leftovers(is_living).await?;
        for name in &rest.namespaces {
            errors.extend(self.namespaces.destroy(name).err());
        }
        for path in &rest.leases {
            errors.extend(leases::release(path, &self.prefix).err());
        }
        if !rest.rules.is_empty() {
            errors.extend(self.remove_rules(&rest.rules).await.err());
        }
        match errors.len() {
            0 => Ok(left),
            1 => errors.pop().map_or(Ok(left), Err),
            _ => Err(NetworkError::Several(errors)),
        }
    }

    /// GC of CNI 1.1: the network's plugins take away what belongs to no attachment. Not part of [`Networks::gc`], since
    /// plugins then take away what others have of the network and nobody names here.
    ///
    /// `others` are attachments that other state directories, or other programs, have. Waits until nobody attaches or
    /// detaches here, and holds them up meanwhile. Plugins that do not know GC are not called.
    ///
    /// # Errors
    /// All that plugins refused.
    pub async fn collect(&self, network: &str, others: &[ValidAttachment]) -> Result<(), NetworkError> {
        let config = self.network(network)?;
        let _turn = self.turn(Hold::Alone).await?;
        let prepared = self.pool_directories()?.into_iter().map(|path| Record::read(&path));
        let prepared = prepared.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        let attached = self.attached_records()?.into_iter().map(|(_, record)| record);
        let ours = prepared.into_iter().chain(attached).filter(|record| record.network.name == network);
        let ours = ours.map(|record| ValidAttachment {
            container_id: record.parameters.container_id,
            interface: record.parameters.interface,
        });
        let valid: Vec<_> = ours.chain(others.iter().cloned()).collect();
        self.client.gc(&config, &valid).await.map_err(NetworkError::Several)
    }

    pub(crate) async fn remove_abandoned(&self, directory: &Path) -> Result<(), NetworkError> {
        let _turn = self.turn(Hold::Shared).await?;
        match Lock::try_directory(directory) {
            Ok(Some(_lock)) => self.remove(directory).await,
            Ok(None) => Ok(()),
            // Somebody is at it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(source) => Err(NetworkError::Record { path: directory.to_owned(), what: "locked", source }),
        }
    }
}

/// Whether nobody makes, moves or removes the attachment of a directory. One that has gone meanwhile is not abandoned.
fn is_abandoned(directory: &Path) -> bool {
    matches!(Lock::try_directory(directory), Ok(Some(_)))
}
