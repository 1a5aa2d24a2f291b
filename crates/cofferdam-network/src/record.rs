//! What is written down of one attachment, before anything is made on the host.
//!
//! ```text
//! STATE/attached/CONTAINER/record.json   one per container
//! STATE/pool/NETWORK/NAME/record.json    prepared, for nobody yet
//! ```
//!
//! A directory is locked (`flock`) by whoever makes, moves or removes the attachment. One that nobody locks and whose
//! phase is `adding` was left by a process that died.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::{AddResult, CniVersion, NetworkConfig, Parameters, result};
use crate::error::NetworkError;
use crate::ports::PublishedPort;

/// The version of what is written. A release reads its own alone.
const VERSION: u32 = 1;
/// Name of the file in an attachment's directory.
const FILE: &str = "record.json";
/// Where it is written first.
const TEMPORARY: &str = ".record.json.new";

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Anything may be there, or nothing.
    Adding,
    /// All is there.
    Added,
}

/// One attachment: all that is needed to use it, and to take it away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) phase: Phase,
    /// The network as it was when the attachment was made: DEL needs the same, and its file may have gone.
    pub(crate) network: NetworkConfig,
    pub(crate) cni_version: CniVersion,
    /// The namespace's name is the same as `container_id` in these.
    pub(crate) parameters: Parameters,
    /// The last result of ADD, as the plugin wrote it.
    pub(crate) result: Option<Value>,
    /// Of the interface inside of the container, in bytes.
    pub(crate) mtu: Option<u32>,
    /// Ports of the host that are held for it.
    pub(crate) ports: Vec<PublishedPort>,
}

impl Record {
    pub(crate) fn new(network: NetworkConfig, cni_version: CniVersion, parameters: Parameters) -> Self {
        Self {
            version: VERSION,
            phase: Phase::Adding,
            network,
            cni_version,
            parameters,
            result: None,
            mtu: None,
            ports: Vec::new(),
        }
    }

    /// The result as a value of ours; empty before ADD is done.
    pub(crate) fn parsed_result(&self) -> AddResult {
        // It was read once before it was written down.
        self.result.as_ref().and_then(|raw| result::read(raw, self.cni_version).ok()).unwrap_or_default()
    }

    /// The namespace's name, which is what plugins know the container by.
    pub(crate) fn key(&self) -> &str {
        &self.parameters.container_id
    }

    /// Reads the record of a directory; `None` when there is none (yet).
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, NetworkError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let path = directory.join(FILE);
        let failed = |source| NetworkError::Record { path: path.clone(), what: "read", source };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let head: Head = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        if head.version != VERSION {
            return Err(NetworkError::RecordVersion { path, version: head.version });
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.into()))
    }

    /// Writes the record so that a reader sees the old one or the new one, also after a crash. Only the holder of the
    /// directory's lock may.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), NetworkError> {
        let path = directory.join(FILE);
        let failed = |source| NetworkError::Record { path: path.clone(), what: "written", source };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        write_whole(&path, &directory.join(TEMPORARY), &text).map_err(failed)
    }
}

/// Writes a file by way of a temporary one beside it.
pub(crate) fn write_whole(path: &Path, temporary: &Path, text: &[u8]) -> io::Result<()> {
    let mut file: File =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    file.write_all(text)?;
    file.sync_data()?;
    std::fs::rename(temporary, path)
}

/// Entries of a directory by name, sorted; none when it is not there.
pub(crate) fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, NetworkError> {
    let failed = |source| NetworkError::Record { path: directory.to_owned(), what: "listed", source };
    let all = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        all => all.map_err(failed)?,
    };
    let named = all.map(|entry| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
    });
    let mut named: Vec<_> = named.collect::<io::Result<_>>().map_err(failed)?;
    named.sort_unstable();
    Ok(named)
}
