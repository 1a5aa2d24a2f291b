//! How a container is connected, read from its specification and the request.

use serde_json::{Value, json};

use super::SpecEditor;
use crate::request::NetworkMode;

/// A container's network, and whether the user chose it in so many words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkChoice {
    /// The network.
    pub mode: NetworkMode,
    /// Whether `--network` said so, rather than the bundle.
    pub explicit: bool,
}

/// Puts the network that was asked for into the specification, or reads the specification's own.
pub(super) fn choose(editor: &mut SpecEditor, asked: Option<&NetworkMode>) -> NetworkChoice {
    let Some(mode) = asked else {
        return NetworkChoice { mode: mode_of(editor.value()), explicit: false };
    };
    let current = mode_of(editor.value());
    if current != *mode {
        editor.drop_entries("/linux/namespaces", |namespace| {
            (namespace["type"] == "network").then(|| "--network".to_owned())
        });
        match mode {
            NetworkMode::Host => {}
            NetworkMode::None => {
                editor.push("/linux/namespaces", json!({ "type": "network" }), "--network none")
            }
            // Its file is known when the plugins have made it.
            NetworkMode::Cni { network } => editor.push(
                "/linux/namespaces",
                json!({ "type": "network" }),
                &format!("--network {network}: made and joined at the start"),
            ),
            // It is looked up before, and is the path of a namespace then.
            NetworkMode::Container { .. } => {}
            NetworkMode::Namespace { path } => editor.push(
                "/linux/namespaces",
                json!({ "type": "network", "path": path.to_string_lossy() }),
                "--network ns:PATH",
            ),
        }
    }
    NetworkChoice { mode: mode.clone(), explicit: true }
}

/// The network that a specification asks for: no entry is the host's, an entry without a path is a new empty one.
fn mode_of(spec: &Value) -> NetworkMode {
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array).into_iter().flatten();
    let Some(entry) = namespaces.into_iter().find(|namespace| namespace["type"] == "network") else {
        return NetworkMode::Host;
    };
    match entry.get("path").and_then(Value::as_str) {
        Some("") | None => NetworkMode::None,
        Some(path) => NetworkMode::Namespace { path: path.into() },
    }
}
