//! The flags of runsc for a container with GPUs, and whether this runsc can serve them at all.
//!
//! A driver that nvproxy does not know ends `runsc create` with nothing but "EOF"; so everything that can be known is
//! decided here.

use std::collections::BTreeSet;

use super::binary::Binary;
use super::{Lacks, Surroundings};
use crate::error::Code;
use crate::gpu::{DriverRefused, DriverVersion, GpuError, Verdict, look_up};
use crate::spec::{PrepareError, SpecEditor};

/// The capabilities of the driver that nvproxy gives without being told.
const USUAL_CAPABILITIES: [&str; 2] = ["compute", "utility"];

/// The flags for a container with GPUs.
///
/// # Errors
/// [`PrepareError`]: this runsc has no nvproxy, there is no driver, or it is one that nvproxy does not know.
pub(super) fn nvproxy_flags(
    binary: &Binary,
    editor: &mut SpecEditor,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<String>, PrepareError> {
    let has_flag = |flag: &str| binary.features.has_flag(flag);
    if !has_flag("nvproxy") {
        let lacks = binary.lacks("nvproxy, which NVIDIA devices need".into(), Some("20230529"));
        let next = Some("install a newer runsc: https://gvisor.dev/docs/user_guide/install/".into());
        return Err(Lacks { code: Code::NvproxyMissing, next, ..lacks }.into());
    }
    let mut flags = vec!["--nvproxy=true".to_owned()];
    flags.extend(driver_flag(binary, editor, surroundings)?);
    let wish = surroundings.plan.devices.gpus.as_ref();
    let capabilities = wish.map(|wish| wish.capabilities.as_slice()).unwrap_or_default();
    warn_of_capabilities(editor, capabilities);
    if !capabilities.iter().all(|name| USUAL_CAPABILITIES.contains(&name.as_str())) {
        if !has_flag("nvproxy-allowed-driver-capabilities") {
            let what = format!("the flag for the driver's capabilities {}", capabilities.join(", "));
            return Err(Lacks { code: Code::GpuUnsupported, ..binary.lacks(what, Some("20240930")) }.into());
        }
        // The flag takes the place of the usual ones, without which there is no CUDA.
        let all: BTreeSet<&str> = capabilities.iter().map(String::as_str).chain(USUAL_CAPABILITIES).collect();
        let all = if all.contains("all") { "all".to_owned() } else { Vec::from_iter(all).join(",") };
        flags.push(format!("--nvproxy-allowed-driver-capabilities={all}"));
    }
    Ok(flags)
}

/// An image's own wish widens nothing: each capability opens more of the driver to the guest.
fn warn_of_capabilities(editor: &mut SpecEditor, given: &[String]) {
    const VARIABLE: &str = "NVIDIA_DRIVER_CAPABILITIES=";
    let wish =
        editor.entries("/process/env").filter_map(|entry| entry.as_str()?.strip_prefix(VARIABLE)).last();
    let wished: Vec<String> = wish.into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    let lacking = ["graphics", "video"].into_iter().filter(|name| {
        wished.iter().any(|wished| wished == name)
            && !given.iter().any(|given| given == name || given == "all")
    });
    let lacking: Vec<&str> = lacking.collect();
    if !lacking.is_empty() {
        let list = lacking.join(",");
        editor.warn(format!(
            "NVIDIA_DRIVER_CAPABILITIES asks for {list}, which nvproxy is not told to give: --gpus \
             '1,\"capabilities={list}\"' does that"
        ));
    }
}

/// Checks the driver, and gives the flag that says more of it.
fn driver_flag(
    binary: &Binary,
    editor: &mut SpecEditor,
    surroundings: &Surroundings<'_>,
) -> Result<Option<String>, PrepareError> {
    let devices = &surroundings.plan.devices;
    let listed = &binary.features.nvidia_drivers;
    let takes_version = binary.features.has_flag("nvproxy-driver-version");
    let takes_any = binary.features.has_flag("nvproxy-allow-unsupported-driver");
    let refused = |driver: &DriverVersion| {
        DriverRefused::of(&look_up(driver, listed), driver, binary.features.title())
            .map(|refused| DriverRefused { takes_version, takes_any, ..refused })
    };
    let driver = surroundings.granted.driver.as_ref();
    let missing =
        || GpuError::NoDriver("the specification has NVIDIA devices, and nothing serves them".into());
    if let Some(version) = &devices.driver_override {
        if !takes_version {
            let what = "a flag for the driver's version".into();
            return Err(Lacks { code: Code::GpuUnsupported, ..binary.lacks(what, Some("20240422")) }.into());
        }
        if let Some(refused) = refused(version) {
            return Err(PrepareError::Driver(Box::new(refused)));
        }
        let driver = driver.ok_or_else(missing)?;
        if driver != version {
            editor.warn(format!(
                "nvproxy takes the NVIDIA driver {driver} for {version}, as --gpu-driver-override says: what has changed \
                 between them fails"
            ));
        }
        return Ok(Some(format!("--nvproxy-driver-version={version}")));
    }
    let driver = driver.ok_or_else(missing)?;
    if look_up(driver, listed) == Verdict::NoList {
        editor.warn(format!(
            "{} has no list of drivers, so that nobody knows whether its nvproxy knows {driver}",
            binary.features.title()
        ));
    }
    match refused(driver) {
        None => Ok(None),
        Some(_) if devices.allow_unsupported_driver && takes_any => {
            editor.warn(format!("nvproxy of {} does not list the driver {driver}", binary.features.title()));
            Ok(Some("--nvproxy-allow-unsupported-driver=true".into()))
        }
        Some(_) if devices.allow_unsupported_driver => {
            let what = "a flag to try an unsupported driver".into();
            Err(Lacks { code: Code::GpuUnsupported, ..binary.lacks(what, Some("20260615")) }.into())
        }
        Some(refused) => Err(PrepareError::Driver(Box::new(refused))),
    }
}
