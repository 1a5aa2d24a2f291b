//! Descriptions as there are, and as there should not be.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::error::Diagnose;

/// A directory of descriptions as root has them.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.0.path(), mode).unwrap();
        directory
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path.display().to_string()
    }
}

/// Two GPUs that are /dev/null and /dev/zero, as nvidia-ctk 1.17 describes GPUs.
const TWO: &str = r#"---
cdiVersion: 0.5.0
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
    hostPath: /dev/full
  hooks:
  - args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/bin/nvidia-smi
    hostPath: /bin/true
    options: [ro, nosuid, nodev, bind]
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      hostPath: /dev/null
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia1
      hostPath: /dev/zero
  name: "1"
kind: nvidia.com/gpu
"#;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn devices_become_edits() {
    let directory = Directory::new();
    let file = directory.put("nvidia.yaml", TWO);
    let registry = Registry::read(&[directory.path()]);
    assert!(registry.problems.is_empty() && registry.has_kind("nvidia.com/gpu"), "{:?}", registry.problems);
    let wanted = names(&["nvidia.com/gpu=1", "nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
    let edits = registry.resolve(&wanted).unwrap();
    assert_eq!(edits.len(), 2);
    assert!(edits.iter().all(|edit| edit.origin == file));
    let paths = |edit: &DeviceEdits| -> Vec<String> {
        let devices = edit.changes["linux"]["devices"].as_array().unwrap();
        devices.iter().map(|device| device["path"].as_str().unwrap().to_owned()).collect()
    };
    // What the file says for all of its devices comes once.
    assert_eq!(paths(&edits[0]), ["/dev/nvidiactl", "/dev/nvidia1"]);
    assert_eq!(paths(&edits[1]), ["/dev/nvidia0"]);
    let first = &edits[0].changes;
    assert_eq!(first["linux"]["devices"][1]["major"], 1);
    assert_eq!(first["linux"]["devices"][1]["minor"], 5);
    assert_eq!(first["process"]["env"], json!(["NVIDIA_VISIBLE_DEVICES=void"]));
    let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" });
    assert!(first["linux"]["resources"]["devices"].as_array().unwrap().contains(&rule), "{first:#}");
    // The golden test for hooks: the crate lost them once (container-device-interface-rs#28).
    let hook = json!({
        "path": "/usr/bin/nvidia-cdi-hook",
        "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/x86_64-linux-gnu"],
    });
    assert_eq!(first["hooks"]["createContainer"], json!([hook]));
    let mount = json!({
        "destination": "/usr/bin/nvidia-smi", "source": "/bin/true", "options": ["ro", "nosuid", "nodev", "bind"],
    });
    assert_eq!(first["mounts"], json!([mount]));
}

#[test]
fn what_cannot_be_resolved_names_files() {
    let directory = Directory::new();
    directory.put("a.yaml", TWO);
    let broken = directory.put("b.yaml", "cdiVersion: [\n");
    let registry = Registry::read(&[directory.path()]);
    assert_eq!(registry.problems.len(), 1);
    let error = registry.resolve(&names(&["nvidia.com/gpu=7"])).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.code(), crate::error::Code::CdiUnresolved);
    assert!(text.contains("there is nvidia.com/gpu=0, nvidia.com/gpu=1") && text.contains(&broken), "{text}");
    let error = registry.resolve(&names(&["intel.com/gpu=0"])).unwrap_err().to_string();
    assert!(!error.contains("there is"), "{error}");
}

#[test]
fn two_files_of_one_directory_contradict_each_other() {
    let (etc, run) = (Directory::new(), Directory::new());
    let one = etc.put("one.yaml", TWO);
    let other = etc.put("other.yaml", TWO);
    let both = Registry::read(&[etc.path()]);
    let error = both.resolve(&names(&["nvidia.com/gpu=0"])).unwrap_err();
    assert_eq!(error.code(), crate::error::Code::CdiConflict);
    assert!(error.to_string().contains(&one) && error.to_string().contains(&other), "{error}");
    assert!(both.list()[0].conflict.is_some());
    // A directory of more precedence decides it.
    let decisive = run.put("nvidia.json", &TWO.replace("/dev/zero", "/dev/full"));
    let all = Registry::read(&[etc.path(), run.path()]);
    assert_eq!(all.resolve(&names(&["nvidia.com/gpu=1"])).unwrap()[0].origin, decisive);
    assert_eq!(all.list()[0].conflict, None);
}

#[test]
fn a_description_that_is_older_than_the_driver_is_refused() {
    let directory = Directory::new();
    for (what, instead) in [("/bin/true", "/usr/lib/libcuda.so.535.1"), ("/dev/null", "/dev/nvidia0-gone")] {
        directory.put("nvidia.yaml", &TWO.replace(what, instead));
        let error = Registry::read(&[directory.path()]).resolve(&names(&["nvidia.com/gpu=0"])).unwrap_err();
        assert_eq!(error.code(), crate::error::Code::CdiStale);
        assert!(error.to_string().contains(instead), "{error}");
        assert!(error.next_step().unwrap().contains("cdi generate"));
    }
}

#[test]
fn hooks_of_the_host_are_looked_at_and_those_of_the_container_are_not() {
    let directory = Directory::new();
    let of = |stage: &str, path: &str| {
        let description = json!({
            "cdiVersion": "0.6.0", "kind": GPU_KIND,
            "devices": [{ "name": "0", "containerEdits": { "env": ["A=1"] } }],
            "containerEdits": { "hooks": [{ "hookName": stage, "path": path }] },
        });
        directory.put("nvidia.json", &description.to_string());
        let driver = "550.90.07".parse().unwrap();
        Registry::read(&[directory.path()]).resolve_for("nvidia.com/gpu=0", Some(&driver))
    };
    drop(of("createContainer", "/bin/true").unwrap());
    drop(of("startContainer", "/inside/only").unwrap());
    for path in ["/gone", "/etc/passwd", "/etc", "true"] {
        let error = of("createRuntime", path).unwrap_err();
        assert!(error.to_string().contains("no program that is there"), "{path}: {error}");
        assert!(error.next_step().unwrap().contains("--own"), "{error}");
    }
}

#[test]
fn what_is_checked_is_what_a_launch_needs() {
    let directory = Directory::new();
    let library = directory.path().join("libcuda.so.550.90.07");
    std::fs::write(&library, "").unwrap();
    directory.put(
        "nvidia.yaml",
        &TWO.replace("/bin/true", library.to_str().unwrap()).replace("/usr/bin/nvidia-cdi-hook", "/bin/true"),
    );
    let with = |driver: &str| {
        let driver = driver.parse().unwrap();
        Registry::read(&[directory.path()]).resolve_for("nvidia.com/gpu=0", Some(&driver)).map(drop)
    };
    with("550.90.07").unwrap();
    let error = with("560.28.03").unwrap_err();
    assert!(error.to_string().contains("560.28.03") && error.to_string().contains("550.90.07"), "{error}");
}

#[test]
fn files_that_others_can_write_are_not_used() {
    let directory = Directory::new();
    let file = directory.put("nvidia.yaml", TWO);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let untrusted = |registry: &Registry| {
        registry.problems.iter().any(|problem| matches!(problem, CdiError::Untrusted { .. }))
    };
    let registry = Registry::read(&[directory.path()]);
    assert!(untrusted(&registry) && registry.list().is_empty());
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(untrusted(&Registry::read(&[directory.path()])), "its directory counts too");
}

#[test]
fn odd_files_are_said_and_hold_nothing_up() {
    let directory = Directory::new();
    let fifo = directory.path().join("fifo.json");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    directory.put("empty.json", "");
    directory.put("no-devices.yaml", "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: []\n");
    directory.put("version.yaml", &TWO.replace("0.5.0", "99.0.0"));
    directory.put("kind.yaml", &TWO.replace("nvidia.com/gpu", "gpu"));
    directory.put("large.yaml", &"#".repeat((4 << 20) + 1));
    directory.put(
        "bomb.yaml",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b]\n",
    );
    directory.put("notes.txt", "not read");
    directory.put("good.yaml", TWO);
    let registry = Registry::read(&[directory.path(), "/nonexistent".into()]);
    assert_eq!(registry.problems.len(), 7, "{:#?}", registry.problems);
    assert_eq!(registry.list().len(), 2);
}

#[test]
fn an_own_description_is_one_like_any_other() {
    let mut registry = Registry::default();
    let edits = json!({ "deviceNodes": [{ "path": "/dev/nvidia0", "hostPath": "/dev/null" }] });
    let own = json!({ "cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{ "name": "0", "containerEdits": edits }] });
    registry.add_own(own).unwrap();
    assert_eq!(registry.resolve(&names(&["nvidia.com/gpu=0"])).unwrap()[0].origin, OWN);
    assert!(registry.add_own(json!({})).is_err());
}
