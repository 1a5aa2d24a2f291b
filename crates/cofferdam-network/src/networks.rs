//! Containers and networks: attach, detach, and what is attached.
//!
//! ```text
//!  (nothing) --attach--> adding --> added --detach--> (nothing)
//!                          |                 ^
//!                          +--- killed: gc --+
//! ```
//!
//! Invariant: a record in phase `adding` is on disk before anything of its attachment is on the host, and it goes when
//! all of it has gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::attachment::{Attached, Attachment};
use crate::bridge::{self, BridgeOptions};
use crate::cni::config::check_name;
use crate::cni::{Catalog, Client, NetworkConfig, Parameters};
use crate::error::NetworkError;
use crate::lock::{Hold, Lock};
use crate::namespace::Namespaces;
use crate::ports::PortRequest;
use crate::programs::Programs;
use crate::record::{Phase, Record, entries};
use crate::setup::given;

/// The interface's name inside of a container when none is given.
pub const DEFAULT_INTERFACE: &str = "eth0";

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Records of attachments; one directory per user of this crate.
    pub state: PathBuf,
    /// Namespaces, and what of the network `bridge` is the same for the whole machine. It must go with a reboot.
    pub runtime: PathBuf,
    /// Directories of configurations.
    pub configurations: Vec<PathBuf>,
    /// Directories of plugins.
    pub plugins: Vec<PathBuf>,
}

impl Places {
    /// The usual places, and records in this directory. `cni_path` is the variable `CNI_PATH`.
    #[must_use]
    pub fn usual(state: PathBuf, cni_path: Option<&std::ffi::OsStr>) -> Self {
        Self {
            state,
            runtime: "/run/cofferdam".into(),
            configurations: vec![crate::cni::config::DEFAULT_DIRECTORY.into()],
            plugins: crate::cni::default_plugin_directories(cni_path),
        }
    }
}

/// What a container asks of a network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachRequest {
    /// The network's name.
    pub network: String,
    /// The interface's name inside; [`DEFAULT_INTERFACE`] when there is none.
    pub interface: Option<String>,
    /// Ports to publish.
    pub ports: Vec<PortRequest>,
    /// Addresses to have, with the length of the prefix where the network's plugin wants it.
    pub ips: Vec<String>,
    /// The hardware address to have.
    pub mac: Option<String>,
    /// Other names to be found by, where the network has names.
    pub aliases: Vec<String>,
    /// Limits, as the capability `bandwidth` has them.
    pub bandwidth: Option<Value>,
    /// Resolvers, as the capability `dns` has them.
    pub dns: Option<Value>,
    /// Pairs for `CNI_ARGS`.
    pub args: Vec<(String, String)>,
}

/// The networks of a machine, as one state directory uses them.
#[derive(Debug, Clone)]
pub struct Networks {
    pub(crate) places: Places,
    pub(crate) client: Client,
    pub(crate) programs: Arc<dyn Programs>,
    pub(crate) namespaces: Namespaces,
    bridge: BridgeOptions,
    /// What all ids that plugins get from this state directory begin with.
    pub(crate) prefix: String,
}

impl Networks {
    /// Networks whose records are in `places.state`, which is made if it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(
        places: Places,
        bridge: BridgeOptions,
        programs: Arc<dyn Programs>,
    ) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Record { path: places.state.clone(), what: "made", source };
        std::fs::create_dir_all(&places.state).map_err(failed)?;
        let state = std::fs::canonicalize(&places.state).map_err(failed)?;
        let mark = crc32fast::hash(state.as_os_str().as_encoded_bytes());
        Ok(Self {
            client: Client::new(Arc::clone(&programs), places.plugins.clone()),
            namespaces: Namespaces::new(places.runtime.join("netns")),
            prefix: format!("cofferdam-{mark:08x}-"),
            places,
            programs,
            bridge,
        })
    }

    /// All networks, and what cannot be used. Nothing is made; `bridge` is shown as it is or would be.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::load(&self.places.configurations);
        if !catalog.networks.contains_key(bridge::NAME) {
            match bridge::preview(&self.places.runtime, &self.bridge) {
                Ok(ours) => drop(catalog.networks.insert(bridge::NAME.to_owned(), ours)),
                Err(problem) => catalog.problems.push(problem),
            }
        }
        catalog
    }

    /// Attaches a container to a network: a namespace, an interface, addresses, ports. Takes a prepared one if there is
    /// one that suits ([`Networks::refill`]).
    ///
    /// The container must be known to whoever calls [`Networks::gc`] before. When the future is dropped, what was made
    /// stays until `detach` or `gc`.
    ///
    /// # Errors
    /// [`NetworkError`]; everything was taken away again, or a record stays for `gc`.
    pub async fn attach(&self, id: &str, request: &AttachRequest) -> Result<Attached, NetworkError> {
        check_id(id)?;
        let network = self.network(&request.network)?;
        let parameters = self.parameters(&network, request)?;
        self.client.find_all(&network)?;
        let version = self.client.choose_version(&network).await?;
        let _turn = self.turn(Hold::Shared).await?;
        if let Some(claimed) = self.claim(id, &network, request).await? {
            return Ok(claimed);
        }
        let directory = self.attached(id);
        let Some(_lock) = self.make_directory(&directory)? else {
            return Err(NetworkError::AttachedAlready(id.to_owned()));
        };
        let mut record = Record::new(network, version, parameters);
        match self.set_up(&directory, &mut record, &request.ports).await {
            Ok(held) => Ok(Attached { attachment: Attachment::new(id, &record), held }),
            Err(error) => {
                self.give_up(&directory).await;
                Err(error)
            }
        }
    }

    /// Takes a container's attachment away; there need not be one.
    ///
    /// DEL is called with the configuration of the time of ADD. Waits for somebody who attaches or detaches it.
    ///
    /// # Errors
    /// All that could not be taken away. The rest has gone; the record stays for `gc`, or another `detach`.
    pub async fn detach(&self, id: &str) -> Result<(), NetworkError> {
        check_id(id)?;
        let directory = self.attached(id);
        if !directory.exists() {
            return Ok(());
        }
        let _turn = self.turn(Hold::Shared).await?;
        let failed = |source| NetworkError::Record { path: directory.clone(), what: "locked", source };
        let waited = directory.clone();
        let lock = tokio::task::spawn_blocking(move || Lock::directory(&waited)).await;
        match lock.map_err(std::io::Error::other).and_then(|lock| lock).map_err(failed)? {
            Some(_lock) => self.remove(&directory).await,
            None => Ok(()),
        }
    }

    /// What a container has; `None` when it is not attached (yet).
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn attachment(&self, id: &str) -> Result<Option<Attachment>, NetworkError> {
        check_id(id)?;
        let record = Record::read(&self.attached(id))?;
        let done = record.filter(|record| record.phase == Phase::Added);
        Ok(done.map(|record| Attachment::new(id, &record)))
    }

    /// CHECK: whether a container's attachment is as it was made. `false` when the network has no way to tell.
    ///
    /// # Errors
    /// A plugin is not content, or the container is not attached.
    pub async fn check(&self, id: &str) -> Result<bool, NetworkError> {
        check_id(id)?;
        let record = Record::read(&self.attached(id))?;
        let Some((record, result)) =
            record.and_then(|record| record.result.clone().map(|result| (record, result)))
        else {
            return Err(NetworkError::Invalid {
                what: "the container",
                text: id.to_owned(),
                reason: "it is not attached to a network".into(),
            });
        };
        let mut network = self.chain(&record);
        if !record.ports.is_empty() {
            // It looks for its rules of IPv4 in ip6tables too, and so is never content (plugins 1.1.1).
            network.plugins.retain(|plugin| plugin.kind() != "portmap");
        }
        self.client.check(&network, record.cni_version, &record.parameters, &result).await
    }

    /// The network with a name. Nothing is made; `bridge` is given as it is or would be.
    ///
    /// # Errors
    /// There is none, or why `bridge` could not be made.
    pub fn find(&self, name: &str) -> Result<NetworkConfig, NetworkError> {
        self.find_or(name, bridge::preview)
    }

    /// The same, and `bridge` is made if this is its first use.
    pub(crate) fn network(&self, name: &str) -> Result<NetworkConfig, NetworkError> {
        self.find_or(name, bridge::network)
    }

    fn find_or(
        &self,
        name: &str,
        bridge: fn(&Path, &BridgeOptions) -> Result<NetworkConfig, NetworkError>,
    ) -> Result<NetworkConfig, NetworkError> {
        let mut catalog = Catalog::load(&self.places.configurations);
        if let Some(network) = catalog.networks.remove(name) {
            return Ok(network);
        }
        if name == bridge::NAME {
            return bridge(&self.places.runtime, &self.bridge);
        }
        for problem in catalog.problems {
            tracing::warn!(%problem, "a network cannot be used");
        }
        let known = catalog.networks.into_keys().chain([bridge::NAME.to_owned()]);
        Err(NetworkError::NoSuchNetwork {
            name: name.to_owned(),
            known: known.collect(),
            directories: self.places.configurations.clone(),
        })
    }

    pub(crate) fn parameters(
        &self,
        network: &NetworkConfig,
        request: &AttachRequest,
    ) -> Result<Parameters, NetworkError> {
        let interface = request.interface.clone().unwrap_or_else(|| DEFAULT_INTERFACE.to_owned());
        check_interface(&interface)?;
        check_args(&request.args)?;
        let wanted = [
            ("ips", given(&request.ips)),
            ("mac", request.mac.clone().map(Value::from)),
            ("aliases", given(&request.aliases)),
            ("bandwidth", request.bandwidth.clone()),
            ("dns", request.dns.clone()),
        ];
        let mut capabilities = Map::new();
        for (capability, value) in wanted {
            let Some(value) = value else { continue };
            require(network, capability)?;
            capabilities.insert(capability.to_owned(), value);
        }
        if !request.ports.is_empty() {
            require(network, "portMappings")?;
        }
        let container_id = format!("{}{}", self.prefix, uuid::Uuid::new_v4().simple());
        let namespace = self.namespaces.path(&container_id);
        Ok(Parameters { container_id, namespace, interface, args: request.args.clone(), capabilities })
    }

    /// Makes a directory for a record, and locks it. `None`: it is there already.
    pub(crate) fn make_directory(&self, directory: &Path) -> Result<Option<Lock>, NetworkError> {
        let failed = |source| NetworkError::Record { path: directory.to_owned(), what: "made", source };
        loop {
            if let Some(parent) = directory.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            match std::fs::create_dir(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
            // Before it was locked somebody may have taken it for a leftover.
            if let Some(lock) = Lock::directory(directory).map_err(failed)? {
                return Ok(Some(lock));
            }
        }
    }

    /// Takes away what is recorded in a directory whose lock is held, and the directory.
    pub(crate) async fn remove(&self, directory: &Path) -> Result<(), NetworkError> {
        if let Some(record) = Record::read(directory)? {
            self.take_away(&record).await?;
        }
        std::fs::remove_dir_all(directory).map_err(|source| NetworkError::Record {
            path: directory.to_owned(),
            what: "removed",
            source,
        })
    }

    /// The same after something else went wrong, which is what the caller has to hear of.
    pub(crate) async fn give_up(&self, directory: &Path) {
        if let Err(error) = self.remove(directory).await {
            tracing::warn!(directory = %directory.display(), %error, "what was made of a network stays for gc");
        }
    }

    /// ADD and DEL share a turn; GC has one alone, as the specification wants it.
    pub(crate) async fn turn(&self, hold: Hold) -> Result<Lock, NetworkError> {
        let path = self.places.state.join("lock");
        let failed = |source| NetworkError::Record { path: path.clone(), what: "locked", source };
        Lock::file_async(path.clone(), hold).await.map_err(failed)
    }

    pub(crate) fn attached(&self, id: &str) -> PathBuf {
        self.places.state.join("attached").join(id)
    }

    /// Directories of all records in the pool.
    pub(crate) fn pool_directories(&self) -> Result<Vec<PathBuf>, NetworkError> {
        let mut all = Vec::new();
        for (_, network) in entries(&self.places.state.join("pool"))? {
            all.extend(entries(&network)?.into_iter().map(|(_, path)| path));
        }
        Ok(all)
    }

    /// Records of all containers, with their ids. One that cannot be read is in nobody else's way.
    pub(crate) fn attached_records(&self) -> Result<Vec<(String, Record)>, NetworkError> {
        let mut all = Vec::new();
        for (id, path) in entries(&self.places.state.join("attached"))? {
            match Record::read(&path) {
                Ok(record) => all.extend(record.map(|record| (id, record))),
                Err(error) => tracing::warn!(id, %error, "an attachment's record cannot be read"),
            }
        }
        Ok(all)
    }
}

fn check_id(id: &str) -> Result<(), NetworkError> {
    check_name(id).map_err(|reason| invalid("the container's id", id, reason))
}

/// Refuses what the kernel or the specification does not allow as an interface's name.
fn check_interface(name: &str) -> Result<(), NetworkError> {
    /// IFNAMSIZ of the kernel, without the byte at its end.
    const LENGTH_LIMIT: usize = 15;
    let is_bad = |char: char| char == '/' || char == ':' || char.is_whitespace() || char.is_control();
    if name.is_empty() || name.len() > LENGTH_LIMIT {
        return Err(invalid("the interface", name, "a name has 1 to 15 bytes"));
    }
    if name == "." || name == ".." || name == "lo" || name.contains(is_bad) {
        return Err(invalid("the interface", name, "the name is not allowed, or taken"));
    }
    Ok(())
}

fn check_args(args: &[(String, String)]) -> Result<(), NetworkError> {
    let is_bad = |text: &str| text.contains(['=', ';', '\0']);
    match args.iter().find(|(key, value)| key.is_empty() || is_bad(key) || is_bad(value)) {
        Some((key, _)) => Err(invalid("the argument", key, "neither a key nor a value may have = or ;")),
        None => Ok(()),
    }
}

fn require(network: &NetworkConfig, capability: &'static str) -> Result<(), NetworkError> {
    if network.is_capable(capability) {
        return Ok(());
    }
    let reason = format!("no plugin of the network {} takes it (none declares the capability)", network.name);
    Err(invalid("the option of the network", capability, &reason))
}

fn invalid(what: &'static str, text: &str, reason: &str) -> NetworkError {
    NetworkError::Invalid { what, text: text.to_owned(), reason: reason.to_owned() }
}
