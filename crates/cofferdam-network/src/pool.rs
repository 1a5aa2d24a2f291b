//! Attachments that are made before somebody asks for them, as making one is the slow part of a container's start.
//!
//! ```text
//!  (nothing) --refill--> adding --> added --claim: rename--> attached
//!                                                \-- ports: adding --> added
//! ```
//!
//! Invariant: a prepared attachment becomes one container's, and never comes back. A claim moves its directory from
//! `pool/` to `attached/`, which one process alone can do.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::Serialize;

use crate::attachment::{Attached, Attachment};
use crate::bridge;
use crate::cni::{NetworkConfig, PluginConfig};
use crate::error::NetworkError;
use crate::lock::{Hold, Lock};
use crate::marks::PoolMarks;
use crate::namespace::is_namespace;
use crate::networks::{AttachRequest, DEFAULT_INTERFACE, Networks};
use crate::ports::HeldPorts;
use crate::record::{Phase, Record, entries};

/// What a refill did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Refilled {
    /// How many were made.
    pub made: usize,
    /// How many were taken away: made for a configuration that has changed since, or before a reboot.
    pub removed: usize,
    /// How many are ready now.
    pub ready: usize,
}

impl Networks {
    /// Prepares attachments to a network until there are `marks.high`, if there are fewer than `marks.low`, and takes
    /// away those that are of no use any more. A process in the background calls this now and then, and after claims.
    ///
    /// One process at a time refills; another one's call changes nothing. When the future is dropped, what was half made
    /// stays until `gc`.
    ///
    /// # Errors
    /// As of [`Networks::attach`].
    pub async fn refill(&self, network: &str, marks: PoolMarks) -> Result<Refilled, NetworkError> {
        let config = self.network(network)?;
        let pool = self.pool(network);
        std::fs::create_dir_all(&pool).map_err(|source| NetworkError::Record {
            path: pool.clone(),
            what: "made",
            source,
        })?;
        let mut done = Refilled::default();
        // Those that are ready need them too, should somebody have flushed them since.
        if config.source == bridge::file(&self.places.runtime) {
            self.ensure_bridge_rules(&config).await?;
        }
        let _lock = match Lock::try_directory(&pool) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(done),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(done),
            Err(source) => return Err(NetworkError::Record { path: pool, what: "locked", source }),
        };
        for (_, path) in entries(&pool)? {
            match Record::read(&path)? {
                Some(record) if is_ready(&record, &config) => done.ready += 1,
                Some(_) | None => {
                    self.remove_abandoned(&path).await?;
                    done.removed += 1;
                }
            }
        }
        if done.ready < marks.low {
            while done.ready < marks.high {
                self.prepare(&pool, &config).await?;
                done.made += 1;
                done.ready += 1;
            }
        }
        Ok(done)
    }

    /// Takes away all that is prepared for a network.
    ///
    /// # Errors
    /// All that could not be taken away.
    pub async fn drain(&self, network: &str) -> Result<(), NetworkError> {
        let mut errors = Vec::new();
        for (_, path) in entries(&self.pool(network))? {
            errors.extend(self.remove_abandoned(&path).await.err());
        }
        if errors.is_empty() { Ok(()) } else { Err(NetworkError::Several(errors)) }
    }

    async fn prepare(&self, pool: &Path, config: &NetworkConfig) -> Result<(), NetworkError> {
        let _turn = self.turn(Hold::Shared).await?;
        self.client.find_all(config)?;
        let version = self.client.choose_version(config).await?;
        let parameters = self.parameters(config, &AttachRequest::default())?;
        let directory = pool.join(&parameters.container_id);
        let Some(_lock) = self.make_directory(&directory)? else {
            return Err(NetworkError::AttachedAlready(parameters.container_id));
        };
        let mut record = Record::new(config.clone(), version, parameters);
        if let Err(error) = self.set_up(&directory, &mut record, &[]).await {
            self.give_up(&directory).await;
            return Err(error);
        }
        Ok(())
    }

    /// Gives a container a prepared attachment. `None`: there is none that suits.
    pub(crate) async fn claim(
        &self,
        id: &str,
        config: &NetworkConfig,
        request: &AttachRequest,
    ) -> Result<Option<Attached>, NetworkError> {
        let publisher = publisher(config);
        let is_plain = *request
            == AttachRequest {
                network: request.network.clone(),
                interface: request.interface.clone().filter(|name| name == DEFAULT_INTERFACE),
                ports: request.ports.clone(),
                ..AttachRequest::default()
            };
        if !is_plain || (!request.ports.is_empty() && publisher.is_none()) {
            return Ok(None);
        }
        let Some((_lock, mut record)) = self.take_prepared(id, config)? else { return Ok(None) };
        let directory = self.attached(id);
        let mut held = HeldPorts::default();
        if let (Some(publisher), false) = (publisher, request.ports.is_empty()) {
            let published = async {
                // Until it is published, nobody may take it for whole.
                record.phase = Phase::Adding;
                held = self.take_ports(&directory, &mut record, &request.ports).await?;
                let (version, previous) = (record.cni_version, record.result.clone());
                let added = self
                    .client
                    .add_one(&record.network, publisher, version, &record.parameters, previous)
                    .await;
                record.result = Some(added?.0);
                Self::check_families(&record)?;
                record.phase = Phase::Added;
                record.write(&directory)
            };
            if let Err(error) = published.await {
                self.give_up(&directory).await;
                return Err(error);
            }
        }
        Ok(Some(Attached { attachment: Attachment::new(id, &record), held }))
    }

    /// Moves a prepared attachment to a container. Its lock stays with the moved directory.
    fn take_prepared(
        &self,
        id: &str,
        config: &NetworkConfig,
    ) -> Result<Option<(Lock, Record)>, NetworkError> {
        let directory = self.attached(id);
        for (_, path) in entries(&self.pool(&config.name))? {
            let Ok(Some(lock)) = Lock::try_directory(&path) else { continue };
            let Some(record) = Record::read(&path)?.filter(|record| is_ready(record, config)) else {
                continue;
            };
            let failed = |source| NetworkError::Record { path: path.clone(), what: "claimed", source };
            if let Some(parent) = directory.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            return match renameat_with(CWD, &path, CWD, &directory, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(Some((lock, record))),
                Err(Errno::EXIST) => Err(NetworkError::AttachedAlready(id.to_owned())),
                Err(errno) => Err(failed(errno.into())),
            };
        }
        Ok(None)
    }

    pub(crate) fn pool(&self, network: &str) -> PathBuf {
        self.places.state.join("pool").join(network)
    }
}

/// Whether a prepared attachment can be used: whole, of this configuration, and from after the boot.
fn is_ready(record: &Record, config: &NetworkConfig) -> bool {
    record.phase == Phase::Added && record.network == *config && is_namespace(&record.parameters.namespace)
}

/// The plugin that publishes ports, if it can be called alone: the last of the chain, behind another.
fn publisher(config: &NetworkConfig) -> Option<&PluginConfig> {
    let (last, before) = config.plugins.split_last()?;
    let only_last = before.iter().all(|plugin| !plugin.is_capable("portMappings"));
    (last.is_capable("portMappings") && only_last && !before.is_empty()).then_some(last)
}
