//! Which devices a container is given: looking at the host, and taking GPUs for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{LaunchError, Launcher, Prepared};
use crate::cdi::{
    CdiError, DEFAULT_DIRECTORIES, OWN, Registry, check_hooks, check_libraries, library_sources,
};
use crate::elf::soname;
use crate::gpu::{
    DevicePlan, GPU_KIND, Gpu, GpuError, GpuRequest, GpuWish, Granted, Lease, Node, Sign, choose, detect,
    is_gpu_device, toolkit_program, visible,
};
use crate::nvidia::{DriverRoot, Inventory, make_char_links};
use crate::request::{CgroupManager, Refused};
use crate::spec::nvproxy;

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
    /// Nodes of NVIDIA's that the bundle has itself.
    nodes: Vec<Node>,
}

impl<'a> Wanted<'a> {
    fn of(plan: &'a DevicePlan, config: Option<&Value>) -> Self {
        let mut devices = plan.devices.clone();
        let nodes = config.map(nodes_of).unwrap_or_default();
        if !nodes.iter().any(|node| matches!(node, Node::Gpu(_))) {
            let findings = config.map(detect).unwrap_or_default();
            devices.extend(findings.into_iter().filter_map(|finding| match finding.sign {
                Sign::Cdi(device) => Some(device),
                _ => None,
            }));
            // What the old hook would give is given by us, where leases count; it has nothing left to do then.
            if plan.gpus.is_none() && !devices.iter().any(|device| is_gpu_device(device)) {
                devices.extend(config.map(nvproxy::wanted_by_hook).unwrap_or_default());
            }
        }
        Self { plan, devices, nodes }
    }

    fn is_nothing(&self) -> bool {
        self.plan.gpus.is_none() && self.devices.is_empty() && self.nodes.is_empty()
    }

    /// What `--gpus` asks for, where nothing else brings GPUs.
    fn gpus_alone(&self) -> Result<Option<&'a GpuWish>, Refused> {
        let Some(wish) = &self.plan.gpus else { return Ok(None) };
        let refused = |why: String| Err(Refused::new("--gpus", why));
        if let Some(shared) = self.devices.iter().find(|device| device.starts_with(GPU_KIND)) {
            return refused(format!("it gives GPUs for one container alone, and {shared} shares one"));
        }
        if let Some(Node::Gpu(minor)) = self.nodes.iter().find(|node| matches!(node, Node::Gpu(_))) {
            return refused(format!("the bundle has GPUs of its own (/dev/nvidia{minor})"));
        }
        if let GpuRequest::Named(names) = &wish.request
            && let Some(part) = names.iter().find(|name| name.starts_with("MIG-") || name.contains(':'))
        {
            return refused(format!(
                "{part} is no whole GPU, which are named by index or UUID; a part (MIG) is given by --device \
                 {GPU_KIND}={part}"
            ));
        }
        Ok(Some(wish))
    }
}

impl Launcher {
    /// Looks which devices a container would be given now. Changes nothing.
    ///
    /// Which GPUs those are is decided by the device nodes that it would have, whoever names them and in whatever way:
    /// they are what it can open.
    pub(super) fn look_for_devices(
        &self,
        plan: &DevicePlan,
        config: Option<&Value>,
    ) -> Result<Granted, LaunchError> {
        let is_sandbox = self.runtime.is_sandbox();
        let wanted = Wanted::of(plan, config);
        if wanted.is_nothing() {
            return Ok(Granted::default());
        }
        let root = plan.driver_root.as_deref().map_or_else(DriverRoot::default, DriverRoot::new);
        let inventory = root.within_reach();
        let mut granted = Granted { exclusive: plan.gpus.is_some(), ..Granted::default() };
        if let Some(wish) = wanted.gpus_alone()? {
            let inventory = inventory.as_ref().map_err(Clone::clone)?;
            let seen = visible(&inventory.gpus, plan.visible.as_deref());
            granted.gpus = self.choose_patiently(|leases| choose(&wish.request, &seen, leases, true))?;
        }
        if granted.exclusive || !wanted.devices.is_empty() {
            resolve(&wanted, &root, inventory.as_ref().ok(), &mut granted)?;
        }
        let nodes = granted.edits.iter().flat_map(|edit| nodes_of(&edit.changes)).chain(wanted.nodes.clone());
        let nodes: Vec<Node> = nodes.collect();
        if is_sandbox && nodes.contains(&Node::Capability) {
            return Err(GpuError::Part.into());
        }
        if let Ok(inventory) = &inventory {
            self.decide_by_nodes(plan, inventory, &nodes, &mut granted)?;
        }
        if is_sandbox {
            let specs = granted.edits.iter().map(|edit| &edit.changes).chain(config);
            let named = |path: String| Some((path.clone(), soname(Path::new(&path))?));
            granted.sonames = specs.flat_map(library_sources).filter_map(named).collect();
        }
        // Those of the toolkit are taken away for gVisor.
        check_hooks(&granted.edits, |hook| !is_sandbox || toolkit_program(hook).is_none())?;
        granted.driver = inventory.ok().map(|inventory| inventory.driver);
        Ok(granted)
    }

    /// Says which GPUs the nodes give; those must be the chosen ones, or ones that may be shared.
    fn decide_by_nodes(
        &self,
        plan: &DevicePlan,
        inventory: &Inventory,
        nodes: &[Node],
        granted: &mut Granted,
    ) -> Result<(), LaunchError> {
        let minors: BTreeSet<u32> = nodes.iter().filter_map(|node| node.gpu()).collect();
        if granted.exclusive {
            let is_chosen = |minor: &&u32| granted.gpus.iter().any(|gpu| gpu.minor == **minor);
            return match minors.iter().find(|minor| !is_chosen(minor)) {
                Some(minor) => Err(GpuError::OtherNode(*minor).into()),
                None => Ok(()),
            };
        }
        let mut names = Vec::new();
        for minor in minors {
            let gpu = inventory.gpus.iter().find(|gpu| gpu.minor == minor);
            names.push(gpu.ok_or(GpuError::UnknownNode(minor))?.index.to_string());
        }
        if !names.is_empty() {
            let seen = visible(&inventory.gpus, plan.visible.as_deref());
            let request = GpuRequest::Named(names);
            granted.gpus = self.choose_patiently(|leases| choose(&request, &seen, leases, false))?;
        }
        Ok(())
    }

    /// Waits for containers that have ended: whoever was told of the end may have their GPUs, some moments later.
    fn choose_patiently(
        &self,
        choose: impl Fn(&[Lease]) -> Result<Vec<Gpu>, GpuError>,
    ) -> Result<Vec<Gpu>, LaunchError> {
        let deadline = Instant::now() + CLEARING_LIMIT;
        // Whether those that are about to come back are what is missing.
        let is_worth_waiting = |leases: &[Lease]| {
            let is_ending = |lease: &&Lease| self.state.is_ending(lease, &self.host.boot_id, CLEARING_LIMIT);
            let (ending, staying): (Vec<&Lease>, Vec<&Lease>) = leases.iter().partition(is_ending);
            let staying: Vec<Lease> = staying.into_iter().cloned().collect();
            !ending.is_empty() && choose(&staying).is_ok()
        };
        loop {
            let leases = self.state.gpu_leases()?;
            match choose(&leases) {
                Err(GpuError::Taken { .. }) if Instant::now() < deadline && is_worth_waiting(&leases) => {
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
                (*exclusive || lease.exclusive) && gpus.iter().any(|gpu| gpu.bus == lease.gpu)
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

/// The nodes of NVIDIA's in a specification, by their paths, and GPUs by their numbers, whatever their paths.
fn nodes_of(spec: &Value) -> Vec<Node> {
    let devices = || spec["linux"]["devices"].as_array().into_iter().flatten();
    let by_path = devices().filter_map(|device| Node::at(device["path"].as_str()?));
    let by_number =
        devices().filter_map(|device| Node::numbered(device["major"].as_u64()?, device["minor"].as_u64()?));
    by_path.chain(by_number).filter(|node| *node != Node::Dri).collect()
}

/// Finds what describes the devices, and what that changes.
fn resolve(
    wanted: &Wanted<'_>,
    root: &DriverRoot,
    inventory: Option<&Inventory>,
    granted: &mut Granted,
) -> Result<(), LaunchError> {
    let registry = registry(wanted.plan, root, inventory, &mut granted.warnings)?;
    let chosen = granted.gpus.iter().map(|gpu| name_of(gpu, &registry));
    let names: Vec<String> = wanted.devices.iter().cloned().chain(chosen).collect();
    granted.edits = registry.resolve(&names).map_err(|error| match error {
        // Ours is as old as this moment: what it lacks is not there yet.
        CdiError::Stale { origin, path, source, .. } if origin == OWN => {
            LaunchError::Gpu(GpuError::Node { path: path.display().to_string(), why: source.to_string() })
        }
        error => error.into(),
    })?;
    if let Some(inventory) = inventory {
        check_libraries(&granted.edits, &inventory.driver)?;
    }
    Ok(())
}

/// What describes devices: the files, and where none describes GPUs, our own description.
fn registry(
    plan: &DevicePlan,
    root: &DriverRoot,
    inventory: Option<&Inventory>,
    warnings: &mut Vec<String>,
) -> Result<Registry, LaunchError> {
    let given = Some(plan.spec_directories.clone()).filter(|list| !list.is_empty());
    let missing = given.iter().flatten().filter(|path| !path.is_dir());
    warnings.extend(missing.map(|path| format!("--cdi-spec-dir: {} is no directory", path.display())));
    let directories = given.unwrap_or_else(|| DEFAULT_DIRECTORIES.map(PathBuf::from).to_vec());
    let (registry, _) = Registry::of_host(&directories, root, inventory)?;
    warnings.extend(registry.problems.iter().map(|problem| format!("not used: {}", problem.in_full())));
    Ok(registry)
}

/// The name by which a GPU is described: its UUID, which stays the same, or its index.
fn name_of(gpu: &Gpu, registry: &Registry) -> String {
    let by_uuid = format!("{GPU_KIND}={}", gpu.uuid);
    if registry.has(&by_uuid) { by_uuid } else { format!("{GPU_KIND}={}", gpu.index) }
}
