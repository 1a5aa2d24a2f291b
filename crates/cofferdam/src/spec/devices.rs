//! Device nodes of a specification, as gVisor can use them.
//!
//! gVisor makes its own /dev. Of `linux.devices` it serves NVIDIA's nodes through nvproxy and makes dead nodes of all
//! others, which fail to open.

use serde_json::{Value, json};

use super::SpecEditor;
use crate::gpu::Node;

/// Permissions of a device node that has none: without `fileMode` a sentry before 20260223 crashes (a nil pointer).
const DEVICE_FILE_MODE: u32 = 0o666;

/// Takes every device node out but those that nvproxy serves, and completes these. Says whether any is left.
pub(crate) fn keep_only_nvidia(editor: &mut SpecEditor) -> bool {
    let list = "/linux/devices";
    editor.drop_entries(list, |device| {
        let path = device.get("path").and_then(Value::as_str).unwrap_or_default();
        (!Node::at(path).is_some_and(Node::is_of_nvproxy))
            .then(|| format!("gVisor makes its own /dev, in which {path} would be a dead node"))
    });
    let devices: Vec<Value> = editor.entries(list).cloned().collect();
    for (index, device) in devices.iter().enumerate() {
        for (key, value) in [("fileMode", json!(DEVICE_FILE_MODE)), ("uid", json!(0)), ("gid", json!(0))] {
            if device.get(key).is_none_or(Value::is_null) {
                editor.set(
                    &format!("{list}/{index}/{key}"),
                    value,
                    "gVisor before 20260223 crashes without it",
                );
            }
        }
    }
    !devices.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_devices_go_and_missing_modes_come() {
        let mut editor = SpecEditor::new(json!({ "linux": { "devices": [
            { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 },
            { "path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0 },
            { "path": "/dev/nvidiactl", "type": "c", "major": 195, "minor": 255, "fileMode": 438, "uid": 1, "gid": 2 },
        ] } }));
        assert!(keep_only_nvidia(&mut editor));
        let (value, edits, _) = editor.finish();
        let devices = value["linux"]["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 2);
        assert_eq!((devices[0]["fileMode"].as_u64(), devices[0]["uid"].as_u64()), (Some(0o666), Some(0)));
        assert_eq!((devices[1]["fileMode"].as_u64(), devices[1]["uid"].as_u64()), (Some(438), Some(1)));
        assert_eq!(edits.len(), 4);
        let mut editor = SpecEditor::new(json!({ "linux": { "devices": [{ "path": "/dev/fuse" }] } }));
        assert!(!keep_only_nvidia(&mut editor));
    }
}
