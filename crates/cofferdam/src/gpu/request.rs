//! What `--gpus` and `--device` ask for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DriverVersion, NotAVersion};
use crate::id::quote;
use crate::request::Refused;

/// What a caller asks for of devices, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// `all`, a number, `device=NAME[,NAME…]`, or `MODEL[:NUMBER]`.
    pub gpus: Option<String>,
    /// Devices of CDI by their qualified names, such as `nvidia.com/gpu=0`.
    pub devices: Vec<String>,
    /// gVisor: have nvproxy take the driver for this version.
    pub driver_override: Option<String>,
    /// gVisor: let nvproxy try a driver that it does not list.
    pub allow_unsupported_driver: bool,
    /// Where descriptions of CDI are looked for; empty for the usual places.
    pub spec_directories: Vec<PathBuf>,
    /// The directory below which the driver's files lie; the host's own root without it.
    pub driver_root: Option<PathBuf>,
    /// The caller's own `NVIDIA_VISIBLE_DEVICES`, beyond which no GPU is given.
    pub visible: Option<String>,
}

impl DeviceRequest {
    /// Whether it asks for no device.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gpus.is_none() && self.devices.is_empty()
    }
}

/// A checked [`DeviceRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicePlan {
    /// GPUs, for the container alone.
    pub gpus: Option<GpuWish>,
    /// Devices of CDI; GPUs among them are shared.
    pub devices: Vec<String>,
    /// The version that nvproxy is told.
    pub driver_override: Option<DriverVersion>,
    /// Whether nvproxy may try a driver that it does not list.
    pub allow_unsupported_driver: bool,
    /// Where descriptions of CDI are looked for; empty for the usual places.
    pub spec_directories: Vec<PathBuf>,
    /// The directory below which the driver's files lie.
    pub driver_root: Option<PathBuf>,
    /// Beyond which GPUs none is given.
    pub visible: Option<String>,
}

impl DevicePlan {
    /// Checks a request.
    ///
    /// # Errors
    /// [`Refused`] names the option.
    pub fn parse(request: DeviceRequest) -> Result<Self, Refused> {
        let version = |text: &String| {
            text.parse()
                .map_err(|error: NotAVersion| Refused::new("--gpu-driver-override", error.to_string()))
        };
        let device = |text: &String| parse_device(text).map_err(|why| Refused::new("--device", why));
        Ok(Self {
            gpus: request.gpus.as_deref().map(parse_gpus).transpose()?,
            devices: request.devices.iter().map(device).collect::<Result<_, _>>()?,
            driver_override: request.driver_override.as_ref().map(version).transpose()?,
            allow_unsupported_driver: request.allow_unsupported_driver,
            spec_directories: request.spec_directories,
            driver_root: request.driver_root,
            visible: request.visible,
        })
    }
}

/// Which GPUs are to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuRequest {
    /// Every one that may be seen.
    All,
    /// So many, whichever are free.
    Count(u32),
    /// These, by index, UUID, or MIG device (UUID, or `GPU:INSTANCE`).
    Named(Vec<String>),
    /// So many whose model's name has these words in it.
    Model {
        /// Part of the name, such as `A100`.
        model: String,
        /// How many.
        count: u32,
    },
}

/// The options of docker's `capabilities=` that gVisor's flag knows; docker's `gpu` asks for nothing beyond the device.
const CAPABILITIES: [&str; 7] = ["gpu", "nvidia", "compute", "utility", "graphics", "video", "all"];

/// A checked `--gpus`: which, and what of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuWish {
    /// Which.
    pub request: GpuRequest,
    /// The capabilities of the driver, where some were asked for.
    pub capabilities: Vec<String>,
}

/// Reads docker's value of `--gpus`: fields separated by commas, of which those in double quotes keep their commas.
///
/// # Errors
/// [`Refused`] says which part is not understood.
pub fn parse_gpus(text: &str) -> Result<GpuWish, Refused> {
    let refused = |why: String| Refused::new("--gpus", why);
    if text.matches('"').count() % 2 == 1 {
        return Err(refused(format!("{} has a quote that is not closed", quote(text))));
    }
    let mut wish: Option<GpuRequest> = None;
    let mut capabilities = Vec::new();
    let mut put = |request: GpuRequest| match &mut wish {
        Some(GpuRequest::Named(names)) => match request {
            // The names after the first comma of an unquoted `device=0,1`.
            GpuRequest::Named(more) => {
                names.extend(more);
                Ok(())
            }
            _ => Err(refused(format!("{} asks for GPUs twice", quote(text)))),
        },
        Some(_) => Err(refused(format!("{} asks for GPUs twice", quote(text)))),
        None => {
            wish = Some(request);
            Ok(())
        }
    };
    let mut after_device = false;
    for field in fields(text) {
        match field.split_once('=') {
            Some(("device", names)) => {
                after_device = true;
                put(GpuRequest::Named(parse_names(names).map_err(refused)?))?;
            }
            Some(("count", count)) => put(parse_count(count).map_err(refused)?)?,
            Some(("driver", "nvidia" | "cdi")) => {}
            Some(("capabilities", list)) => capabilities = parse_capabilities(list).map_err(refused)?,
            Some(("driver", name)) => {
                return Err(refused(format!("driver={} is not known; there is driver=nvidia", quote(name))));
            }
            Some((key, _)) => {
                let why = "is not known; there are device=, count=, driver=nvidia and capabilities=";
                return Err(refused(format!("{} {why}", quote(key))));
            }
            None if after_device => put(GpuRequest::Named(parse_names(field).map_err(refused)?))?,
            None => put(parse_count(field).map_err(refused)?)?,
        }
    }
    let request = wish.ok_or_else(|| refused(format!("{} names no GPU", quote(text))))?;
    Ok(GpuWish { request, capabilities })
}

/// Splits at commas outside of double quotes, and takes the quotes away.
fn fields(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .map(|field| field.trim().trim_matches('"'))
    .filter(|field| !field.is_empty())
    .collect()
}

fn parse_names(list: &str) -> Result<Vec<String>, String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-:._/".contains(&byte))
    };
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| !is_name(name)) {
        Some(name) => Err(format!("{} names no GPU: give an index, a UUID or a MIG device", quote(name))),
        None => Ok(names),
    }
}

/// `all`, `-1`, a number, or `MODEL[:NUMBER]`.
fn parse_count(text: &str) -> Result<GpuRequest, String> {
    let (model, count) = match text.rsplit_once(':') {
        Some(("", _)) => return Err(format!("{} names no model: a number alone is enough", quote(text))),
        Some((model, count)) => (model, count),
        None if text.starts_with("GPU-") => return Ok(GpuRequest::Named(parse_names(text)?)),
        None if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => ("", text),
        None => (text, "1"),
    };
    if matches!((model, count), ("", "-1") | ("all", "1")) && !text.contains(':') {
        return Ok(GpuRequest::All);
    }
    let count: u32 = count.parse().map_err(|_| format!("{} is not a number of GPUs", quote(count)))?;
    match (model, count) {
        (_, 0) => Err("0 GPUs are none: leave it out".into()),
        ("", count) => Ok(GpuRequest::Count(count)),
        (model, count) => Ok(GpuRequest::Model { model: model.to_owned(), count }),
    }
}

fn parse_capabilities(list: &str) -> Result<Vec<String>, String> {
    let known = |name: &&str| CAPABILITIES.contains(name);
    let names: Vec<&str> = list.split(',').map(str::trim).collect();
    match names.iter().find(|name| !known(name)) {
        Some(name) => Err(format!("{} is no capability; there are {}", quote(name), CAPABILITIES.join(", "))),
        None => Ok(names
            .into_iter()
            .filter(|name| !matches!(*name, "gpu" | "nvidia"))
            .map(str::to_owned)
            .collect()),
    }
}

/// Checks a qualified name of CDI: `VENDOR/CLASS=NAME`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_device(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Err(format!(
            "{} is a path; devices are given by CDI here, such as nvidia.com/gpu=0 (`cofferdam cdi list`)",
            quote(text)
        ));
    }
    let plain = |part: &str, more: &[u8]| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let fits = text.split_once('=').is_some_and(|(kind, name)| {
        let is_kind =
            kind.split_once('/').is_some_and(|(vendor, class)| plain(vendor, b".-_") && plain(class, b"-_."));
        is_kind && plain(name, b"-_.:")
    });
    if fits {
        return Ok(text.to_owned());
    }
    Err(format!("{} is no device of CDI, which are VENDOR/CLASS=NAME", quote(text)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        match parse_gpus(text) {
            Ok(GpuWish { request, capabilities }) if capabilities.is_empty() => format!("{request:?}"),
            Ok(GpuWish { request, capabilities }) => format!("{request:?} {}", capabilities.join("+")),
            Err(refused) => format!("error: {}", refused.why),
        }
    }

    #[test]
    fn gpus_are_asked_for_as_with_docker() {
        for (text, expected) in [
            ("all", "All"),
            ("-1", "All"),
            ("1", "Count(1)"),
            ("8", "Count(8)"),
            ("count=2", "Count(2)"),
            ("count=all", "All"),
            ("device=0", "Named([\"0\"])"),
            ("device=0,2", "Named([\"0\", \"2\"])"),
            ("\"device=0,2\"", "Named([\"0\", \"2\"])"),
            ("\"device=0,2\",\"capabilities=compute,utility\"", "Named([\"0\", \"2\"]) compute+utility"),
            ("all,capabilities=utility", "All utility"),
            ("all,capabilities=gpu", "All"),
            ("driver=nvidia,count=1", "Count(1)"),
            ("device=GPU-8f5bd5a5-1a2b", "Named([\"GPU-8f5bd5a5-1a2b\"])"),
            ("device=MIG-12,device=1:0", "Named([\"MIG-12\", \"1:0\"])"),
            ("GPU-8f5bd5a5", "Named([\"GPU-8f5bd5a5\"])"),
            ("A100", "Model { model: \"A100\", count: 1 }"),
            ("H100:4", "Model { model: \"H100\", count: 4 }"),
            ("NVIDIA L4:2", "Model { model: \"NVIDIA L4\", count: 2 }"),
            ("0", "error: 0 GPUs are none: leave it out"),
            ("A100:0", "error: 0 GPUs are none: leave it out"),
            (":1", "error: `:1` names no model: a number alone is enough"),
            ("\"device=0", "error: `\\\"device=0` has a quote that is not closed"),
            ("-2", "error: `-2` is not a number of GPUs"),
            ("99999999999", "error: `99999999999` is not a number of GPUs"),
            ("", "error: `` names no GPU"),
            ("capabilities=utility", "error: `capabilities=utility` names no GPU"),
            ("1,2", "error: `1,2` asks for GPUs twice"),
            ("device=0,count=1", "error: `device=0,count=1` asks for GPUs twice"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in ["device=", "device=0 1", "device=$(id)", "size=1", "all,capabilities=root", "A100:x"] {
            assert!(read(text).starts_with("error: "), "{text}: {}", read(text));
        }
    }

    #[test]
    fn devices_are_named_as_cdi_names_them() {
        for name in ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1", "vendor1.com/net-x=eth0:1", "a/b=c"] {
            assert_eq!(parse_device(name).as_deref(), Ok(name));
        }
        for name in
            ["/dev/fuse", "nvidia.com/gpu", "nvidia.com=0", "/gpu=0", "a/b=", "a/b=x y", "a/b=../c", ""]
        {
            assert!(parse_device(name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_gpus(&text), parse_device(&text));
        }
    }
}
