//! A description, checked: devices of one kind, and what each changes.
//!
//! Types, validation and versions are the crate's. Its own way from a file to a device also validates against the JSON
//! schema, which would link a validator, an HTTP client and TLS into each container's monitor (0.6 MiB of memory each,
//! measured); the types refuse unknown fields, and say what the schema would.

use container_device_interface::container_edits::{ContainerEdits, Validate};
use container_device_interface::specs::config;
use container_device_interface::version::{VALID_SPEC_VERSIONS, VersionWrapper, minimum_required_version};
use serde_json::Value;

use crate::gpu::parse_device;

/// A checked description.
#[derive(Debug)]
pub(super) struct Description {
    /// Its devices by their qualified names, with what each changes.
    pub(super) devices: Vec<(String, ContainerEdits)>,
    /// What is changed for any of them.
    pub(super) common: Option<ContainerEdits>,
}

impl Description {
    /// Checks what was parsed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(raw: &config::Spec) -> Result<Self, String> {
        // The crate's fields are its own; its JSON is everybody's.
        let value = serde_json::to_value(raw).map_err(|error| error.to_string())?;
        check_version(raw, value["cdiVersion"].as_str().unwrap_or_default())?;
        let kind = value["kind"].as_str().unwrap_or_default();
        let mut devices: Vec<(String, ContainerEdits)> = Vec::new();
        for device in value["devices"].as_array().into_iter().flatten() {
            let name = parse_device(&format!("{kind}={}", device["name"].as_str().unwrap_or_default()))?;
            let edits = edits(&device["containerEdits"]).map_err(|why| format!("{name}: {why}"))?;
            if devices.iter().any(|(known, _)| *known == name) {
                return Err(format!("{name} is there twice"));
            }
            devices.push((name, edits));
        }
        if devices.is_empty() {
            return Err("it has no devices".into());
        }
        let common = Some(&value["containerEdits"]).filter(|common| !common.is_null());
        Ok(Self { devices, common: common.map(edits).transpose()? })
    }
}

fn check_version(raw: &config::Spec, version: &str) -> Result<(), String> {
    if !VALID_SPEC_VERSIONS.is_valid_version(version) {
        return Err(format!("`{version}` is no version of the specification"));
    }
    let least = minimum_required_version(raw).map_err(|error| format!("{error:#}"))?;
    if least.is_greater_than(&VersionWrapper::new(version)) {
        return Err(format!("it has fields that are newer than its version {version}"));
    }
    Ok(())
}

fn edits(value: &Value) -> Result<ContainerEdits, String> {
    let container_edits = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let edits = ContainerEdits { container_edits };
    edits.validate().map_err(|error| format!("{error:#}"))?;
    Ok(edits)
}
