//! A case for each line of the table of quirks, and what all of it makes of each sign of a GPU.

use std::fmt::Write;

use super::*;
use crate::gpu::detect_tests::table;
use crate::spec::devices::keep_only_nvidia;
use crate::spec::{Edit, EditAction};

/// What the table makes of a specification, with these SONAMEs.
fn adapted(spec: Value, sonames: &[(&str, &str)]) -> (Value, Vec<Edit>, Vec<String>) {
    let mut editor = SpecEditor::new(spec);
    let sonames = sonames.iter().map(|&(path, name)| (path.to_owned(), name.to_owned())).collect();
    adapt(&mut editor, &Granted { sonames, ..Granted::default() });
    editor.finish()
}

fn hook(args: &[&str]) -> Value {
    json!({ "path": "/usr/bin/nvidia-cdi-hook", "args": args })
}

fn mount(destination: &str) -> Value {
    json!({ "destination": destination, "source": format!("/host{destination}"), "options": ["ro", "bind"] })
}

fn with_void(rest: Value) -> Value {
    let mut spec = rest;
    spec["process"]["env"] = json!(["NVIDIA_VISIBLE_DEVICES=void"]);
    spec
}

fn destinations(spec: &Value) -> Vec<&str> {
    spec["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect()
}

#[test]
fn libraries_are_mounted_by_their_soname() {
    let mounts = json!([mount("/usr/lib64/libcuda.so.550.90.07"), mount("/usr/lib64/libother.so.1")]);
    let sonames = [
        ("/host/usr/lib64/libcuda.so.550.90.07", "libcuda.so.1"),
        ("/host/usr/lib64/libother.so.1", "libother.so.1"),
    ];
    let (spec, edits, _) = adapted(with_void(json!({ "mounts": mounts })), &sonames);
    let expected = ["/usr/lib64/libcuda.so.550.90.07", "/usr/lib64/libother.so.1", "/usr/lib64/libcuda.so.1"];
    assert_eq!(destinations(&spec), expected);
    assert_eq!(spec["mounts"][2]["source"], "/host/usr/lib64/libcuda.so.550.90.07");
    assert_eq!(edits.len(), 1);
}

#[test]
fn links_become_mounts() {
    let links = hook(&[
        "nvidia-cdi-hook",
        "create-symlinks",
        "--link",
        "libcuda.so.1::/usr/lib64/libcuda.so",
        "--link=/usr/lib64/libcuda.so.550.90.07::/opt/libcuda.so",
        "--link",
        "libgone.so.1::/usr/lib64/libgone.so",
    ]);
    let mounts = json!([mount("/usr/lib64/libcuda.so.550.90.07")]);
    let given = with_void(json!({ "mounts": mounts, "hooks": { "createContainer": [links] } }));
    let sonames = [("/host/usr/lib64/libcuda.so.550.90.07", "libcuda.so.1")];
    let (spec, _, warnings) = adapted(given, &sonames);
    // The link to the SONAME finds what was mounted for that a moment ago.
    let expected = [
        "/usr/lib64/libcuda.so.550.90.07",
        "/usr/lib64/libcuda.so.1",
        "/usr/lib64/libcuda.so",
        "/opt/libcuda.so",
    ];
    assert_eq!(destinations(&spec), expected);
    assert!(warnings[0].contains("/usr/lib64/libgone.so"), "{warnings:?}");
    assert_eq!(normalized("/usr/lib64/gbm/../libcuda.so"), "/usr/lib64/libcuda.so");
    assert_eq!((normalized("/a/./b/"), normalized("/../x")), ("/a/b".to_owned(), "/x".to_owned()));
}

#[test]
fn the_loader_is_told_by_the_environment() {
    let ldcache =
        hook(&["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib64", "--folder", "/lib64"]);
    let given = json!({
        "process": { "env": ["NVIDIA_VISIBLE_DEVICES=void", "LD_LIBRARY_PATH=/own"] },
        "hooks": { "createContainer": [ldcache] },
    });
    let (spec, _, _) = adapted(given, &[]);
    assert_eq!(spec["process"]["env"][1], "LD_LIBRARY_PATH=/usr/lib64:/lib64:/own");
}

#[test]
fn the_toolkits_hooks_go_and_others_stay() {
    let given = with_void(json!({ "hooks": {
        "prestart": [{ "path": "/usr/bin/nvidia-container-runtime-hook" }, { "path": "/usr/bin/mine" }],
        "createContainer": [hook(&["nvidia-cdi-hook", "chmod"]), hook(&["nvidia-cdi-hook", "enable-cuda-compat"])],
    } }));
    let (spec, edits, _) = adapted(given, &[]);
    assert_eq!(spec["hooks"], json!({ "prestart": [{ "path": "/usr/bin/mine" }], "createContainer": [] }));
    assert_eq!(edits.len(), 3);
    assert!(edits[0].reason.starts_with("nvidia-container-runtime-hook: "), "{edits:?}");
    assert!(edits[1].reason.starts_with("nvidia-cdi-hook chmod: gVisor's own /dev"), "{edits:?}");
}

#[test]
fn nothing_widens_the_set() {
    for env in [
        json!([]),
        json!(["NVIDIA_VISIBLE_DEVICES=all"]),
        json!(["NVIDIA_VISIBLE_DEVICES=all", "A=1", "NVIDIA_VISIBLE_DEVICES=void"]),
    ] {
        let (spec, _, _) = adapted(json!({ "process": { "env": env } }), &[]);
        let entries = spec["process"]["env"].as_array().unwrap();
        let ours: Vec<_> =
            entries.iter().filter(|entry| entry.as_str().unwrap().contains("NVIDIA")).collect();
        assert_eq!(ours, ["NVIDIA_VISIBLE_DEVICES=void"], "{env}");
    }
    let (_, edits, _) = adapted(with_void(json!({})), &[]);
    assert_eq!(edits, [], "it is right already");
}

#[test]
fn what_cannot_be_mounted_goes() {
    for (destination, goes) in [
        ("/run/nvidia-persistenced/socket", true),
        ("/var/run/nvidia-fabricmanager/socket", true),
        ("/tmp/nvidia-mps", true),
        ("/dev/nvidia0", true),
        ("/dev/dri/card0", true),
        ("/proc/driver/nvidia/params", true),
        ("/run/socket", false),
        ("/dev/shm", false),
        ("/proc/driver", false),
    ] {
        let (spec, edits, _) = adapted(with_void(json!({ "mounts": [mount(destination)] })), &[]);
        assert_eq!(destinations(&spec).is_empty(), goes, "{destination}");
        assert_eq!(
            edits.iter().filter(|edit| edit.reason.starts_with(destination)).count(),
            usize::from(goes)
        );
    }
}

#[test]
fn rules_for_devices_go() {
    let given =
        with_void(json!({ "linux": { "resources": { "devices": [{ "allow": false }], "pids": {} } } }));
    let (spec, edits, _) = adapted(given, &[]);
    assert_eq!(spec["linux"]["resources"], json!({ "pids": {} }));
    assert_eq!(edits.len(), 1);
}

#[test]
fn the_book_has_every_line() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/guide/gpu.md");
    let page = std::fs::read_to_string(page).unwrap();
    for quirk in QUIRKS {
        let line = format!("| {} | {} |", quirk.what, quirk.reason);
        assert!(page.contains(&line), "docs/src/guide/gpu.md lacks the line\n{line}");
    }
}

/// runc gets each of these as it is: it serves every device and runs every hook.
#[test]
fn each_sign_has_its_edits_under_gvisor() {
    let mut text = String::new();
    let mut count = 0;
    for (spec, found) in table().into_iter().filter(|(spec, _)| spec.is_object()) {
        count += 1;
        let mut editor = SpecEditor::new(spec.clone());
        if keep_only_nvidia(&mut editor) || has_hook(&editor) {
            adapt(&mut editor, &Granted::default());
        }
        let (_, edits, _) = editor.finish();
        writeln!(text, "{spec}").unwrap();
        found.iter().for_each(|line| writeln!(text, "  found: {line}").unwrap());
        for Edit { path, action, reason } in edits {
            let action = match action {
                EditAction::Added => "add",
                EditAction::Changed => "change",
                EditAction::Removed => "remove",
            };
            writeln!(text, "  {action} {path}: {reason}").unwrap();
        }
    }
    assert!(count >= 40);
    insta::assert_snapshot!("signs", text);
}

#[test]
fn a_hook_of_the_old_kind_names_gpus_by_the_environment() {
    let spec = |env: &str, rest: Value| {
        let mut spec = json!({ "process": { "env": [format!("NVIDIA_VISIBLE_DEVICES={env}")] } });
        spec["hooks"] = rest;
        spec
    };
    let prestart = json!({ "prestart": [{ "path": "/usr/bin/nvidia-container-runtime-hook" }] });
    assert_eq!(
        wanted_by_hook(&spec("0,GPU-1", prestart.clone())),
        ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1"]
    );
    assert_eq!(wanted_by_hook(&spec("all", prestart.clone())), ["nvidia.com/gpu=all"]);
    assert!(wanted_by_hook(&spec("none", prestart.clone())).is_empty());
    assert!(wanted_by_hook(&spec("void", prestart)).is_empty());
    assert!(wanted_by_hook(&spec("all", json!({}))).is_empty(), "an image's variable alone gives nothing");
}
