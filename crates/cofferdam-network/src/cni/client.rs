//! Calls of plugins, one by one and in chains.
//!
//! What a plugin gets is decided here alone: the environment is `environment`, the standard input `request`. Calls
//! for one container never overlap; whoever calls sees to it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::{NetworkConfig, PluginConfig, check_owner};
use super::result::{self, AddResult, PluginError};
use super::version::CniVersion;
use crate::error::NetworkError;
use crate::programs::{ProgramCall, ProgramEnd, ProgramStatus, Programs};

/// How long one call of a plugin may take. Real ones take 0.1 s; the dhcp plugin asks for 10 s, the lock of iptables is
/// waited for without end.
pub const PLUGIN_LIMIT: Duration = Duration::from_secs(30);
/// How much of a plugin's output is kept, in bytes. Results have about one KiB.
pub const OUTPUT_LIMIT_BYTES: usize = 1 << 20;
/// How much of a plugin's standard error comes with an error, in characters.
const STDERR_SHOWN: usize = 400;
/// Where plugins look for iptables, sysctl and modprobe.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Make an interface, or change it.
    Add,
    /// See that it is as it was made.
    Check,
    /// Take it away.
    Del,
    /// Take away what belongs to nobody.
    Gc,
    /// Say what versions are spoken.
    Version,
}

impl Command {
    /// As the specification writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Parameters of one attachment; the same ones for ADD, CHECK and DEL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; empty at DEL when the namespace has gone.
    pub namespace: PathBuf,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`: not set when there are none.
    #[serde(default)]
    pub args: Vec<(String, String)>,
    /// Values for `runtimeConfig`, by capability: `portMappings`, `ips`, `mac`, `dns`, `aliases`, `bandwidth`. A plugin
    /// gets those that its configuration declares.
    #[serde(default)]
    pub capabilities: Map<String, Value>,
}

/// An attachment that GC must leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValidAttachment {
    /// `CNI_CONTAINERID` at ADD.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME` at ADD.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// Calls plugins.
#[derive(Debug, Clone)]
pub struct Client {
    programs: Arc<dyn Programs>,
    directories: Vec<PathBuf>,
    limit: Duration,
}

/// Where plugins are looked for: the directories of `CNI_PATH`, else the usual ones.
#[must_use]
pub fn default_plugin_directories(cni_path: Option<&OsStr>) -> Vec<PathBuf> {
    const USUAL: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
    let given = cni_path.into_iter().flat_map(std::env::split_paths).filter(|path| path.is_absolute());
    given.chain(USUAL.map(PathBuf::from)).collect()
}

impl Client {
    /// A client that looks for plugins in these directories.
    #[must_use]
    pub fn new(programs: Arc<dyn Programs>, directories: Vec<PathBuf>) -> Self {
        Self { programs, directories, limit: PLUGIN_LIMIT }
    }

    /// The same with another limit of time for each call.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Finds a plugin's binary.
    ///
    /// # Errors
    /// It is in no directory, or somebody else may change it.
    pub fn find(&self, plugin: &str) -> Result<PathBuf, NetworkError> {
        find_plugin(&self.directories, plugin)
    }

    /// Sees that all plugins of a network are there, before the first one is called.
    ///
    /// # Errors
    /// As of [`Client::find`].
    pub fn find_all(&self, network: &NetworkConfig) -> Result<(), NetworkError> {
        network.plugins.iter().try_for_each(|plugin| self.find(plugin.kind()).map(drop))
    }

    /// The newest version that a configuration and all of its plugins support.
    ///
    /// Plugins are asked only if there is a choice.
    ///
    /// # Errors
    /// A plugin is missing, or does not answer.
    pub async fn choose_version(&self, network: &NetworkConfig) -> Result<CniVersion, NetworkError> {
        let mut versions = network.versions.clone();
        if versions.len() > 1 {
            for plugin in &network.plugins {
                let supported = self.supported_versions(plugin.kind()).await?;
                versions.retain(|version| supported.contains(version));
            }
        }
        versions.last().copied().ok_or_else(|| NetworkError::Configuration {
            path: network.source.clone(),
            reason: "it has no version that all of its plugins support".into(),
        })
    }

    /// VERSION: the versions that a plugin supports and this client speaks.
    ///
    /// # Errors
    /// It is missing, or does not answer.
    pub async fn supported_versions(&self, plugin: &str) -> Result<Vec<CniVersion>, NetworkError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            supported_versions: Vec<String>,
        }
        let command = Command::Version;
        let stdin = json!({ "cniVersion": CniVersion::NEWEST });
        let end = self.call(plugin, command, None, &stdin).await?;
        let answer: Answer = serde_json::from_slice(&end.stdout)
            .map_err(|error| broken(plugin, command, format!("its answer cannot be read: {error}"), &end))?;
        Ok(answer.supported_versions.iter().filter_map(|text| CniVersion::parse(text)).collect())
    }

    /// ADD of all plugins in order, each with the result of the one before. Gives the last result, as it was written.
    ///
    /// Whoever calls this must call [`Client::del`] in the end, also after an error.
    ///
    /// # Errors
    /// A plugin is missing, refuses, or breaks the rules.
    pub async fn add(
        &self,
        network: &NetworkConfig,
        version: CniVersion,
        parameters: &Parameters,
    ) -> Result<(Value, AddResult), NetworkError> {
        let mut last = None;
        for plugin in &network.plugins {
            last = Some(self.add_one(network, plugin, version, parameters, last.map(|(raw, _)| raw)).await?);
        }
        last.ok_or_else(|| NetworkError::Configuration {
            path: network.source.clone(),
            reason: "it has no plugins".into(),
        })
    }

    /// ADD of one plugin.
    pub(crate) async fn add_one(
        &self,
        network: &NetworkConfig,
        plugin: &PluginConfig,
        version: CniVersion,
        parameters: &Parameters,
        previous: Option<Value>,
    ) -> Result<(Value, AddResult), NetworkError> {
        let (kind, command) = (plugin.kind(), Command::Add);
        let stdin = request(network, plugin, version, Some(parameters), previous);
        let end = self.call(kind, command, Some(parameters), &stdin).await?;
        let value: Value = serde_json::from_slice(&end.stdout)
            .map_err(|error| broken(kind, command, format!("its result is not JSON: {error}"), &end))?;
        let result = result::read(&value, version).map_err(|reason| broken(kind, command, reason, &end))?;
        Ok((value, result))
    }

    /// CHECK of all plugins. `false`: the configuration or its version does not have it, so that nothing was checked.
    ///
    /// # Errors
    /// The first plugin that is not content.
    pub async fn check(
        &self,
        network: &NetworkConfig,
        version: CniVersion,
        parameters: &Parameters,
        result: &Value,
    ) -> Result<bool, NetworkError> {
        if network.disable_check || !version.has_check() {
            return Ok(false);
        }
        for plugin in &network.plugins {
            let stdin = request(network, plugin, version, Some(parameters), Some(result.clone()));
            self.call(plugin.kind(), Command::Check, Some(parameters), &stdin).await?;
        }
        Ok(true)
    }

    /// DEL of all plugins in reverse order. `result` is that of ADD, if it came so far.
    ///
    /// The specification stops at the first error. Here the others are called nevertheless, as each takes away something
    /// else, and plugins must bear that something is gone already.
    ///
    /// # Errors
    /// All that plugins refused.
    pub async fn del(
        &self,
        network: &NetworkConfig,
        version: CniVersion,
        parameters: &Parameters,
        result: Option<&Value>,
    ) -> Result<(), Vec<NetworkError>> {
        // Before 0.4.0 plugins do not expect it.
        let result = result.filter(|_| version.has_check());
        let mut errors = Vec::new();
        for plugin in network.plugins.iter().rev() {
            let stdin = request(network, plugin, version, Some(parameters), result.cloned());
            if let Err(error) = self.call(plugin.kind(), Command::Del, Some(parameters), &stdin).await {
                errors.push(error);
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// GC: plugins take away what belongs to no attachment of the list.
    ///
    /// Only plugins that support version 1.1.0 are called, and only if the configuration does and allows it. The list
    /// must have the attachments of everybody who uses the network, and none may be added or deleted meanwhile.
    ///
    /// # Errors
    /// All that plugins refused.
    pub async fn gc(
        &self,
        network: &NetworkConfig,
        valid: &[ValidAttachment],
    ) -> Result<(), Vec<NetworkError>> {
        let Some(version) = network.versions.last().copied().filter(|version| version.has_gc()) else {
            return Ok(());
        };
        if network.disable_gc {
            return Ok(());
        }
        let mut errors = Vec::new();
        for plugin in &network.plugins {
            let kind = plugin.kind();
            let called = async {
                if !self.supported_versions(kind).await?.iter().any(|version| version.has_gc()) {
                    return Ok(());
                }
                let mut stdin = request(network, plugin, version, None, None);
                stdin["cni.dev/valid-attachments"] = json!(valid);
                self.call(kind, Command::Gc, None, &stdin).await.map(|_| ())
            };
            errors.extend(called.await.err());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    async fn call(
        &self,
        plugin: &str,
        command: Command,
        parameters: Option<&Parameters>,
        stdin: &Value,
    ) -> Result<ProgramEnd, NetworkError> {
        let program = self.find(plugin)?;
        let call = ProgramCall {
            program: program.clone(),
            args: Vec::new(),
            env: environment(command, parameters, &self.directories),
            stdin: stdin.to_string().into_bytes(),
            limit: self.limit,
            output_limit_bytes: OUTPUT_LIMIT_BYTES,
        };
        let end = self.programs.run(call).await.map_err(|source| NetworkError::Start { program, source })?;
        tracing::debug!(plugin, %command, status = ?end.status, "called a plugin");
        match end.status {
            ProgramStatus::TimedOut => {
                Err(NetworkError::TimedOut { plugin: plugin.to_owned(), command, limit: self.limit })
            }
            ProgramStatus::Signaled(signal) => {
                Err(broken(plugin, command, format!("the signal {signal} ended it"), &end))
            }
            ProgramStatus::Exited(0) if end.stdout.len() >= OUTPUT_LIMIT_BYTES => {
                Err(broken(plugin, command, format!("it wrote more than {OUTPUT_LIMIT_BYTES} bytes"), &end))
            }
            ProgramStatus::Exited(0) => Ok(end),
            ProgramStatus::Exited(code) => Err(refusal(plugin, command, code, &end)),
        }
    }
}

/// The environment of a plugin: what the specification lists for the command, and PATH for the programs that plugins
/// call. Nothing of ours is handed on.
fn environment(
    command: Command,
    parameters: Option<&Parameters>,
    directories: &[PathBuf],
) -> Vec<(OsString, OsString)> {
    let mut all: Vec<(OsString, OsString)> =
        vec![("CNI_COMMAND".into(), command.as_str().into()), ("PATH".into(), PATH.into())];
    if command != Command::Version {
        let joined: Vec<&OsStr> = directories.iter().map(|path| path.as_os_str()).collect();
        all.push(("CNI_PATH".into(), joined.join(OsStr::new(":"))));
    }
    if let Some(parameters) = parameters {
        all.push(("CNI_CONTAINERID".into(), parameters.container_id.clone().into()));
        if !parameters.namespace.as_os_str().is_empty() {
            all.push(("CNI_NETNS".into(), parameters.namespace.clone().into()));
        }
        all.push(("CNI_IFNAME".into(), parameters.interface.clone().into()));
        if !parameters.args.is_empty() {
            let pairs: Vec<String> =
                parameters.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
            all.push(("CNI_ARGS".into(), pairs.join(";").into()));
        }
    }
    all
}

/// What a plugin reads: its configuration without what is for us, and with what the specification inserts.
fn request(
    network: &NetworkConfig,
    plugin: &PluginConfig,
    version: CniVersion,
    parameters: Option<&Parameters>,
    previous: Option<Value>,
) -> Value {
    let mut all = Map::new();
    all.insert("cniVersion".into(), json!(version));
    all.insert("name".into(), json!(network.name));
    let is_ours = |key: &str| {
        ["cniVersion", "name", "capabilities", "runtimeConfig", "prevResult"].contains(&key)
            || key.starts_with("cni.dev/")
    };
    all.extend(
        plugin.0.iter().filter(|(key, _)| !is_ours(key)).map(|(key, value)| (key.clone(), value.clone())),
    );
    if let Some(parameters) = parameters {
        let given = parameters.capabilities.iter().filter(|(capability, _)| plugin.is_capable(capability));
        let given: Map<String, Value> = given.map(|(key, value)| (key.clone(), value.clone())).collect();
        if !given.is_empty() {
            all.insert("runtimeConfig".into(), Value::Object(given));
        }
    }
    if let Some(previous) = previous {
        all.insert("prevResult".into(), previous);
    }
    Value::Object(all)
}

/// The error of a plugin that did not end with 0. It should be JSON on the standard output; some write it to the other.
fn refusal(plugin: &str, command: Command, code: i32, end: &ProgramEnd) -> NetworkError {
    let read = |bytes: &[u8]| serde_json::from_slice::<PluginError>(bytes).ok();
    match read(&end.stdout).or_else(|| read(&end.stderr)) {
        Some(error) => NetworkError::Refused { plugin: plugin.to_owned(), command, error },
        None => broken(plugin, command, format!("it ended with {code} and no error that can be read"), end),
    }
}

fn broken(plugin: &str, command: Command, reason: String, end: &ProgramEnd) -> NetworkError {
    let text = String::from_utf8_lossy(&end.stderr);
    let text: Vec<char> =
        text.trim().chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let stderr = text[text.len().saturating_sub(STDERR_SHOWN)..].iter().collect();
    NetworkError::Broken { plugin: plugin.to_owned(), command, reason, stderr }
}

/// Finds a plugin's binary in these directories.
///
/// # Errors
/// As of [`Client::find`].
pub(crate) fn find_plugin(directories: &[PathBuf], plugin: &str) -> Result<PathBuf, NetworkError> {
    for directory in directories {
        let path = directory.join(plugin);
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            check_owner(&metadata)
                .map_err(|reason| NetworkError::Configuration { path: path.clone(), reason })?;
            return Ok(path);
        }
    }
    Err(NetworkError::ProgramMissing { program: plugin.to_owned(), directories: directories.to_vec() })
}

/// Finds a program of the system along the PATH that plugins have.
///
/// # Errors
/// It is not there.
pub(crate) fn find_program(name: &str) -> Result<PathBuf, NetworkError> {
    let directories: Vec<PathBuf> = std::env::split_paths(PATH).collect();
    let found = directories.iter().map(|directory| directory.join(name)).find(|path| Path::is_file(path));
    found.ok_or_else(|| NetworkError::ProgramMissing { program: name.to_owned(), directories })
}
