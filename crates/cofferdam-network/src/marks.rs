//! How many attachments are to be prepared, written down, so that any process can refill a pool.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::networks::Networks;
use crate::record::{entries, write_whole};

/// The most attachments that are prepared for a network: each is a namespace, an address and a link.
const HIGH_LIMIT: usize = 1000;
/// What the names of files with marks end with.
const SUFFIX: &str = ".json";

/// How many attachments are prepared for a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolMarks {
    /// With fewer than these, more are made.
    pub low: usize,
    /// Then as many as there should be.
    pub high: usize,
}

/// A pool that is kept filled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// The network.
    pub network: String,
    /// How many there should be.
    pub marks: PoolMarks,
    /// How many there are, those that are just made included.
    pub prepared: usize,
}

impl Pool {
    /// Whether it has to be refilled.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.prepared < self.marks.low
    }
}

impl Networks {
    /// Writes down how many attachments to a network are to be prepared, or that none are any more. Nothing is made or taken
    /// away by it.
    ///
    /// # Errors
    /// [`NetworkError::NoSuchNetwork`], [`NetworkError::Invalid`]: marks that make no sense, [`NetworkError::Record`].
    pub fn set_marks(&self, network: &str, marks: Option<PoolMarks>) -> Result<(), NetworkError> {
        let path = self.marks_dir().join(format!("{network}{SUFFIX}"));
        let failed = |source| NetworkError::Record { path: path.clone(), what: "written", source };
        let Some(marks) = marks else {
            // The network itself may be gone by now.
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        };
        self.find(network)?;
        if marks.low == 0 || marks.low > marks.high || marks.high > HIGH_LIMIT {
            return Err(NetworkError::Invalid {
                what: "the pool's size",
                text: format!("{} to {}", marks.low, marks.high),
                reason: format!(
                    "it is at least 1, the low mark not above the high one, and at most {HIGH_LIMIT}"
                ),
            });
        }
        std::fs::create_dir_all(self.marks_dir()).map_err(failed)?;
        let text = serde_json::to_vec(&marks).map_err(|error| failed(error.into()))?;
        // A name of this process's own, so that two who write at once do not mix.
        let temporary = self.marks_dir().join(format!(".{network}.{}", std::process::id()));
        write_whole(&path, &temporary, &text).map_err(failed)
    }

    /// The pools that are to be kept filled.
    ///
    /// # Errors
    /// Marks that cannot be read.
    pub fn pools(&self) -> Result<Vec<Pool>, NetworkError> {
        let mut pools = Vec::new();
        for (name, path) in entries(&self.marks_dir())? {
            let Some(network) = name.strip_suffix(SUFFIX) else { continue };
            let failed = |source| NetworkError::Record { path: path.clone(), what: "read", source };
            let text = std::fs::read(&path).map_err(failed)?;
            let marks = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
            let prepared = entries(&self.pool(network))?.len();
            pools.push(Pool { network: network.to_owned(), marks, prepared });
        }
        Ok(pools)
    }

    fn marks_dir(&self) -> PathBuf {
        self.places.state.join("marks")
    }
}
