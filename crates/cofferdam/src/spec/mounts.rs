//! Putting a user's mounts into a specification.
//!
//! Invariant: what a user mounts is what the container sees there. A mount that the specification has at the same place
//! goes, and one that it has below that place stays visible: the user's comes before it.

use std::path::Path;

use serde_json::{Value, json};

use super::SpecEditor;
use crate::request::{ContainerPlan, MountKind, MountRequest, Propagation};

/// Where programs put what they need for a while.
const TMP: &str = "/tmp";
/// Where shared memory is.
const SHARED_MEMORY: &str = "/dev/shm";

/// Puts the plan's mounts in; `volumes` is the directory that holds the volumes.
pub(super) fn apply(editor: &mut SpecEditor, plan: &ContainerPlan, volumes: &Path) {
    for mount in &plan.mounts {
        for word in &mount.ignored {
            editor.warn(format!("{} {}: {}", mount.option, mount.destination, why_ignored(word)));
        }
        make_room(editor, mount, super::is_bundle(plan));
        put(editor, mount, volumes);
    }
    widen_propagation(editor, plan);
    if let Some(bytes) = plan.shm_bytes {
        size_shared_memory(editor, bytes);
    }
}

fn why_ignored(word: &str) -> String {
    match word {
        "z" | "Z" => format!("{word} is ignored: files are not labelled for SELinux"),
        word => format!("{word} is ignored: there is no cache between host and container"),
    }
}

/// Takes away what is mounted at the same place. Over a /dev of the user's own, the default does not mount its parts.
fn make_room(editor: &mut SpecEditor, mount: &MountRequest, is_bundle: bool) {
    let place = Path::new(&mount.destination);
    editor.drop_entries("/mounts", |old| {
        let old = Path::new(old["destination"].as_str()?);
        let is_part = !is_bundle && place == Path::new("/dev") && old.starts_with(place);
        (old == place || is_part).then(|| format!("{} mounts something else there", mount.option))
    });
}

fn put(editor: &mut SpecEditor, mount: &MountRequest, volumes: &Path) {
    let (kind, source) = match mount.source(volumes) {
        Some(source) => ("bind", source.to_string_lossy().into_owned()),
        None => ("tmpfs", "tmpfs".to_owned()),
    };
    let value = json!({
        "destination": mount.destination,
        "type": kind,
        "source": source,
        "options": mount.options(),
    });
    let place = Path::new(&mount.destination);
    let is_below = |old: &Value| {
        let old = old["destination"].as_str().map(Path::new);
        old.is_some_and(|old| old != place && old.starts_with(place))
    };
    let reason = mount.option.to_string();
    let first_below = editor.entries("/mounts").position(is_below);
    match first_below {
        Some(position) => editor.insert("/mounts", position, value, &reason),
        None => editor.push("/mounts", value, &reason),
    }
}

/// Mounts the root filesystem's own /tmp where it is: gVisor mounts a tmpfs over an empty one, unless something is mounted there.
pub(super) fn keep_tmp(editor: &mut SpecEditor, path: &Path, read_only: bool) {
    let is_mounted =
        |mount: &Value| mount["destination"].as_str().is_some_and(|place| Path::new(place) == Path::new(TMP));
    if editor.entries("/mounts").any(is_mounted) {
        return;
    }
    let options = ["rbind", Propagation::default().word(), if read_only { "ro" } else { "rw" }];
    let mount = json!({ "destination": TMP, "type": "bind", "source": path, "options": options });
    editor.push(
        "/mounts",
        mount,
        "gVisor would have a tmpfs there: what is written to it would not be the container's",
    );
}

/// Mounts go no further than the root filesystem lets them.
fn widen_propagation(editor: &mut SpecEditor, plan: &ContainerPlan) {
    const PATH: &str = "/linux/rootfsPropagation";
    let asked = |is_it: fn(Propagation) -> bool| {
        plan.mounts
            .iter()
            .any(|mount| matches!(mount.kind, MountKind::Bind { propagation, .. } if is_it(propagation)))
    };
    let now = editor.text(PATH).unwrap_or_default().to_owned();
    let is_shared = ["shared", "rshared"].contains(&now.as_str());
    if asked(Propagation::is_shared) && !is_shared {
        editor.set(PATH, "shared", "a mount is shared with the host");
    } else if asked(Propagation::is_slave) && !is_shared && !["slave", "rslave"].contains(&now.as_str()) {
        editor.set(PATH, "rslave", "mounts of the host come into a mount");
    }
}

/// Gives /dev/shm a size, by which processes share memory (the loaders of PyTorch, NCCL).
fn size_shared_memory(editor: &mut SpecEditor, bytes: u64) {
    let size = format!("size={bytes}");
    let is_there = |mount: &Value| mount["destination"] == SHARED_MEMORY && mount["type"] == "tmpfs";
    let found = editor.entries("/mounts").position(is_there);
    let Some(position) = found else {
        let options = ["nosuid", "noexec", "nodev", "mode=1777", &size];
        let mount =
            json!({ "destination": SHARED_MEMORY, "type": "tmpfs", "source": "shm", "options": options });
        editor.push("/mounts", mount, "--shm-size");
        return;
    };
    let list = format!("/mounts/{position}/options");
    let others =
        editor.entries(&list).filter_map(Value::as_str).filter(|option| !option.starts_with("size="));
    let options: Vec<String> = others.map(str::to_owned).chain([size]).collect();
    editor.set(&list, options, "--shm-size");
}
