//! The runtimes on this host: where each is, and what it can do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Engine;
use crate::error::Failure;
use crate::runtime::{self, DEFAULT_START_LIMIT, Features, RuntimeConfig, RuntimeKind, locate};

/// A runtime as it was looked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuntimeProbe {
    /// What was looked for: a runtime's name, or the path of a binary.
    pub choice: String,
    /// What was found.
    #[serde(flatten)]
    pub found: Found,
}

/// What was found of a runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub enum Found {
    /// It is here and answers.
    Here {
        /// How it would be used.
        config: RuntimeConfig,
        /// What it can do.
        features: Box<Features>,
    },
    /// It is not installed.
    Missing {
        /// What was found instead.
        failure: Failure,
    },
    /// It is here, and cannot be used.
    Unusable {
        /// The binary.
        binary: PathBuf,
        /// Why not.
        failure: Failure,
    },
}

impl Engine {
    /// Looks for the runtimes that cofferdam knows.
    pub async fn runtimes(&self) -> Vec<RuntimeProbe> {
        let mut probes = Vec::new();
        for kind in RuntimeKind::ALL {
            probes.push(self.probe_runtime(kind.binary_name()).await);
        }
        probes
    }

    /// Looks for one runtime, by name or by the path of its binary.
    pub async fn probe_runtime(&self, choice: &str) -> RuntimeProbe {
        let found = match locate(choice, std::env::var_os("PATH").as_deref()) {
            Err(error) => Found::Missing { failure: Failure::of(&error) },
            Ok((name, binary)) => {
                let root = self.state.runtime_root(&name);
                let config =
                    RuntimeConfig { name, binary, root, platform: None, start_limit: DEFAULT_START_LIMIT };
                match runtime::open(config.clone(), &self.state.cache()).await {
                    Ok(runtime) => Found::Here { config, features: Box::new(runtime.features().clone()) },
                    Err(error) => Found::Unusable { binary: config.binary, failure: Failure::of(&error) },
                }
            }
        };
        RuntimeProbe { choice: choice.to_owned(), found }
    }
}
