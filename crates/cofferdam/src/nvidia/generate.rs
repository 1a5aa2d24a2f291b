//! An own description of this host's GPUs for CDI, for a host without nvidia-ctk: the plain case.
//!
//! It has what `nvidia-ctk cdi generate` has for a driver that is installed on the host itself: the device nodes, the
//! libraries of the driver's version at their real place and by their SONAME, its programs, its firmware, and the files
//! by which loaders of OpenGL and Vulkan find it. It has no hooks, so that runtimes that run none (gVisor) get the same:
//! links are mounts here, and the loader finds the libraries by LD_LIBRARY_PATH.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::proc::is_known;
use super::{DriverRoot, Inventory, LibraryDirectories};
use crate::elf::{is_elf, soname};
use crate::gpu::{GPU_KIND, parse_device};

/// The version of the CDI specification that it is written in: one that every consumer reads.
const CDI_VERSION: &str = "0.5.0";
/// The programs of the driver that are of use in a container.
const PROGRAMS: [&str; 5] = [
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-persistenced",
];
/// Where programs are. A script in an earlier one that calls the program in a later one is of no use in a container.
const PROGRAM_DIRECTORIES: [&str; 5] =
    ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/nvidia/bin", "/bin"];
/// By which loaders of OpenGL and Vulkan find the driver, below one of the directories of such files.
const LOADER_FILES: [&str; 6] = [
    "glvnd/egl_vendor.d/10_nvidia.json",
    "egl/egl_external_platform.d/10_nvidia_wayland.json",
    "egl/egl_external_platform.d/15_nvidia_gbm.json",
    "vulkan/icd.d/nvidia_icd.json",
    "vulkan/implicit_layer.d/nvidia_layers.json",
    "nvidia/nvoptix.bin",
];
const LOADER_DIRECTORIES: [&str; 3] = ["/etc", "/usr/local/share", "/usr/share"];
/// Where the kernel was told to look for firmware before it looks in its own directory.
const FIRMWARE_PATH: &str = "/sys/module/firmware_class/parameters/path";
/// Nodes that are no GPU's own, and without which no program of CUDA's starts.
const NEEDED_NODES: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
/// Nodes that some programs use.
const OTHER_NODES: [&str; 2] = ["/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

/// Describes the GPUs of this host.
#[must_use]
pub fn generate(root: &DriverRoot, inventory: &Inventory) -> Value {
    let mut devices = Vec::new();
    let node = |path: &str| {
        let below = root.join(path);
        // The host's own where it has them: gVisor opens nodes by the path that they have in the container.
        if Path::new(path).exists() || !below.exists() {
            json!({ "path": path })
        } else {
            json!({ "path": path, "hostPath": below.to_string_lossy() })
        }
    };
    let own_nodes: Vec<Value> =
        inventory.gpus.iter().map(|gpu| node(&format!("/dev/nvidia{}", gpu.minor))).collect();
    for (gpu, own) in inventory.gpus.iter().zip(&own_nodes) {
        // Of one that was not used yet, the UUID is not known.
        let uuid = Some(gpu.uuid.clone()).filter(|uuid| is_known(uuid) && is_name(uuid));
        for name in [gpu.index.to_string()].into_iter().chain(uuid) {
            devices.push(json!({ "name": name, "containerEdits": { "deviceNodes": [own] } }));
        }
    }
    devices.push(json!({ "name": "all", "containerEdits": { "deviceNodes": own_nodes } }));
    let others = OTHER_NODES.into_iter().filter(|path| root.join(path).exists());
    let shared: Vec<Value> = NEEDED_NODES.into_iter().chain(others).map(node).collect();
    let (mounts, library_path) = mounts(root, inventory);
    let mut env = vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()];
    if !library_path.is_empty() {
        env.push(format!("LD_LIBRARY_PATH={}", library_path.join(":")));
    }
    json!({
        "cdiVersion": CDI_VERSION,
        "kind": GPU_KIND,
        "devices": devices,
        "containerEdits": { "env": env, "deviceNodes": shared, "mounts": mounts },
    })
}

/// Whether it can be a name of CDI: a driver that says something else has one GPU less by its UUID, and not none at all.
fn is_name(uuid: &str) -> bool {
    parse_device(&format!("{GPU_KIND}={uuid}")).is_ok()
}

/// What is mounted, and the directories of the libraries in it.
fn mounts(root: &DriverRoot, inventory: &Inventory) -> (Vec<Value>, Vec<String>) {
    let mut mounts = Vec::new();
    let mut put = |source: &Path, destination: String| {
        mounts.push(json!({
            "hostPath": source.to_string_lossy(),
            "containerPath": destination,
            "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
        }));
    };
    let mut library_path = Vec::new();
    for (directory, name) in LibraryDirectories::of(root).iter() {
        for file in libraries(directory, &inventory.driver.to_string()) {
            let path = directory.join(&file);
            put(&path, format!("{name}/{file}"));
            for link in links(&path, &file) {
                put(&path, format!("{name}/{link}"));
            }
            if !library_path.iter().any(|known| known == name) {
                library_path.push(name.to_owned());
            }
        }
    }
    for program in PROGRAMS {
        if let Some(real) = find_driver_program(root, program) {
            put(&real, format!("/usr/bin/{program}"));
        }
    }
    for name in LOADER_FILES {
        let mut places = LOADER_DIRECTORIES.iter().map(|directory| root.join(&format!("{directory}/{name}")));
        if let Some(real) = places.find_map(|place| place.canonicalize().ok()) {
            put(&real, format!("/usr/share/{name}"));
        }
    }
    if let Some((real, name)) = firmware(root, inventory) {
        put(&real, name);
    }
    (mounts, library_path)
}

/// The firmware of the driver's version: where it is, and by which path a container knows it.
fn firmware(root: &DriverRoot, inventory: &Inventory) -> Option<(PathBuf, String)> {
    let told = std::fs::read_to_string(root.join(FIRMWARE_PATH)).unwrap_or_default();
    let directories = [told.trim(), "/lib/firmware"].into_iter().filter(|directory| !directory.is_empty());
    let mut names = directories.map(|directory| format!("{directory}/nvidia/{}", inventory.driver));
    names.find_map(|name| Some((root.join(&name).canonicalize().ok()?, name)))
}

/// A program of the driver's: where there are several of its name, the first that is one itself.
fn find_driver_program(root: &DriverRoot, name: &str) -> Option<PathBuf> {
    let found: Vec<PathBuf> = PROGRAM_DIRECTORIES
        .iter()
        .filter_map(|directory| root.join(&format!("{directory}/{name}")).canonicalize().ok())
        .filter(|path| path.is_file())
        .collect();
    found.iter().find(|path| is_elf(path)).or_else(|| found.first()).cloned()
}

/// The names of the driver's libraries in a directory: those that end with its version.
fn libraries(directory: &Path, driver: &str) -> Vec<String> {
    let suffix = format!(".so.{driver}");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("lib") && name.ends_with(&suffix))
        // A link that leads nowhere, or a pipe, is none.
        .filter(|name| directory.join(name).is_file())
        .collect();
    names.sort();
    names
}

/// The other names of a library: its SONAME, by which programs load it, and the one without a number, by which some
/// open it.
fn links(path: &Path, file: &str) -> Vec<String> {
    let stem = file.split_once(".so.").map(|(stem, _)| format!("{stem}.so"));
    let soname = soname(path).filter(|name| name != file);
    let mut names: Vec<String> = soname.into_iter().chain(stem).collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use cofferdam_testkit::gpu_host::{DRIVER, GpuHost};

    use super::*;

    fn described(root: &Path) -> Value {
        let root = DriverRoot::new(root);
        generate(&root, &root.inventory().unwrap())
    }

    #[test]
    fn a_host_is_described_as_the_toolkit_does_it() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 2, DRIVER);
        let description = described(host.root());
        let names: Vec<&str> =
            description["devices"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
        let (first, second) = (GpuHost::uuid(0), GpuHost::uuid(1));
        assert_eq!(names, ["0", &first, "1", &second, "all"]);
        let nodes = |place: &Value| -> Vec<String> {
            let nodes = place["deviceNodes"].as_array().unwrap();
            nodes.iter().map(|node| node["path"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(nodes(&description["devices"][2]["containerEdits"]), ["/dev/nvidia1"]);
        assert_eq!(nodes(&description["devices"][4]["containerEdits"]), ["/dev/nvidia0", "/dev/nvidia1"]);
        let common = &description["containerEdits"];
        assert_eq!(nodes(common), ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]);
        let mounts: Vec<&str> = common["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["containerPath"].as_str().unwrap())
            .collect();
        let libraries = "/usr/lib/x86_64-linux-gnu";
        // The test's libraries all have the C library's SONAME.
        let soname = format!("{libraries}/libc.so.6");
        assert_eq!(
            mounts,
            [
                &format!("{libraries}/libcuda.so.{DRIVER}"),
                &soname,
                &format!("{libraries}/libcuda.so"),
                &format!("{libraries}/libnvidia-ml.so.{DRIVER}"),
                &soname,
                &format!("{libraries}/libnvidia-ml.so"),
                &format!("{libraries}/libnvidia-ptxjitcompiler.so.{DRIVER}"),
                &soname,
                &format!("{libraries}/libnvidia-ptxjitcompiler.so"),
                "/usr/bin/nvidia-smi",
                &format!("/lib/firmware/nvidia/{DRIVER}"),
            ]
        );
        let env = json!(["NVIDIA_VISIBLE_DEVICES=void", format!("LD_LIBRARY_PATH={libraries}")]);
        assert_eq!(common["env"], env);
        assert_eq!(
            description["devices"][0]["containerEdits"]["deviceNodes"][0]["hostPath"],
            host.root().join("dev/nvidia0").to_str().unwrap()
        );
    }

    #[test]
    fn files_of_loaders_and_firmware_elsewhere_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 1, DRIVER);
        let put = |path: &str, text: &str| {
            let path = host.root().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/vulkan/icd.d/nvidia_icd.json", "{}");
        put(&format!("opt/firmware/nvidia/{DRIVER}/gsp_ga10x.bin"), "");
        put("sys/module/firmware_class/parameters/path", "/opt/firmware\n");
        let description = described(host.root());
        let mounts = description["containerEdits"]["mounts"].as_array().unwrap();
        let source_of = |destination: &str| {
            let mount = mounts.iter().find(|mount| mount["containerPath"] == destination);
            mount.map(|mount| mount["hostPath"].as_str().unwrap().to_owned())
        };
        let below = |path: &str| Some(host.root().canonicalize().unwrap().join(path).display().to_string());
        assert_eq!(
            source_of("/usr/share/vulkan/icd.d/nvidia_icd.json"),
            below("etc/vulkan/icd.d/nvidia_icd.json")
        );
        let firmware = format!("opt/firmware/nvidia/{DRIVER}");
        assert_eq!(source_of(&format!("/{firmware}")), below(&firmware));
        assert_eq!(source_of(&format!("/lib/firmware/nvidia/{DRIVER}")), None, "one is enough");
    }

    #[test]
    fn a_script_that_calls_a_program_elsewhere_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 1, DRIVER);
        let root = DriverRoot::new(host.root());
        let script = host.root().join("usr/bin/nvidia-smi");
        assert_eq!(find_driver_program(&root, "nvidia-smi"), Some(script.canonicalize().unwrap()));
        let real = host.root().join("usr/local/nvidia/bin/nvidia-smi");
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::copy("/bin/true", &real).unwrap();
        assert_eq!(find_driver_program(&root, "nvidia-smi"), Some(real.canonicalize().unwrap()));
        assert_eq!(find_driver_program(&root, "nvidia-debugdump"), None);
    }

    #[test]
    fn a_description_can_be_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 1, DRIVER);
        let mut registry = crate::cdi::Registry::default();
        registry.add_own(described(host.root())).unwrap();
        let edits = registry.resolve(&["nvidia.com/gpu=0".to_owned()]).unwrap();
        assert_eq!(edits[0].changes["linux"]["devices"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn one_whose_uuid_is_not_known_yet_has_its_index() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 2, DRIVER);
        let root = DriverRoot::new(host.root());
        let mut inventory = root.inventory().unwrap();
        for gpu in &mut inventory.gpus {
            gpu.uuid = "GPU-????????-????-????-????-????????????".into();
        }
        let mut registry = crate::cdi::Registry::default();
        registry.add_own(generate(&root, &inventory)).unwrap();
        let names: Vec<String> = registry.list().into_iter().map(|listed| listed.device).collect();
        assert_eq!(names, ["nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all"]);
    }

    #[test]
    fn in_a_container_only_its_own_are_within_reach() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 3, DRIVER);
        let root = DriverRoot::new(host.root());
        std::fs::remove_file(host.devices().join("nvidia0")).unwrap();
        let indices = |inventory: Inventory| inventory.gpus.iter().map(|gpu| gpu.index).collect::<Vec<_>>();
        assert_eq!(indices(root.within_reach().unwrap()), [1, 2]);
        for index in [1, 2] {
            std::fs::remove_file(host.devices().join(format!("nvidia{index}"))).unwrap();
        }
        assert_eq!(indices(root.within_reach().unwrap()), [0, 1, 2], "none has been made yet");
    }

    #[test]
    fn a_root_of_libraries_alone_has_the_kernel_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let root = DriverRoot::new(directory.path());
        let version = "/proc/driver/nvidia/version";
        assert_eq!(root.in_proc(version), root.join(version), "there is nothing of a driver");
        let libraries = directory.path().join("lib64");
        std::fs::create_dir(&libraries).unwrap();
        std::fs::write(libraries.join("libcuda.so.1"), "").unwrap();
        assert_eq!(root.in_proc(version), Path::new(version));
        std::fs::create_dir_all(directory.path().join("proc/driver/nvidia")).unwrap();
        assert_eq!(root.in_proc(version), Path::new(version), "it is not mounted there");
        std::fs::write(root.join(version), "").unwrap();
        assert_eq!(root.in_proc(version), root.join(version));
    }

    #[test]
    fn a_host_without_a_driver_has_no_inventory() {
        let directory = tempfile::tempdir().unwrap();
        let error = DriverRoot::new(directory.path()).inventory().unwrap_err();
        assert!(error.to_string().contains("proc/driver/nvidia/version"), "{error}");
        let none = GpuHost::new(directory.path(), 0, DRIVER);
        assert_eq!(DriverRoot::new(none.root()).inventory().unwrap().gpus, []);
    }
}
