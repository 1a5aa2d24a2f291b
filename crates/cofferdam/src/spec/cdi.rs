//! Putting the edits of CDI devices into a specification.

use std::collections::BTreeSet;

use serde_json::Value;

use super::SpecEditor;
use crate::gpu::DeviceEdits;

/// Lists whose entries stand for themselves, with what two of them may not share.
const LISTS: [(&str, Option<&str>); 3] =
    [("/linux/devices", Some("path")), ("/mounts", Some("destination")), ("/linux/resources/devices", None)];

/// Puts them in, in their order; a later entry takes the place of one with the same path, destination or name.
pub(super) fn apply(editor: &mut SpecEditor, devices: &[DeviceEdits]) {
    for DeviceEdits { device, origin, changes } in devices {
        let reason = format!("the device {device}, by {origin}");
        for entry in strings(changes, "/process/env") {
            set_env(editor, entry, &reason);
        }
        for (list, key) in LISTS {
            for entry in entries(changes, list) {
                put(editor, list, key, entry, &reason);
            }
        }
        for (stage, hooks) in changes.pointer("/hooks").and_then(Value::as_object).into_iter().flatten() {
            for hook in hooks.as_array().into_iter().flatten() {
                editor.push(&format!("/hooks/{stage}"), hook.clone(), &reason);
            }
        }
        add_groups(editor, changes, &reason);
        for object in ["/linux/netDevices", "/linux/intelRdt"] {
            if let Some(value) = changes.pointer(object).filter(|value| !value.is_null()) {
                editor.set(object, value.clone(), &reason);
            }
        }
    }
}

/// Says that nothing gives the driver's library, without which no program of CUDA's sees a GPU.
pub(super) fn warn_without_libraries(editor: &mut SpecEditor) {
    let is_libcuda = |mount: &Value| {
        let name = mount["destination"].as_str().and_then(|path| path.rsplit('/').next());
        name.is_some_and(|name| name.starts_with("libcuda.so"))
    };
    if !editor.entries("/mounts").any(is_libcuda) {
        editor.warn(
            "the GPUs come without libcuda.so: programs find none of them. Was the driver installed without its \
             libraries, or in another place (--nvidia-driver-root)? `cofferdam cdi generate --own` shows what is found",
        );
    }
}

fn entries<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(list).and_then(Value::as_array).into_iter().flatten()
}

fn strings<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    entries(value, list).filter_map(Value::as_str)
}

fn put(editor: &mut SpecEditor, list: &str, key: Option<&str>, entry: &Value, reason: &str) {
    let same = |old: &Value| key.map_or(old == entry, |key| old[key] == entry[key]);
    let position = editor.entries(list).position(same);
    match position {
        Some(position) => editor.set(&format!("{list}/{position}"), entry.clone(), reason),
        None => editor.push(list, entry.clone(), reason),
    }
}

/// A variable takes the place of one of the same name. A list of directories for the loader is put before the one that
/// is there.
pub(super) fn set_env(editor: &mut SpecEditor, entry: &str, reason: &str) {
    const LIST: &str = "LD_LIBRARY_PATH";
    let name = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned());
    let list = "/process/env";
    let old = editor.entries(list).filter_map(Value::as_str).enumerate();
    let old = old.filter(|(_, old)| name(old) == name(entry)).map(|(at, old)| (at, old.to_owned())).last();
    match (old, entry.split_once('=')) {
        (Some((position, old)), Some((LIST, directories))) => {
            let old = old.split_once('=').map_or("", |(_, old)| old);
            let mut seen = BTreeSet::new();
            let all = directories.split(':').chain(old.split(':'));
            let all: Vec<&str> = all.filter(|one| !one.is_empty() && seen.insert(*one)).collect();
            editor.set(&format!("{list}/{position}"), format!("{LIST}={}", all.join(":")), reason);
        }
        (Some((position, _)), _) => editor.set(&format!("{list}/{position}"), entry, reason),
        (None, _) => editor.push(list, entry, reason),
    }
}

fn add_groups(editor: &mut SpecEditor, changes: &Value, reason: &str) {
    let list = "/process/user/additionalGids";
    let known: Vec<Value> = editor.entries(list).cloned().collect();
    for group in entries(changes, list).filter(|group| !known.contains(group)) {
        editor.push(list, group.clone(), reason);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gpus_without_libraries_are_told() {
        let warnings = |destination: &str| {
            let mut editor = SpecEditor::new(json!({ "mounts": [{ "destination": destination }] }));
            warn_without_libraries(&mut editor);
            editor.finish().2.len()
        };
        assert_eq!((warnings("/usr/lib64/libcuda.so.550.90.07"), warnings("/usr/lib64/libc.so.6")), (0, 1));
    }

    #[test]
    fn edits_come_in_and_replace_what_is_the_same() {
        let edits =
            |changes| DeviceEdits { device: "a/b=c".into(), origin: "/etc/cdi/a.yaml".into(), changes };
        let mut editor = SpecEditor::new(json!({
            "process": { "env": ["A=1", "LD_LIBRARY_PATH=/x:/l"], "user": { "additionalGids": [5] } },
            "mounts": [{ "destination": "/m", "source": "/old" }],
            "linux": { "devices": [{ "path": "/dev/nvidia0", "major": 1 }] },
            "hooks": { "prestart": [{ "path": "/own" }] },
        }));
        apply(
            &mut editor,
            &[
                edits(json!({
                    "process": { "env": ["A=2", "B=3", "LD_LIBRARY_PATH=/l"], "user": { "additionalGids": [5, 6] } },
                    "mounts": [{ "destination": "/m", "source": "/new" }, { "destination": "/n" }],
                    "linux": {
                        "devices": [{ "path": "/dev/nvidia0", "major": 195 }],
                        "resources": { "devices": [{ "allow": true, "major": 195 }] },
                    },
                    "hooks": { "prestart": [{ "path": "/hook" }], "createContainer": [{ "path": "/hook" }] },
                })),
                edits(json!({ "linux": { "resources": { "devices": [{ "allow": true, "major": 195 }] } } })),
            ],
        );
        let (value, edits, _) = editor.finish();
        assert_eq!(
            value,
            json!({
                "process": {
                    "env": ["A=2", "LD_LIBRARY_PATH=/l:/x", "B=3"], "user": { "additionalGids": [5, 6] },
                },
                "mounts": [{ "destination": "/m", "source": "/new" }, { "destination": "/n" }],
                "linux": {
                    "devices": [{ "path": "/dev/nvidia0", "major": 195 }],
                    "resources": { "devices": [{ "allow": true, "major": 195 }] },
                },
                "hooks": { "prestart": [{ "path": "/own" }, { "path": "/hook" }], "createContainer": [{ "path": "/hook" }] },
            })
        );
        assert!(edits.iter().all(|edit| edit.reason == "the device a/b=c, by /etc/cdi/a.yaml"), "{edits:?}");
    }
}
