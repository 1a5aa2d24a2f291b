//! What a container is given of devices, once that is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DriverVersion, Gpu};

/// What one device of CDI changes in a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEdits {
    /// The device's qualified name, such as `nvidia.com/gpu=0`.
    pub device: String,
    /// Who says so: a file, or cofferdam.
    pub origin: String,
    /// The changes, in the form of an OCI specification that has nothing else.
    pub changes: Value,
}

/// Devices for a container, and the facts of the host that go with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// The GPUs that it is given.
    pub gpus: Vec<Gpu>,
    /// Whether it has them for itself alone.
    pub exclusive: bool,
    /// What its devices change.
    pub edits: Vec<DeviceEdits>,
    /// The host's driver, where it was looked for and there is one.
    pub driver: Option<DriverVersion>,
    /// What the user should know of how they were found.
    pub warnings: Vec<String>,
    /// The SONAMEs of the libraries that are mounted, by their paths on the host. For gVisor only.
    pub sonames: BTreeMap<String, String>,
}
