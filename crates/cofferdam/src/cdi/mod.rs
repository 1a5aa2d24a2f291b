//! Devices of the Container Device Interface: reading the files that describe them, and what each changes in a
//! specification.
//!
//! Files are parsed, checked and turned into edits by the crate `container-device-interface`; the edits go into a
//! specification by `spec::cdi`, each with its reason. Ours is here what an operator has to know: which file says so,
//! which two contradict each other, and which names something that is not there.
//!
//! Invariant: a file that somebody but root can write is not used: its hooks run as root on the host.

mod description;
mod error;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use container_device_interface::container_edits::ContainerEdits;
use oci_spec::runtime as oci;
use serde::Serialize;
use serde_json::{Value, json};

use description::Description;
pub use error::CdiError;
pub use file::parse;

use crate::gpu::{DeviceEdits, DriverVersion, GPU_KIND};
use crate::nvidia::{DriverRoot, Inventory, generate};

/// Where files are looked for, the later ones first, as the specification says.
pub const DEFAULT_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The devices that are described.
#[derive(Debug, Default)]
pub struct Registry {
    /// By qualified name: each description with its priority.
    devices: BTreeMap<String, Vec<Described>>,
    /// Files that are not used.
    pub problems: Vec<CdiError>,
}

#[derive(Debug)]
struct Described {
    priority: usize,
    origin: String,
    edits: ContainerEdits,
    /// What its file changes for any of its devices.
    common: Rc<Option<ContainerEdits>>,
}

/// A line of `cofferdam cdi list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The device's qualified name.
    pub device: String,
    /// The file that describes it.
    pub origin: String,
    /// Another file with the same right to describe it: it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
}

impl Registry {
    /// Reads the files of directories, of which a later one has precedence. What cannot be used is kept in `problems`.
    #[must_use]
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (priority, directory) in directories.iter().enumerate() {
            for path in file::files_of(directory) {
                let origin = path.display().to_string();
                let described = file::read(directory, &path).and_then(|raw| {
                    Description::check(&raw).map_err(|why| CdiError::Invalid { path: origin.clone(), why })
                });
                match described {
                    Ok(description) => registry.add(description, &origin, priority),
                    Err(problem) => registry.problems.push(problem),
                }
            }
        }
        registry
    }

    /// The files of directories, and where none of them describes NVIDIA's GPUs, our own description of those that can be
    /// given; says whether that is there.
    ///
    /// # Errors
    /// [`CdiError::Invalid`]: our own one is a fault.
    pub fn of_host(
        directories: &[PathBuf],
        root: &DriverRoot,
        inventory: Option<&Inventory>,
    ) -> Result<(Self, bool), CdiError> {
        let mut registry = Self::read(directories);
        let inventory = inventory.filter(|_| !registry.has_kind(GPU_KIND));
        if let Some(inventory) = inventory {
            registry.add_own(generate(root, inventory))?;
        }
        Ok((registry, inventory.is_some()))
    }

    /// Adds a description that comes from no file.
    ///
    /// # Errors
    /// [`CdiError::Invalid`].
    pub fn add_own(&mut self, description: Value) -> Result<(), CdiError> {
        let parsed = serde_json::from_value(description).map_err(|error| error.to_string());
        let checked = parsed.and_then(|raw| Description::check(&raw));
        self.add(checked.map_err(|why| CdiError::Invalid { path: OWN.into(), why })?, OWN, 0);
        Ok(())
    }

    fn add(&mut self, description: Description, origin: &str, priority: usize) {
        let common = Rc::new(description.common);
        for (name, edits) in description.devices {
            let described =
                Described { priority, origin: origin.to_owned(), edits, common: Rc::clone(&common) };
            self.devices.entry(name).or_default().push(described);
        }
    }

    /// Whether a device is described.
    #[must_use]
    pub fn has(&self, device: &str) -> bool {
        self.devices.contains_key(device)
    }

    /// Whether there is any device of a kind, such as `nvidia.com/gpu`.
    #[must_use]
    pub fn has_kind(&self, kind: &str) -> bool {
        self.devices.keys().any(|name| name.split_once('=').is_some_and(|(of, _)| of == kind))
    }

    /// All devices, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let line = |(name, described): (&String, &Vec<Described>)| {
            let (chosen, rival) = Self::first_of(described)?;
            Some(Listed {
                device: name.clone(),
                origin: chosen.origin.clone(),
                conflict: rival.map(|rival| rival.origin.clone()),
            })
        };
        self.devices.iter().filter_map(line).collect()
    }

    /// The description that has precedence, and another one that has as much.
    fn first_of(described: &[Described]) -> Option<(&Described, Option<&Described>)> {
        let highest = described.iter().map(|one| one.priority).max()?;
        let mut those = described.iter().filter(|one| one.priority == highest);
        Some((those.next()?, those.next()))
    }

    fn find(&self, name: &str) -> Result<&Described, CdiError> {
        let unresolved = || {
            let kind = name.split_once('=').map_or(name, |(kind, _)| kind);
            let same_kind = self.devices.keys().filter(|known| known.starts_with(&format!("{kind}=")));
            CdiError::Unresolved {
                device: name.to_owned(),
                there: same_kind.cloned().collect(),
                problems: self.problems.iter().map(CdiError::in_full).collect(),
            }
        };
        let described = self.devices.get(name).ok_or_else(unresolved)?;
        match Self::first_of(described).ok_or_else(unresolved)? {
            (chosen, None) => Ok(chosen),
            (chosen, Some(rival)) => Err(CdiError::Conflict {
                device: name.to_owned(),
                one: chosen.origin.clone(),
                other: rival.origin.clone(),
            }),
        }
    }

    /// What one device changes, if a runtime that runs its hooks can do all of it with this driver now.
    ///
    /// # Errors
    /// [`CdiError`].
    pub fn resolve_for(
        &self,
        name: &str,
        driver: Option<&DriverVersion>,
    ) -> Result<Vec<DeviceEdits>, CdiError> {
        let edits = self.resolve(&[name.to_owned()])?;
        check_hooks(&edits, |_| true)?;
        driver.map_or(Ok(()), |driver| check_libraries(&edits, driver))?;
        Ok(edits)
    }

    /// What devices change, in their order. What a file says for all of its devices comes with the first one.
    ///
    /// # Errors
    /// [`CdiError`]: it is not described, by two files at once, or names something that is not on this host.
    pub fn resolve(&self, names: &[String]) -> Result<Vec<DeviceEdits>, CdiError> {
        let mut seen: Vec<&str> = Vec::new();
        let mut resolved: Vec<DeviceEdits> = Vec::new();
        for name in names {
            if resolved.iter().any(|known| known.device == *name) {
                continue;
            }
            let Described { origin, edits: own, common, .. } = self.find(name)?;
            let mut edits = ContainerEdits::new();
            let failed =
                |why: String| CdiError::Unusable { device: name.clone(), origin: origin.clone(), why };
            if !seen.contains(&origin.as_str()) {
                seen.push(origin);
                if let Some(common) = common.as_ref() {
                    edits.append(common.clone()).map_err(|error| failed(format!("{error:#}")))?;
                }
            }
            edits.append(own.clone()).map_err(|error| failed(format!("{error:#}")))?;
            check_paths(name, origin, &edits)?;
            let changes = changes(&mut edits).map_err(failed)?;
            resolved.push(DeviceEdits { device: name.clone(), origin: origin.clone(), changes });
        }
        Ok(resolved)
    }
}

/// The origin of a description that cofferdam made.
pub const OWN: &str = "cofferdam's own description of this host";

/// Checks that each node and each source of a mount is there: a description that is older than its driver names files
/// that have gone.
fn check_paths(device: &str, origin: &str, edits: &ContainerEdits) -> Result<(), CdiError> {
    let edits = serde_json::to_value(&edits.container_edits).unwrap_or_default();
    let entries = |list: &str| edits[list].as_array().cloned().unwrap_or_default();
    let nodes = entries("deviceNodes").into_iter().map(|node| match node["hostPath"].as_str() {
        Some(path) => path.to_owned(),
        None => node["path"].as_str().unwrap_or_default().to_owned(),
    });
    let mounts =
        entries("mounts").into_iter().filter(|mount| mount["type"].as_str().is_none_or(|t| t == "bind"));
    let sources = mounts.filter_map(|mount| mount["hostPath"].as_str().map(str::to_owned));
    for path in nodes.chain(sources) {
        if let Err(source) = std::fs::metadata(&path) {
            return Err(CdiError::Stale {
                device: device.into(),
                origin: origin.into(),
                path: path.into(),
                source,
            });
        }
    }
    Ok(())
}

/// Checks that the programs are there that a runtime is to run on the host for devices: it only says that it could not,
/// or not even that. `is_run` says whether a hook is run at all.
///
/// # Errors
/// [`CdiError::NoHook`].
pub(crate) fn check_hooks(devices: &[DeviceEdits], is_run: impl Fn(&Value) -> bool) -> Result<(), CdiError> {
    for DeviceEdits { device, origin, changes } in devices {
        let stages = changes["hooks"].as_object().into_iter().flatten();
        // Those of that stage are programs of the container.
        let on_host = stages.filter(|(stage, _)| *stage != "startContainer");
        let hooks = on_host.flat_map(|(_, hooks)| hooks.as_array().into_iter().flatten());
        let mut programs =
            hooks.filter(|hook| is_run(hook)).filter_map(|hook| hook["path"].as_str().map(Path::new));
        if let Some(path) = programs.find(|path| !is_program(path)) {
            let (device, origin) = (device.clone(), origin.clone());
            return Err(CdiError::NoHook { device, origin, path: path.to_owned() });
        }
    }
    Ok(())
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let about = std::fs::metadata(path);
    path.is_absolute() && about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// Checks that libraries are of the host's driver: others do not work with it.
///
/// # Errors
/// [`CdiError::OtherDriver`].
pub(crate) fn check_libraries(devices: &[DeviceEdits], driver: &DriverVersion) -> Result<(), CdiError> {
    for edit in devices {
        for library in library_sources(&edit.changes) {
            let version = library.split_once("/libcuda.so.").and_then(|(_, version)| version.parse().ok());
            if version.is_some_and(|version: DriverVersion| version != *driver) {
                let (device, origin) = (edit.device.clone(), edit.origin.clone());
                return Err(CdiError::OtherDriver { device, origin, library, driver: driver.to_string() });
            }
        }
    }
    Ok(())
}

/// The libraries that a specification mounts, by their paths on the host.
pub(crate) fn library_sources(spec: &Value) -> Vec<String> {
    let mounts = spec["mounts"].as_array().into_iter().flatten();
    let sources = mounts.filter_map(|mount| mount["source"].as_str());
    let is_library = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.contains(".so."));
    sources.filter(is_library).map(str::to_owned).collect()
}

/// The edits, applied to a specification that has nothing else.
fn changes(edits: &mut ContainerEdits) -> Result<Value, String> {
    // Without a list of mounts, the crate begins one with a mount that has nothing.
    let bare = json!({
        "ociVersion": "1.2.0", "process": { "cwd": "/", "user": { "uid": 0, "gid": 0 } }, "mounts": [],
    });
    let mut spec: oci::Spec = serde_json::from_value(bare).map_err(|error| error.to_string())?;
    edits.apply(&mut spec).map_err(|error| format!("{error:#}"))?;
    serde_json::to_value(&spec).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
