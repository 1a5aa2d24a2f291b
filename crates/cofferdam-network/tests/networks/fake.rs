//! A plugin that writes down how it was called, and answers as it is told: to compare with the specification's text, and
//! to have faults.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_network::cni::{Client, NetworkConfig};
use serde_json::Value;

use crate::programs::TokioPrograms;

/// Writes its environment and its input to a numbered file, then does what `NAME.COMMAND` says.
const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0")
number=$(ls "$here/calls" | wc -l)
call="$here/calls/$(printf %03d "$number")"
{ echo "$(basename "$0")"; tr '\0' '\n' < /proc/$$/environ; echo; cat; } > "$call"
answer="$here/$(basename "$0").$CNI_COMMAND"
if [ -e "$answer" ]; then . "$answer"; fi
"#;

/// A directory of such plugins.
#[derive(Debug)]
pub(crate) struct Plugins {
    directory: tempfile::TempDir,
}

/// One call of a plugin.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) plugin: String,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) stdin: Value,
}

impl Plugins {
    pub(crate) fn new(names: &[&str]) -> Self {
        let plugins = Self { directory: tempfile::tempdir_in("/run").unwrap() };
        std::fs::create_dir(plugins.path().join("calls")).unwrap();
        for name in names {
            let path = plugins.path().join(name);
            std::fs::write(&path, SCRIPT).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            plugins.answers(
                name,
                "VERSION",
                r#"echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'"#,
            );
        }
        plugins
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Says in shell what a plugin does at a command.
    pub(crate) fn answers(&self, plugin: &str, command: &str, script: &str) {
        std::fs::write(self.path().join(format!("{plugin}.{command}")), script).unwrap();
    }

    /// All calls since the last look.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(self.path().join("calls"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        let calls = paths.iter().map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let (head, stdin) = text.split_once("\n\n").unwrap();
            let (plugin, environment) = head.split_once('\n').unwrap();
            let pairs = environment.lines().map(|line| line.split_once('=').unwrap());
            Call {
                plugin: plugin.to_owned(),
                environment: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
                stdin: serde_json::from_str(stdin).unwrap(),
            }
        });
        let calls = calls.collect();
        paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        calls
    }

    /// Plugins and commands of all calls since the last look.
    pub(crate) fn order(&self) -> Vec<String> {
        let show = |call: &Call| format!("{} {}", call.plugin, call.environment["CNI_COMMAND"]);
        self.calls().iter().map(show).collect()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Arc::new(TokioPrograms), vec![self.path().to_owned()])
    }
}

/// A network of such plugins, read as from a file.
pub(crate) fn network(config: &Value) -> NetworkConfig {
    let directory = tempfile::tempdir_in("/run").unwrap();
    std::fs::write(directory.path().join("net.conflist"), config.to_string()).unwrap();
    let catalog = cofferdam_network::cni::Catalog::load(&[directory.path().to_owned()]);
    assert!(catalog.problems.is_empty(), "{catalog:?}");
    catalog.networks.into_values().next().unwrap()
}
