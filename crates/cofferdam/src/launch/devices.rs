//! Which devices a container is given: looking at the host, and taking GPUs for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{LaunchError, Launcher, Prepared};
use crate::cdi::{DEFAULT_DIRECTORIES, Registry};
use crate::elf::soname;
use crate::gpu::{
    DevicePlan, Gpu, GpuError, GpuRequest, Granted, Lease, Node, Sign, choose, detect, visible,
};
use crate::nvidia::{DriverRoot, Inventory, generate, make_char_links};
use crate::request::{CgroupManager, Refused};
use crate::spec::nvproxy;

/// The kind of NVIDIA's GPUs.
const GPU_KIND: &str = "nvidia.com/gpu";
/// How long a container that has ended may take to be cleared away: a runtime deletes it in a tenth of a second.
const CLEARING_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const CLEARING_PAUSE: Duration = Duration::from_millis(10);
/// How often GPUs are chosen again because others were quicker. Each time somebody else has got one.
const ATTEMPTS: usize = 256;

/// What a container asks for of devices, by its request and by its bundle.
struct Wanted<'a> {
    plan: &'a DevicePlan,
    /// Devices of CDI by their names.
    devices: Vec<String>,
    /// Whether the bundle has nodes of GPUs itself.
    brings_nodes: bool,
}

impl<'a> Wanted<'a> {
    fn of(plan: &'a DevicePlan, config: Option<&Value>, is_sandbox: bool) -> Self {
        let mut devices = plan.devices.clone();
        let findings = config.map(detect).unwrap_or_default();
        let brings_nodes =
            findings.iter().any(|finding| matches!(finding.sign, Sign::Node(Node::Gpu(_) | Node::Control)));
        if !brings_nodes {
            devices.extend(findings.into_iter().filter_map(|finding| match finding.sign {
                Sign::Cdi(device) => Some(device),
                _ => None,
            }));
            if devices.is_empty() && is_sandbox {
                devices.extend(config.map(nvproxy::wanted_by_hook).unwrap_or_default());
            }
        }
        Self { plan, devices, brings_nodes }
    }

    fn is_nothing(&self) -> bool {
        self.plan.gpus.is_none() && self.devices.is_empty() && !self.brings_nodes
    }

    /// The GPUs among the devices that are asked for by name.
    fn named_gpus(&self) -> Vec<&str> {
        self.devices.iter().filter_map(|device| device.strip_prefix(GPU_KIND)?.strip_prefix('=')).collect()
    }
}

impl Launcher {
    /// Looks which devices a container would be given now. Changes nothing.
    pub(super) fn look_for_devices(
        &self,
        plan: &DevicePlan,
        config: Option<&Value>,
    ) -> Result<Granted, LaunchError> {
        let is_sandbox = self.runtime.is_sandbox();
        let wanted = Wanted::of(plan, config, is_sandbox);
        if wanted.is_nothing() {
            return Ok(Granted::default());
        }
        let root = plan.driver_root.as_deref().map_or_else(DriverRoot::default, DriverRoot::new);
        let inventory = root.inventory();
        let (gpus, exclusive) = self.choose_gpus(&wanted, &inventory)?;
        if is_sandbox && let Some(part) = wanted.devices.iter().find(|name| is_part(name)) {
            return Err(GpuError::Part(part.clone()).into());
        }
        let mut edits = vec![];
        if exclusive || !wanted.devices.is_empty() {
            let registry = registry(plan, &root, inventory.as_ref().ok())?;
            let chosen = gpus.iter().filter(|_| exclusive).map(|gpu| name_of(gpu, &registry));
            let names: Vec<String> = wanted.devices.iter().cloned().chain(chosen).collect();
            edits = registry.resolve(&names)?;
        }
        let sources = edits.iter().map(|edit| &edit.changes).chain(config).flat_map(library_sources);
        let sonames = sources.filter_map(|path| Some((path.clone(), soname(Path::new(&path))?)));
        let sonames = if is_sandbox { sonames.collect() } else { Default::default() };
        let driver = inventory.ok().map(|inventory| inventory.driver);
        Ok(Granted { gpus, exclusive, edits, driver, sonames })
    }

    /// The GPUs, and whether they are for the container alone.
    fn choose_gpus(
        &self,
        wanted: &Wanted<'_>,
        inventory: &Result<Inventory, GpuError>,
    ) -> Result<(Vec<Gpu>, bool), LaunchError> {
        let named = wanted.named_gpus();
        let Some(wish) = &wanted.plan.gpus else {
            let Ok(inventory) = inventory else { return Ok((vec![], false)) };
            let choose = |leases: &[Lease]| choose_named(&named, inventory, wanted.plan, leases);
            return Ok((self.choose_patiently(choose)?, false));
        };
        if !named.is_empty() {
            let why =
                format!("it gives GPUs for one container alone, and {GPU_KIND}={} shares one", named[0]);
            return Err(Refused::new("--gpus", why).into());
        }
        if let GpuRequest::Named(names) = &wish.request
            && let Some(part) = names.iter().find(|name| is_part(name))
        {
            let why = format!("{part} is a part of a GPU: give it by --device {GPU_KIND}={part}");
            return Err(Refused::new("--gpus", why).into());
        }
        let inventory = inventory.as_ref().map_err(Clone::clone)?;
        let visible = visible(&inventory.gpus, wanted.plan.visible.as_deref());
        Ok((self.choose_patiently(|leases| choose(&wish.request, &visible, leases, true))?, true))
    }

    /// Waits for containers that have ended: whoever was told of the end may have their GPUs, some moments later.
    fn choose_patiently(
        &self,
        choose: impl Fn(&[Lease]) -> Result<Vec<Gpu>, GpuError>,
    ) -> Result<Vec<Gpu>, LaunchError> {
        let deadline = Instant::now() + CLEARING_LIMIT;
        loop {
            let leases = self.state.gpu_leases()?;
            match choose(&leases) {
                Err(GpuError::Taken { .. })
                    if Instant::now() < deadline
                        && leases.iter().any(|lease| self.state.is_ending(lease)) =>
                {
                    std::thread::park_timeout(CLEARING_PAUSE);
                }
                chosen => return Ok(chosen?),
            }
        }
    }

    /// Takes the GPUs of a container for it, whose folder is there: those that were chosen when it was prepared, or
    /// others, where somebody was quicker.
    pub(super) fn take_gpus(&self, mut prepared: Prepared) -> Result<Prepared, LaunchError> {
        for _ in 0..ATTEMPTS {
            let Granted { gpus, exclusive, .. } = &prepared.granted;
            if gpus.is_empty() {
                return Ok(prepared);
            }
            let leases = self.state.lock_gpus()?;
            let clash = |lease: &Lease| {
                (*exclusive || lease.exclusive) && gpus.iter().any(|gpu| gpu.uuid == lease.gpu)
            };
            if !leases.good()?.iter().any(clash) {
                leases.give(gpus, &prepared.plan.id, *exclusive)?;
                self.log(&prepared);
                link_nodes(&prepared);
                return Ok(prepared);
            }
            // Not under the lock: whoever looks may ask NVML.
            drop(leases);
            prepared = self.prepare_plan(prepared.plan)?;
        }
        Err(GpuError::Contended.into())
    }

    /// What an operator finds by `grep nvproxy`.
    fn log(&self, prepared: &Prepared) {
        let Granted { gpus, driver, .. } = &prepared.granted;
        let gpus: Vec<&str> = gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
        let driver = driver.as_ref().map(ToString::to_string).unwrap_or_default();
        let what = if self.runtime.is_sandbox() { "nvproxy serves GPUs" } else { "GPUs are passed in" };
        tracing::info!(container = %prepared.plan.id, driver, gpus = gpus.join(","), "{what}");
    }
}

/// For systemd, which else takes GPUs away when it is reloaded. A container runs without it.
fn link_nodes(prepared: &Prepared) {
    if prepared.plan.cgroup_manager != CgroupManager::Systemd {
        return;
    }
    let nodes: Vec<PathBuf> =
        prepared.granted.gpus.iter().map(|gpu| format!("/dev/nvidia{}", gpu.minor).into()).collect();
    let shared = ["/dev/nvidiactl", "/dev/nvidia-uvm"].map(Path::new);
    if let Err(error) = make_char_links(nodes.iter().map(PathBuf::as_path).chain(shared)) {
        tracing::warn!(%error, "the links of GPUs in /dev/char are missing, by which systemd finds them");
    }
}

/// GPUs that are shared. A name that the driver does not know is left to whoever describes it.
fn choose_named(
    names: &[&str],
    inventory: &Inventory,
    plan: &DevicePlan,
    leases: &[Lease],
) -> Result<Vec<Gpu>, GpuError> {
    let seen = visible(&inventory.gpus, plan.visible.as_deref());
    let mut gpus: Vec<Gpu> = Vec::new();
    for name in names.iter().filter(|name| !is_part(name)) {
        let request = match *name {
            "all" => GpuRequest::All,
            name => GpuRequest::Named(vec![name.to_owned()]),
        };
        let chosen = match choose(&request, &seen, leases, false) {
            Err(GpuError::Unknown { .. }) if inventory.gpus.len() == seen.len() => continue,
            chosen => chosen?,
        };
        gpus.extend(chosen);
    }
    gpus.dedup();
    Ok(gpus)
}

/// Checks the nodes of a specification that nvproxy is to serve.
pub(super) fn check_nodes(spec: &Value) -> Result<(), GpuError> {
    let devices = spec["linux"]["devices"].as_array().into_iter().flatten();
    let paths = devices.filter_map(|device| device["path"].as_str());
    paths.filter(|path| Node::at(path).is_some_and(Node::is_of_nvproxy)).try_for_each(check_node)
}

/// nvproxy opens a node of the host by the path that it has in the container. Of one that it cannot open, a newer runsc
/// says nothing but "EOF".
fn check_node(path: &str) -> Result<(), GpuError> {
    let is_control = path == "/dev/nvidiactl";
    // The others may be busy, and are no better for being opened.
    let opened = if is_control {
        std::fs::File::options().read(true).write(true).open(path).map(drop)
    } else {
        std::fs::metadata(path).map(drop)
    };
    opened.map_err(|error| GpuError::Node { path: path.to_owned(), why: error.to_string() })
}

/// Whether a device is a part of a GPU (MIG).
fn is_part(name: &str) -> bool {
    let name = name.rsplit_once('=').map_or(name, |(kind, name)| if kind == GPU_KIND { name } else { kind });
    name.starts_with("MIG-") || name.contains(':') || name == "nvidia.com/mig"
}

/// What describes devices: the files, and where none describes GPUs, our own description.
fn registry(
    plan: &DevicePlan,
    root: &DriverRoot,
    inventory: Option<&Inventory>,
) -> Result<Registry, LaunchError> {
    let usual = || DEFAULT_DIRECTORIES.map(PathBuf::from).to_vec();
    let directories =
        Some(plan.spec_directories.clone()).filter(|list| !list.is_empty()).unwrap_or_else(usual);
    let mut registry = Registry::read(&directories);
    if let Some(inventory) = inventory.filter(|_| !registry.has_kind(GPU_KIND)) {
        registry.add_own(generate(root, inventory))?;
    }
    Ok(registry)
}

/// The name by which a GPU is described: its UUID, which stays the same, or its index.
fn name_of(gpu: &Gpu, registry: &Registry) -> String {
    let by_uuid = format!("{GPU_KIND}={}", gpu.uuid);
    if registry.has(&by_uuid) { by_uuid } else { format!("{GPU_KIND}={}", gpu.index) }
}

/// The libraries that a specification mounts, by their paths on the host.
fn library_sources(spec: &Value) -> Vec<String> {
    let mounts = spec["mounts"].as_array().into_iter().flatten();
    let sources = mounts.filter_map(|mount| mount["source"].as_str());
    let is_library = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.contains(".so."));
    sources.filter(is_library).map(str::to_owned).collect()
}
