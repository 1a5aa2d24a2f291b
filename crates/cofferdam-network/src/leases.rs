//! Leases of the plugin host-local: files `DIRECTORY/NETWORK/ADDRESS`, whose first line is the id of the container.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bridge;
use crate::cni::Catalog;
use crate::error::NetworkError;
use crate::lock::{Hold, Lock};
use crate::record::entries;

/// Where host-local keeps leases when its configuration does not say.
const USUAL_DIRECTORY: &str = "/var/lib/cni/networks";

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Its file.
    pub(crate) path: PathBuf,
    /// The id that the plugin got. `None`: host-local was killed before it wrote it.
    pub(crate) key: Option<String>,
}

/// All leases of the catalog's networks, and of networks whose configuration has gone. Those without an id are listed for
/// our own network alone.
pub(crate) fn all(catalog: &Catalog, runtime: &Path) -> Result<Vec<Lease>, NetworkError> {
    let ours = bridge::leases(runtime).join(bridge::NAME);
    let mut directories: BTreeSet<PathBuf> = entries(Path::new(USUAL_DIRECTORY))?
        .into_iter()
        .map(|(_, path)| path)
        .filter(|path| path.is_dir())
        .collect();
    directories.insert(ours.clone());
    for network in catalog.networks.values() {
        let data = |plugin: &Value| Some(PathBuf::from(plugin.get("ipam")?.get("dataDir")?.as_str()?));
        let data = network.plugins.iter().filter_map(|plugin| data(&Value::Object(plugin.0.clone())));
        directories.extend(data.map(|directory| directory.join(&network.name)));
    }
    let mut all = Vec::new();
    for directory in directories {
        let files = entries(&directory)?.into_iter();
        let leases = files.filter(|(name, _)| name.parse::<IpAddr>().is_ok());
        all.extend(leases.filter_map(|(_, path)| Some(Lease { key: read(&path)?, path })));
    }
    all.retain(|lease| lease.key.is_some() || lease.path.starts_with(&ours));
    Ok(all)
}

/// Removes a lease, if it still is of an id with the prefix, or of none. host-local is kept out meanwhile: it holds the
/// lock from the making of a lease to the writing of the id, so that a lease without one is nobody's.
pub(crate) fn release(path: &Path, prefix: &str) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Record { path: path.to_owned(), what: "removed", source };
    let _lock = Lock::file(&path.with_file_name("lock"), Hold::Alone).map_err(failed)?;
    match read(path) {
        Some(key) if key.as_ref().is_none_or(|key| key.starts_with(prefix)) => {
            std::fs::remove_file(path).map_err(failed)
        }
        _ => Ok(()),
    }
}

/// The id in a lease's file; `None` when it has gone.
fn read(path: &Path) -> Option<Option<String>> {
    /// Ids that we give have 51 bytes.
    const ID_LIMIT_BYTES: u64 = 1024;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    io::Read::read_to_string(&mut io::Read::take(file, ID_LIMIT_BYTES), &mut text).ok()?;
    let first = text.lines().next().unwrap_or_default().trim();
    Some((!first.is_empty()).then(|| first.to_owned()))
}
