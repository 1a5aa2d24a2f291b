//! What in a specification asks for GPUs, and where: a pure function of it.
//!
//! Invariant: nothing is taken for a wish but what the tools of the field take for one. An annotation of the Container
//! Device Interface is NVIDIA's by the vendor of its kind (`nvidia.com/gpu=0`), never by its key; an environment entry
//! is one by its value, of which `void` and the empty one are none.

use serde_json::Value;

/// One thing that asks for GPUs, or goes with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub sign: Sign,
    /// Where: a JSON pointer.
    pub place: String,
}

/// What asks for GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// A device node of `linux.devices`.
    Node(Node),
    /// A device of NVIDIA's by an annotation of CDI, such as `nvidia.com/gpu=0`.
    Cdi(String),
    /// `NVIDIA_VISIBLE_DEVICES`.
    Visible(Visible),
    /// A hook of the NVIDIA container toolkit, by its program's name.
    Hook(String),
}

/// A device node, as NVIDIA's driver names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// `/dev/nvidia0` and its kin: one GPU.
    Gpu(u32),
    /// `/dev/nvidiactl`.
    Control,
    /// `/dev/nvidia-uvm`: unified memory, without which CUDA does not start.
    Uvm,
    /// `/dev/nvidia-uvm-tools`, for profilers.
    UvmTools,
    /// `/dev/nvidia-modeset`, for displays.
    Modeset,
    /// `/dev/nvidia-caps/*`: rights to parts of a GPU (MIG).
    Capability,
    /// `/dev/dri/*`: of any vendor.
    Dri,
}

/// What `NVIDIA_VISIBLE_DEVICES` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Every GPU.
    All,
    /// The driver, and no GPU.
    DriverOnly,
    /// These, by index, UUID or MIG device.
    Some(Vec<String>),
}

/// The programs of the NVIDIA container toolkit that a specification may have as hooks.
const HOOKS: [&str; 4] =
    ["nvidia-container-runtime-hook", "nvidia-container-toolkit", "nvidia-cdi-hook", "nvidia-ctk"];
/// The kind of NVIDIA's GPUs in names of CDI.
pub const GPU_KIND: &str = "nvidia.com/gpu";
/// Whether a device's name of CDI is one of a GPU's, as `nvidia.com/gpu=0` is.
#[must_use]
pub fn is_gpu_device(device: &str) -> bool {
    device.split_once('=').is_some_and(|(kind, _)| kind == GPU_KIND)
}

/// How an annotation's key begins that names devices of CDI.
const CDI_PREFIX: &str = "cdi.k8s.io/";
/// Vendors of CDI kinds that are NVIDIA's: its own, and those of its toolkit's runtime and tools.
const NVIDIA: &str = "nvidia.com";

impl Node {
    /// The node at a path; `None` for a device of somebody else's.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        let name = path.strip_prefix("/dev/")?;
        match name {
            "nvidiactl" => Some(Self::Control),
            "nvidia-uvm" => Some(Self::Uvm),
            "nvidia-uvm-tools" => Some(Self::UvmTools),
            "nvidia-modeset" => Some(Self::Modeset),
            _ if is_below(name, "nvidia-caps/") => Some(Self::Capability),
            _ if is_below(name, "dri/") => Some(Self::Dri),
            _ => gpu_number(name.strip_prefix("nvidia")?).map(Self::Gpu),
        }
    }

    /// The GPU of a device's numbers, which the driver has had for them since ever (`NV_MAJOR_DEVICE_NUMBER`); its other
    /// nodes have minor numbers from 254 on.
    #[must_use]
    pub fn numbered(major: u64, minor: u64) -> Option<Self> {
        const MAJOR: u64 = 195;
        const FIRST_OTHER: u64 = 254;
        u32::try_from(minor).ok().filter(|_| major == MAJOR && minor < FIRST_OTHER).map(Self::Gpu)
    }

    /// The number of the GPU's node, if it is one.
    #[must_use]
    pub const fn gpu(self) -> Option<u32> {
        match self {
            Self::Gpu(minor) => Some(minor),
            _ => None,
        }
    }

    /// Whether gVisor's nvproxy serves it.
    #[must_use]
    pub const fn is_of_nvproxy(self) -> bool {
        matches!(self, Self::Gpu(_) | Self::Control | Self::Uvm)
    }
}

fn is_below(name: &str, folder: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
}

/// A number as the driver writes it: digits, none of them a zero too many.
fn gpu_number(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let is_plain = digits == "0" || !digits.starts_with('0');
    (is_number && is_plain).then(|| digits.parse().ok()).flatten()
}

/// Finds what asks for GPUs, in the order of the specification's parts: nodes, annotations, environment, hooks.
#[must_use]
pub fn detect(spec: &Value) -> Vec<Finding> {
    let mut findings = nodes(spec);
    findings.extend(annotations(spec));
    findings.extend(visible(spec));
    findings.extend(hooks(spec));
    findings
}

fn entries<'a>(spec: &'a Value, place: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    spec.pointer(place).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn nodes(spec: &Value) -> Vec<Finding> {
    let list = "/linux/devices";
    let node = |(index, device): (usize, &Value)| {
        let node = Node::at(device.get("path")?.as_str()?)?;
        Some(Finding { sign: Sign::Node(node), place: format!("{list}/{index}") })
    };
    entries(spec, list).filter_map(node).collect()
}

/// An annotation names devices `VENDOR/CLASS=NAME`, separated by commas.
fn annotations(spec: &Value) -> Vec<Finding> {
    let all = spec.pointer("/annotations").and_then(Value::as_object).into_iter().flatten();
    let mut findings = Vec::new();
    for (key, value) in all.filter(|(key, _)| key.starts_with(CDI_PREFIX)) {
        let names =
            value.as_str().unwrap_or_default().split(',').map(str::trim).filter(|name| is_nvidias(name));
        findings.extend(names.map(|name| Finding {
            sign: Sign::Cdi(name.to_owned()),
            place: format!("/annotations/{}", key.replace('~', "~0").replace('/', "~1")),
        }));
    }
    findings
}

fn is_nvidias(device: &str) -> bool {
    let Some((kind, name)) = device.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    let is_vendor = vendor.strip_suffix(NVIDIA).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'));
    is_vendor && !class.is_empty() && !name.is_empty()
}

/// Of several entries the last one counts, as in a shell.
fn visible(spec: &Value) -> Option<Finding> {
    let list = "/process/env";
    let set = entries(spec, list)
        .filter_map(|(index, entry)| Some((index, entry.as_str()?.strip_prefix("NVIDIA_VISIBLE_DEVICES=")?)));
    let (index, value) = set.last()?;
    let visible = match value {
        "" | "void" => return None,
        "all" => Visible::All,
        "none" => Visible::DriverOnly,
        list => Visible::Some(list.split(',').map(|name| name.trim().to_owned()).collect()),
    };
    Some(Finding { sign: Sign::Visible(visible), place: format!("{list}/{index}") })
}

fn hooks(spec: &Value) -> Vec<Finding> {
    let stages = spec.pointer("/hooks").and_then(Value::as_object).into_iter().flatten();
    let mut findings = Vec::new();
    for (stage, hooks) in stages {
        for (index, hook) in hooks.as_array().into_iter().flatten().enumerate() {
            if let Some(program) = toolkit_program(hook) {
                let place = format!("/hooks/{stage}/{index}");
                findings.push(Finding { sign: Sign::Hook(program.to_owned()), place });
            }
        }
    }
    findings
}

/// The name of a hook's program, if it is one of the NVIDIA container toolkit.
#[must_use]
pub fn toolkit_program(hook: &Value) -> Option<&str> {
    let program = hook.get("path")?.as_str()?.rsplit('/').next()?;
    HOOKS.contains(&program).then_some(program)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Fragments of specifications, and what is found in each: `sign @ place`.
    pub(crate) fn table() -> Vec<(Value, Vec<String>)> {
        let node = |path: &str| json!({ "linux": { "devices": [{ "path": path, "type": "c" }] } });
        let env = |entries: &[&str]| json!({ "process": { "env": entries } });
        let cdi = |key: &str, value: &str| json!({ "annotations": { key: value } });
        let hook = |stage: &str, path: &str| json!({ "hooks": { stage: [{ "path": path }] } });
        let found = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        let at_node = |node: &str| found(&[&format!("Node({node}) @ /linux/devices/0")]);
        let at_env = |visible: &str| found(&[&format!("Visible({visible}) @ /process/env/0")]);
        let (visible, none) = ("NVIDIA_VISIBLE_DEVICES", found(&[]));
        vec![
            (json!({}), none.clone()),
            (json!(null), none.clone()),
            (
                json!({ "linux": { "devices": null }, "annotations": [], "process": 7, "hooks": "x" }),
                none.clone(),
            ),
            (node("/dev/nvidia0"), at_node("Gpu(0)")),
            (node("/dev/nvidia17"), at_node("Gpu(17)")),
            (node("/dev/nvidiactl"), at_node("Control")),
            (node("/dev/nvidia-uvm"), at_node("Uvm")),
            (node("/dev/nvidia-uvm-tools"), at_node("UvmTools")),
            (node("/dev/nvidia-modeset"), at_node("Modeset")),
            (node("/dev/nvidia-caps/nvidia-cap1"), at_node("Capability")),
            (node("/dev/dri/renderD128"), at_node("Dri")),
            (node("/dev/nvidia"), none.clone()),
            (node("/dev/nvidia00"), none.clone()),
            (node("/dev/nvidia0x"), none.clone()),
            (node("/dev/nvidia99999999999"), none.clone()),
            (node("/dev/nvidia-caps"), none.clone()),
            (node("/dev/nvidia-caps/"), none.clone()),
            (node("/dev/dri/by-path/x"), none.clone()),
            (node("/nvidia0"), none.clone()),
            (node("dev/nvidia0"), none.clone()),
            (node("/dev/fuse"), none.clone()),
            (node("/dev/kfd"), none.clone()),
            (json!({ "linux": { "devices": [7, null, {}, { "path": 1 }] } }), none.clone()),
            (
                json!({ "linux": { "devices": [{ "path": "/dev/fuse" }, { "path": "/dev/nvidia1" }] } }),
                found(&["Node(Gpu(1)) @ /linux/devices/1"]),
            ),
            (
                cdi("cdi.k8s.io/nvidia-device-plugin_uuid", "nvidia.com/gpu=0"),
                found(&["Cdi(\"nvidia.com/gpu=0\") @ /annotations/cdi.k8s.io~1nvidia-device-plugin_uuid"]),
            ),
            (
                cdi("cdi.k8s.io/x", "nvidia.com/gpu=0,nvidia.com/gpu=1:0"),
                found(&[
                    "Cdi(\"nvidia.com/gpu=0\") @ /annotations/cdi.k8s.io~1x",
                    "Cdi(\"nvidia.com/gpu=1:0\") @ /annotations/cdi.k8s.io~1x",
                ]),
            ),
            (
                cdi("cdi.k8s.io/x", "management.nvidia.com/gpu=all"),
                found(&["Cdi(\"management.nvidia.com/gpu=all\") @ /annotations/cdi.k8s.io~1x"]),
            ),
            (
                cdi("cdi.k8s.io/x", "intel.com/gpu=0,nvidia.com/mig=GPU-1:0"),
                found(&["Cdi(\"nvidia.com/mig=GPU-1:0\") @ /annotations/cdi.k8s.io~1x"]),
            ),
            // Beta9 takes each of these for NVIDIA's.
            (cdi("cdi.k8s.io/nvidia", "intel.com/gpu=0"), none.clone()),
            (cdi("cdi.k8s.io/x", "amd.com/gpu=all"), none.clone()),
            (cdi("cdi.k8s.io/x", "notnvidia.com/gpu=0"), none.clone()),
            (cdi("cdi.k8s.io/x", "nvidia.com.evil.org/gpu=0"), none.clone()),
            (cdi("cdi.k8s.io/x", "nvidia.com/=0"), none.clone()),
            (cdi("cdi.k8s.io/x", "nvidia.com/gpu="), none.clone()),
            (cdi("cdi.k8s.io/x", "nvidia.com/gpu"), none.clone()),
            (cdi("cdi.k8s.io/x", ""), none.clone()),
            (cdi("example.com/cdi.k8s.io/x", "nvidia.com/gpu=0"), none.clone()),
            (json!({ "annotations": { "cdi.k8s.io/x": 7 } }), none.clone()),
            (env(&[&format!("{visible}=all")]), at_env("All")),
            (env(&[&format!("{visible}=none")]), at_env("DriverOnly")),
            (env(&[&format!("{visible}=0, 1")]), at_env("Some([\"0\", \"1\"])")),
            (env(&[&format!("{visible}=GPU-8f5b")]), at_env("Some([\"GPU-8f5b\"])")),
            (env(&[&format!("{visible}=void")]), none.clone()),
            (env(&[&format!("{visible}=")]), none.clone()),
            (env(&[visible]), none.clone()),
            (env(&["NVIDIA_VISIBLE_DEVICES_X=all", "XNVIDIA_VISIBLE_DEVICES=all"]), none.clone()),
            (env(&[&format!("{visible}=all"), &format!("{visible}=void")]), none.clone()),
            (
                env(&[&format!("{visible}=void"), &format!("{visible}=0")]),
                found(&["Visible(Some([\"0\"])) @ /process/env/1"]),
            ),
            (
                hook("prestart", "/usr/bin/nvidia-container-runtime-hook"),
                found(&["Hook(\"nvidia-container-runtime-hook\") @ /hooks/prestart/0"]),
            ),
            (
                hook("createContainer", "/usr/bin/nvidia-cdi-hook"),
                found(&["Hook(\"nvidia-cdi-hook\") @ /hooks/createContainer/0"]),
            ),
            (
                hook("createContainer", "/opt/nvidia-ctk"),
                found(&["Hook(\"nvidia-ctk\") @ /hooks/createContainer/0"]),
            ),
            (hook("prestart", "/usr/bin/my-nvidia-ctk"), none.clone()),
            (hook("prestart", "/nvidia-ctk/other"), none),
        ]
    }

    #[test]
    fn what_asks_for_gpus_is_found_where_it_is() {
        let table = table();
        assert!(table.len() >= 40);
        for (spec, expected) in table {
            let findings = detect(&spec);
            let lines: Vec<String> = findings.iter().map(|f| format!("{:?} @ {}", f.sign, f.place)).collect();
            assert_eq!(lines, expected, "{spec}");
            for finding in findings {
                assert!(spec.pointer(&finding.place).is_some(), "{} is no place in {spec}", finding.place);
            }
        }
    }

    #[test]
    fn a_gpu_is_known_by_its_numbers_too() {
        assert_eq!(Node::numbered(195, 3), Some(Node::Gpu(3)));
        assert_eq!(
            (Node::numbered(195, 255), Node::numbered(195, 254), Node::numbered(1, 3)),
            (None, None, None)
        );
        assert_eq!((Node::Gpu(3).gpu(), Node::Control.gpu()), (Some(3), None));
    }

    proptest! {
        #[test]
        fn no_name_panics(name in ".*") {
            let _ = Node::at(&name);
            let _ = detect(&json!({
                "linux": { "devices": [{ "path": name }] },
                "annotations": { format!("cdi.k8s.io/{name}"): name },
                "process": { "env": [format!("NVIDIA_VISIBLE_DEVICES={name}")] },
                "hooks": { name.clone(): [{ "path": name }] },
            }));
        }
    }
}
