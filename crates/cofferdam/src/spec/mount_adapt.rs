//! What runtimes take otherwise of mounts.
//!
//! Measured with runc 1.1.5 and runsc 20221219, 20240729 and of today; the guide's chapter on storage has the table.

use serde_json::{Value, json};

use super::SpecEditor;
use crate::request::{ContainerPlan, MountKind};

/// Options that hold for what is mounted below a mount, too, and the same for the mount alone. In gVisor, where a mount
/// and all that is mounted below it on the host is one, these do the same.
const RECURSIVE: [(&str, &str); 4] =
    [("rro", "ro"), ("rnoexec", "noexec"), ("rnosuid", "nosuid"), ("rnodev", "nodev")];
/// Propagation into both directions, and that into the container alone.
const SHARED: [(&str, &str); 2] = [("rshared", "rslave"), ("shared", "slave")];

/// Has a user's read-only mounts be so with all that is mounted below them, by runtimes and kernels that can.
pub(crate) fn read_only_throughout(editor: &mut SpecEditor, plan: &ContainerPlan) {
    for mount in plan.mounts.iter().filter(|mount| mount.read_only) {
        if !matches!(mount.kind, MountKind::Bind { recursive: true, .. }) {
            continue;
        }
        let is_it = |entry: &Value| entry["destination"] == mount.destination.as_str();
        let found = editor.entries("/mounts").position(is_it);
        let Some(position) = found else { continue };
        let reason = "what is mounted below it would stay writable";
        replace(editor, position, &[("ro", "rro")], reason);
    }
}

/// Turns what gVisor refuses, or passes over without a word, into what it can do.
pub(crate) fn adapt_for_gvisor(editor: &mut SpecEditor) {
    let count = editor.entries("/mounts").count();
    for position in 0..count {
        replace(editor, position, &RECURSIVE, "gVisor would pass over it, and does the same for this");
        if replace(editor, position, &SHARED, "gVisor refuses it") {
            warn(editor, position, "mounts that are made in the sandbox do not reach the host");
        }
        let is_tmpfs = editor.text(&format!("/mounts/{position}/type")) == Some("tmpfs");
        let path = format!("/mounts/{position}/options");
        let limits_files =
            |option: &Value| option.as_str().is_some_and(|text| text.starts_with("nr_inodes="));
        if is_tmpfs && editor.entries(&path).any(limits_files) {
            editor.drop_entries(&path, |option| {
                limits_files(option).then(|| "gVisor does not count files".to_owned())
            });
            warn(editor, position, "nr_inodes is without effect in gVisor");
        }
    }
    let path = "/linux/rootfsPropagation";
    if editor.text(path).is_some_and(|word| matches!(word, "shared" | "rshared")) {
        editor.set(path, "rslave", "gVisor refuses a shared one");
    }
}

/// Whether something of the host is mounted read-only.
pub(crate) fn has_read_only_bind(editor: &SpecEditor) -> bool {
    let is_read_only = |mount: &Value| {
        let mut options = mount["options"].as_array().into_iter().flatten();
        super::view::is_bind(mount) && options.any(|option| option == "ro")
    };
    editor.entries("/mounts").any(is_read_only)
}

fn warn(editor: &mut SpecEditor, position: usize, what: &str) {
    let place = editor.text(&format!("/mounts/{position}/destination")).unwrap_or_default().to_owned();
    editor.warn(format!("the mount at {place}: {what}"));
}

/// Puts options of a mount in place of others; says whether there were any.
fn replace(editor: &mut SpecEditor, position: usize, pairs: &[(&str, &str)], reason: &str) -> bool {
    let path = format!("/mounts/{position}/options");
    let options: Vec<Value> = editor.entries(&path).cloned().collect();
    let mut found = false;
    for (index, option) in options.iter().enumerate() {
        let pair = pairs.iter().find(|(old, _)| option == old);
        if let Some((_, new)) = pair {
            editor.set(&format!("{path}/{index}"), json!(new), reason);
            found = true;
        }
    }
    found
}
