//! A specification with GPUs as gVisor can run it.
//!
//! gVisor serves GPUs by its own /dev and its own /proc. What runc needs beside the nodes (hooks, sockets, rules) it
//! cannot use, in part it would do harm with it. [`QUIRKS`] is the table of that, each line with its reason; it works on
//! the specification in memory, wherever its parts come from: a bundle, containerd, or a description of CDI.

use serde_json::{Value, json};

use super::{SpecEditor, cdi};
use crate::gpu::{Granted, Node, Sign, Visible, detect, toolkit_program};

/// One thing that gVisor takes otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Quirk {
    /// What it is about.
    pub what: &'static str,
    /// Why it is so.
    pub reason: &'static str,
    apply: fn(&mut SpecEditor, &Granted, &str),
}

/// What is done to a specification with GPUs, in this order.
pub const QUIRKS: [Quirk; 9] = [
    Quirk {
        what: "libraries that ldconfig would link",
        reason: "gVisor before 20260520 runs no createContainer hook, and update-ldcache needs a writable root: the \
                 library is mounted by its SONAME instead",
        apply: mount_by_soname,
    },
    Quirk {
        what: "links that a hook would make",
        reason: "the hook create-symlinks does not run under gVisor before 20260520: what it links to is mounted \
                 there instead",
        apply: mount_links,
    },
    Quirk {
        what: "directories that a hook would tell the loader",
        reason: "the hook update-ldcache does not run under gVisor before 20260520: the loader is told by \
                 LD_LIBRARY_PATH instead",
        apply: name_directories,
    },
    Quirk {
        what: "hooks of the NVIDIA container toolkit",
        reason: "gVisor skips them before 20260520, and would run the old kind's program itself and show GPUs that \
                 are not in linux.devices",
        apply: drop_hooks,
    },
    Quirk {
        what: "NVIDIA_VISIBLE_DEVICES",
        reason: "with another value than `void`, or two of them, gVisor may show GPUs that are not in linux.devices \
                 (google/gvisor#13621)",
        apply: void_the_variable,
    },
    Quirk {
        what: "sockets of the driver's daemons",
        reason: "gVisor cannot connect to a socket of the host, and fails to mount one over another (NVIDIA/nvidia-\
                 container-toolkit#2034)",
        apply: drop_sockets,
    },
    Quirk {
        what: "device nodes that are mounted",
        reason: "gVisor serves device nodes by linux.devices only; a mounted one does not open",
        apply: drop_node_mounts,
    },
    Quirk {
        what: "mounts below /proc/driver",
        reason: "gVisor's own /proc has no such place",
        apply: drop_proc_mounts,
    },
    Quirk {
        what: "rules for devices of the cgroup",
        reason: "gVisor takes no notice of them; which GPUs are seen is decided by linux.devices alone",
        apply: drop_rules,
    },
];

/// Whether there is a hook of the toolkit's, by which gVisor would look for GPUs even where no node is given.
pub(crate) fn has_hook(editor: &SpecEditor) -> bool {
    detect(editor.value()).iter().any(|finding| matches!(finding.sign, Sign::Hook(_)))
}

/// Applies the table.
pub(crate) fn adapt(editor: &mut SpecEditor, granted: &Granted) {
    for quirk in QUIRKS {
        (quirk.apply)(editor, granted, quirk.reason);
    }
}

/// The arguments of the toolkit's hooks that do a thing, such as `update-ldcache`.
fn hook_arguments(editor: &SpecEditor, job: &str, option: &str) -> Vec<String> {
    let hooks = detect(editor.value()).into_iter().filter(|finding| matches!(finding.sign, Sign::Hook(_)));
    let mut values = Vec::new();
    for hook in hooks {
        let list = format!("{}/args", hook.place);
        let args: Vec<&str> = editor.entries(&list).filter_map(Value::as_str).collect();
        if !args.contains(&job) {
            continue;
        }
        let followed = args.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]);
        let joined = args.iter().filter_map(|arg| arg.strip_prefix(option)?.strip_prefix('='));
        values.extend(followed.chain(joined).map(str::to_owned));
    }
    values
}

fn split_path(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn mount_by_soname(editor: &mut SpecEditor, granted: &Granted, reason: &str) {
    let mounts: Vec<Value> = editor.entries("/mounts").cloned().collect();
    for mount in mounts {
        let (Some(source), Some(destination)) = (mount["source"].as_str(), mount["destination"].as_str())
        else {
            continue;
        };
        if let Some(soname) = granted.sonames.get(source) {
            let (directory, _) = split_path(destination);
            mount_at(editor, &mount, &format!("{directory}/{soname}"), reason);
        }
    }
}

/// Mounts what a mount has at another place too, unless there is something.
fn mount_at(editor: &mut SpecEditor, like: &Value, destination: &str, reason: &str) {
    if find_mount(editor, destination).is_none() {
        let mut mount = like.clone();
        mount["destination"] = json!(destination);
        editor.push("/mounts", mount, reason);
    }
}

fn find_mount(editor: &SpecEditor, destination: &str) -> Option<Value> {
    editor.entries("/mounts").find(|mount| mount["destination"] == destination).cloned()
}

/// `--link TARGET::LINK`: a target without a slash at its beginning is meant from the link's directory.
fn mount_links(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    for value in hook_arguments(editor, "create-symlinks", "--link") {
        let Some((target, link)) = value.split_once("::") else { continue };
        let (directory, _) = split_path(link);
        let target = normalized(&if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("{directory}/{target}")
        });
        match find_mount(editor, &target) {
            Some(mount) => mount_at(editor, &mount, link, reason),
            None => editor
                .warn(format!("{link} would be a link to {target}, which is not mounted: it is left out")),
        }
    }
}

/// A path without `.` and `..`, which a mount's destination has not.
fn normalized(path: &str) -> String {
    path_clean::clean(path).to_string_lossy().into_owned()
}

fn name_directories(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    let directories = hook_arguments(editor, "update-ldcache", "--folder");
    if !directories.is_empty() {
        cdi::set_env(editor, &format!("LD_LIBRARY_PATH={}", directories.join(":")), reason);
    }
}

/// What the toolkit's hooks do, and what is there instead.
const JOBS: [(&str, &str); 5] = [
    ("update-ldcache", "the loader is told by LD_LIBRARY_PATH"),
    ("create-symlinks", "what it would link is mounted"),
    ("chmod", "gVisor's own /dev has no directories to change"),
    ("disable-device-node-modification", "gVisor's /proc has no file of the driver's to change"),
    ("enable-cuda-compat", "libraries for a newer CUDA in the image are not looked for"),
];

fn drop_hooks(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    let stages = editor.get("/hooks").and_then(Value::as_object).into_iter().flatten();
    let stages: Vec<String> = stages.map(|(stage, _)| stage.clone()).collect();
    for stage in stages {
        editor.drop_entries(&format!("/hooks/{stage}"), |hook| {
            let program = toolkit_program(hook)?;
            let args = hook["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let known = JOBS.iter().find(|(job, _)| args.clone().any(|arg| arg == *job));
            Some(match known {
                Some((job, instead)) => format!("{program} {job}: {instead}; {reason}"),
                None => format!("{program}: {reason}"),
            })
        });
    }
}

fn void_the_variable(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    const VOID: &str = "NVIDIA_VISIBLE_DEVICES=void";
    let list = "/process/env";
    let is_ours =
        |entry: &Value| entry.as_str().is_some_and(|entry| entry.starts_with("NVIDIA_VISIBLE_DEVICES="));
    let all: Vec<Value> = editor.entries(list).filter(|entry| is_ours(entry)).cloned().collect();
    if all != [json!(VOID)] {
        editor.drop_entries(list, |entry| is_ours(entry).then(|| reason.to_owned()));
        editor.push(list, VOID, reason);
    }
}

fn drop_sockets(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    const SOCKETS: [&str; 3] = ["nvidia-persistenced/socket", "nvidia-fabricmanager/socket", "nvidia-mps"];
    drop_mounts(editor, reason, |mount| {
        ["source", "destination"].iter().any(|end| {
            let path = mount[*end].as_str().unwrap_or_default();
            SOCKETS.iter().any(|socket| path.ends_with(socket))
        })
    });
}

fn drop_node_mounts(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    drop_mounts(editor, reason, |mount| {
        let destination = mount["destination"].as_str().unwrap_or_default();
        destination.starts_with("/dev/nvidia") || destination.starts_with("/dev/dri")
    });
}

fn drop_proc_mounts(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    drop_mounts(editor, reason, |mount| {
        mount["destination"].as_str().is_some_and(|path| path.starts_with("/proc/driver/"))
    });
}

fn drop_mounts(editor: &mut SpecEditor, reason: &str, is_it: impl Fn(&Value) -> bool) {
    editor.drop_entries("/mounts", |mount| {
        is_it(mount).then(|| format!("{}: {reason}", mount["destination"].as_str().unwrap_or_default()))
    });
}

fn drop_rules(editor: &mut SpecEditor, _: &Granted, reason: &str) {
    editor.remove("/linux/resources/devices", reason);
}

/// The devices that a hook of the toolkit's would give by the environment, where nobody gives device nodes.
#[must_use]
pub(crate) fn wanted_by_hook(spec: &Value) -> Vec<String> {
    let findings = detect(spec);
    let has_node = findings.iter().any(|finding| matches!(finding.sign, Sign::Node(Node::Gpu(_))));
    let has_hook = findings.iter().any(|finding| matches!(finding.sign, Sign::Hook(_)));
    let visible = findings.into_iter().find_map(|finding| match finding.sign {
        Sign::Visible(visible) if has_hook && !has_node => Some(visible),
        _ => None,
    });
    let names = match visible {
        Some(Visible::All) => vec!["all".to_owned()],
        Some(Visible::Some(names)) => names,
        Some(Visible::DriverOnly) | None => vec![],
    };
    names.into_iter().map(|name| format!("nvidia.com/gpu={name}")).collect()
}

#[cfg(test)]
#[path = "nvproxy_tests.rs"]
mod tests;
