//! Devices of the Container Device Interface: descriptions that are used, and those that are not.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_testkit::gpu_host::{DRIVER, GpuHost};
use cofferdam_testkit::lab::{Lab, finish};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, nvidia_toolkit};
use serde_json::{Value, json};

use crate::gpu::{NODES, Place, is_one_of_each, is_runc};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("cdi::descriptions_are_used_and_checked", descriptions_are_used_and_checked).only(is_one_of_each),
    case("cdi::hooks_have_an_environment_of_their_own", hooks_have_an_environment_of_their_own)
        .only(|choice| matches!(choice, Choice::Runc | Choice::Crun)),
    case("cdi::the_old_hook_gives_nothing_of_others", the_old_hook_gives_nothing_of_others)
        .only(is_one_of_each),
    case("cdi::this_host_is_described", this_host_is_described).only(is_runc),
    case("cdi::as_the_toolkit_describes_it", as_the_toolkit_describes_it)
        .only(is_runc)
        .needs(&[Need::CCompiler, Need::NvidiaToolkit]),
];

fn descriptions_are_used_and_checked(lab: &Lab) {
    let folder = lab.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let marker = lab.path().join("marker");
    let describe_with = |program: &str, name: &str, kind: &str, path: &str| {
        let hook = json!({
            "hookName": "createContainer", "path": program, "args": ["touch", marker],
        });
        let description = json!({
            "cdiVersion": "0.6.0", "kind": kind,
            "devices": [{ "name": "one", "containerEdits": {
                "env": ["GIVEN=one"],
                "deviceNodes": [{ "path": "/dev/one", "hostPath": path }],
            } }],
            "containerEdits": {
                "mounts": [{ "hostPath": "/etc/hostname", "containerPath": "/etc/given", "options": ["ro", "bind"] }],
                "hooks": if lab.choice.is_gvisor() { Value::Array(vec![]) } else { Value::Array(vec![hook]) },
            },
        });
        std::fs::write(folder.join(name), description.to_string()).unwrap();
    };
    let describe = |name: &str, kind: &str, path: &str| describe_with("/usr/bin/touch", name, kind, path);
    describe("vendor.json", "vendor.example/device", "/dev/null");
    let folder_text = folder.display().to_string();
    let options = ["--cdi-spec-dir", &folder_text, "--device", "vendor.example/device=one", "--rm"];
    let script = "echo $GIVEN; cat /etc/given >/dev/null && ls /dev/one 2>&1";
    let text = lab.run(&options, &["sh", "-c", script]).text();
    let expected =
        if lab.choice.is_gvisor() { "one\nls: /dev/one: No such file or directory" } else { "one\n/dev/one" };
    assert_eq!(text, expected, "gVisor serves NVIDIA's devices alone");
    assert_eq!(marker.exists(), !lab.choice.is_gvisor(), "hooks run as the runtime runs them");
    let explained = lab.run(&[&options[..], &["--dry-run"]].concat(), &["true"]);
    assert!(
        explained.stderr.contains("vendor.example/device=one")
            || explained.text().contains("vendor.example/device=one")
    );
    // Two files that describe the same; a file that is older than what it describes.
    describe("again.json", "vendor.example/device", "/dev/null");
    let done = lab.run(&options, &["true"]).expect_error("E0312");
    assert!(done.stderr.contains("vendor.json") && done.stderr.contains("again.json"), "{}", done.stderr);
    std::fs::remove_file(folder.join("again.json")).unwrap();
    describe("vendor.json", "vendor.example/device", "/dev/gone");
    let done = lab.run(&options, &["true"]).expect_error("E0314");
    assert!(done.stderr.contains("/dev/gone"), "{}", done.stderr);
    if !lab.choice.is_gvisor() {
        describe_with("/usr/bin/nvidia-gone", "vendor.json", "vendor.example/device", "/dev/null");
        let done = lab.run(&options, &["true"]).expect_error("E0314");
        assert!(done.stderr.contains("/usr/bin/nvidia-gone"), "{}", done.stderr);
        assert!(done.stderr.contains("vendor's tool"), "it is not NVIDIA's: {}", done.stderr);
        drop(lab.cofferdam(&["cdi", "check", "--cdi-spec-dir", &folder_text]).expect_error("E0314"));
    }
    std::fs::write(folder.join("vendor.json"), "{").unwrap();
    let done = lab.run(&options, &["true"]).expect_error("E0311");
    assert!(done.stderr.contains("vendor.json"), "{}", done.stderr);
    let listed = lab.cofferdam(&["cdi", "list", "--cdi-spec-dir", &folder_text]).expect_code(0);
    assert!(listed.stderr.contains("vendor.json"), "{}", listed.stderr);
    drop(lab.cofferdam(&["cdi", "check", "--cdi-spec-dir", &folder_text]).expect_error("E0313"));
    lab.expect_clean();
}

/// What an image says must not reach programs of the host.
fn hooks_have_an_environment_of_their_own(lab: &Lab) {
    let folder = lab.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let told = lab.path().join("told");
    let script = format!("env >> {}", told.display());
    let hook = |stage: &str| json!({ "hookName": stage, "path": "/bin/sh", "args": ["sh", "-c", script] });
    let description = json!({
        "cdiVersion": "0.6.0", "kind": "vendor.example/device",
        "devices": [{ "name": "one", "containerEdits": { "env": ["GIVEN=one"] } }],
        "containerEdits": { "hooks": [hook("createContainer"), hook("createRuntime"), hook("poststart")] },
    });
    std::fs::write(folder.join("vendor.json"), description.to_string()).unwrap();
    let options = [
        "--cdi-spec-dir",
        folder.to_str().unwrap(),
        "--device",
        "vendor.example/device=one",
        "--rm",
        "--env",
        "LD_PRELOAD=/evil.so",
    ];
    drop(lab.run(&options, &["true"]));
    let told = std::fs::read_to_string(told).unwrap();
    assert!(told.matches("PATH=/usr/local/sbin:").count() >= 3, "each of them ran: {told}");
    assert!(!told.contains("evil.so") && !told.contains("GIVEN"), "{told}");
    lab.expect_clean();
}

/// A bundle that leaves it to the toolkit's old hook, which gives what the environment names, whoever has it.
fn the_old_hook_gives_nothing_of_others(lab: &Lab) {
    let place = Place::new(lab, 2);
    let (bundle, ran) = (lab.path().join("bundle"), lab.path().join("ran"));
    std::fs::create_dir(&bundle).unwrap();
    let hook = lab.path().join("nvidia-container-runtime-hook");
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut spec = cofferdam_testkit::fixture::spec(&["true"]);
    spec["root"]["path"] = json!(lab.rootfs);
    spec["hooks"] = json!({ "prestart": [{ "path": hook, "args": ["hook", "prestart"] }] });
    spec["process"]["env"] = json!(["PATH=/bin", "NVIDIA_VISIBLE_DEVICES=all"]);
    std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let bundle = bundle.display().to_string();
    let run = |more: &[&str]| {
        let args = place.with(&["--network", "none", "--bundle", &bundle, "--name", "hooked"]);
        lab.cofferdam(&[&["run"][..], &args, more].concat())
    };
    let holder = lab.run_detached(&place.with(&["--gpus", "device=1"]), &["sleep", "1000"]);
    drop(run(&[]).expect_error("E0305"));
    drop(lab.cofferdam(&["rm", "-f", &holder]).expect_code(0));
    drop(run(&["--gpus", "device=0", "--rm"]).expect_code(0));
    drop(run(&[]).expect_code(0));
    assert_eq!(lab.inspect("hooked")["gpus"].as_array().map(Vec::len), Some(2));
    assert!(!ran.exists(), "it would have given them again");
    drop(lab.cofferdam(&["rm", "hooked"]).expect_code(0));
    lab.expect_clean();
}

fn this_host_is_described(lab: &Lab) {
    let host = GpuHost::new(&lab.path().join("gpus"), 2, DRIVER);
    let folder = lab.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let (root, file) = (host.root().display().to_string(), folder.join("nvidia.yaml").display().to_string());
    let place = ["--nvidia-driver-root", &root, "--cdi-spec-dir", folder.to_str().unwrap()];
    let made = lab.cofferdam(&[&["cdi", "generate", "--own", "--output", &file][..], &place].concat());
    assert!(made.expect_code(0).stderr.contains("by cofferdam"));
    let listed = lab.cofferdam(&[&["cdi", "list"][..], &place].concat()).expect_code(0).text();
    assert!(
        listed.contains(&format!("nvidia.com/gpu={}", GpuHost::uuid(1))) && listed.contains(&file),
        "{listed}"
    );
    drop(lab.cofferdam(&[&["cdi", "check"][..], &place].concat()).expect_code(0));
    let text = lab.run(&[&place[..], &["--gpus", "device=1", "--rm"]].concat(), NODES).expect_code(0).text();
    assert_eq!(text.lines().filter(|node| node.ends_with('1')).count(), 1, "{text}");
    assert!(!text.contains("nvidia0"), "{text}");
    // Where the toolkit is installed, it is asked; what it says is passed on.
    let programs = lab.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let toolkit = |script: &str| {
        let program = programs.join("nvidia-ctk");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = lab.command([&["cdi", "generate", "--format", "json"][..], &place].concat());
        command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        finish(command)
    };
    let done = toolkit("echo \"args: $*\"").expect_code(0).text();
    assert_eq!(done, format!("args: cdi generate --format=json --driver-root={root}/"));
    let done = toolkit("echo 'no GPU answers' >&2; exit 1").expect_code(125).expect_error("E0313");
    assert!(done.stderr.contains("no GPU answers") && done.stderr.contains("--own"), "{}", done.stderr);
    lab.expect_clean();
}

/// The real nvidia-ctk, and ours, on the same tree.
fn as_the_toolkit_describes_it(lab: &Lab) {
    let host = GpuHost::new(&lab.path().join("gpus"), 2, DRIVER);
    host.add_nvml(2);
    let (root, empty) =
        (host.root().display().to_string(), host.root().join("etc/cdi").display().to_string());
    let describe = |more: &[&str]| -> Value {
        let place = ["--format", "json", "--nvidia-driver-root", &root, "--cdi-spec-dir", &empty];
        let mut command = lab.command([&["cdi", "generate"][..], &place, more].concat());
        let programs = nvidia_toolkit("nvidia-ctk");
        command.env("PATH", format!("{}:/usr/bin:/bin", programs.parent().unwrap().display()));
        let done = finish(command).expect_code(0);
        serde_json::from_str(&done.text()).unwrap_or_else(|error| panic!("{error}: {}", done.text()))
    };
    let (theirs, own) = (describe(&[]), describe(&["--own"]));
    assert!(theirs.to_string().contains("update-ldcache"), "it is nvidia-ctk's: {theirs:#}");
    assert_eq!(nodes_by_device(&own), nodes_by_device(&theirs));
    let shared = |description: &Value| set_of(&description["containerEdits"]["deviceNodes"], "path");
    assert_eq!(shared(&own), shared(&theirs));
    assert_eq!(own["kind"], theirs["kind"]);
    // A directory of ours holds files of theirs.
    let mounts = |description: &Value| set_of(&description["containerEdits"]["mounts"], "containerPath");
    let ours = mounts(&own);
    let is_ours = |path: &String| {
        std::path::Path::new(path).ancestors().any(|above| ours.contains(above.to_str().unwrap()))
    };
    let missing: Vec<String> = mounts(&theirs).into_iter().filter(|path| !is_ours(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    lab.expect_clean();
}

fn set_of(list: &Value, key: &str) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
}

fn nodes_by_device(description: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let devices = description["devices"].as_array().unwrap().iter();
    let nodes = |device: &Value| {
        let nodes = set_of(&device["containerEdits"]["deviceNodes"], "path");
        (device["name"].as_str().unwrap().to_owned(), nodes)
    };
    devices.map(nodes).collect()
}
