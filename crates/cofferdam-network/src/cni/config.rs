//! Configurations of networks, read from directories with suspicion.
//!
//! Whoever can write one runs programs as root, so a file must belong to root or to us, and others must not be able to
//! write it. A file that cannot be used hides no other: it comes with the catalog as a problem.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::CniVersion;
use crate::error::NetworkError;

/// Where configurations are, unless it is said otherwise.
pub const DEFAULT_DIRECTORY: &str = "/etc/cni/net.d";

/// How large a configuration may be, in bytes. Real ones have one or two KiB.
const FILE_LIMIT_BYTES: u64 = 256 << 10;
/// How many files of a directory are looked at.
const FILES_LIMIT: usize = 1024;
/// How many plugins a network may chain. Real ones have two to five.
const PLUGINS_LIMIT: usize = 32;
/// How long a network's name may be: it becomes part of file names and of comments of iptables.
const NAME_LIMIT: usize = 128;
/// Bits of a mode that let everybody write.
const WRITABLE_BY_OTHERS: u32 = 0o002;

/// A network: a chain of plugins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Its name.
    pub name: String,
    /// Versions that it supports and this client speaks, the oldest first; never empty.
    pub versions: Vec<CniVersion>,
    /// Whether CHECK must not be called.
    pub disable_check: bool,
    /// Whether GC must not be called.
    pub disable_gc: bool,
    /// Its plugins, in order; never empty.
    pub plugins: Vec<PluginConfig>,
    /// The file that it is from.
    pub source: PathBuf,
}

/// The configuration of one plugin, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PluginConfig(pub Map<String, Value>);

/// All networks of some directories.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Networks by their names. Of two with one name the first file's counts, as with other runtimes.
    pub networks: BTreeMap<String, NetworkConfig>,
    /// Files that cannot be used, and why.
    pub problems: Vec<NetworkError>,
}

impl PluginConfig {
    /// The name of the plugin's binary.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the plugin takes this as `runtimeConfig`.
    #[must_use]
    pub fn is_capable(&self, capability: &str) -> bool {
        self.0
            .get("capabilities")
            .and_then(|all| all.get(capability))
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }
}

impl NetworkConfig {
    /// Whether some plugin takes this as `runtimeConfig`.
    #[must_use]
    pub fn is_capable(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.is_capable(capability))
    }
}

impl Catalog {
    /// Reads all configurations of the directories. A directory that does not exist has none.
    #[must_use]
    pub fn load(directories: &[PathBuf]) -> Self {
        let mut catalog = Self::default();
        for directory in directories {
            let files = match files_of(directory, &["conflist", "conf", "json"]) {
                Ok(files) => files,
                Err(problem) => {
                    catalog.problems.push(problem);
                    continue;
                }
            };
            for path in files {
                match read_network(&path) {
                    Ok(network) => {
                        catalog.networks.entry(network.name.clone()).or_insert(network);
                    }
                    Err(problem) => catalog.problems.push(problem),
                }
            }
        }
        catalog
    }
}

/// Refuses what could lead out of a directory, or be taken for something else, when it is part of a path or a comment.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if !name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) {
        return Err("it does not begin with a letter or a digit");
    }
    if !name.bytes().all(is_inner) {
        return Err("it has other characters than A-Z a-z 0-9 _ . -");
    }
    if name.len() > NAME_LIMIT { Err("it is too long") } else { Ok(()) }
}

fn read_network(path: &Path) -> Result<NetworkConfig, NetworkError> {
    let refused = |reason| NetworkError::Configuration { path: path.to_owned(), reason };
    let (mut network, has_siblings) = parse(&read_file(path)?, path).map_err(refused)?;
    if has_siblings {
        let directory = path.with_file_name(&network.name);
        for file in files_of(&directory, &["conf"])? {
            let failed = |reason| NetworkError::Configuration { path: file.clone(), reason };
            let value = object(&read_file(&file)?).map_err(failed)?;
            network.plugins.push(plugin(Value::Object(value)).map_err(failed)?);
        }
    }
    match network.plugins.len() {
        0 => Err(refused("it has no plugins".into())),
        1..=PLUGINS_LIMIT => Ok(network),
        _ => Err(refused(format!("it has more than {PLUGINS_LIMIT} plugins"))),
    }
}

/// Reads a configuration: a list, or of old, one plugin. Also says whether a directory beside it has more plugins.
pub(crate) fn parse(text: &[u8], source: &Path) -> Result<(NetworkConfig, bool), String> {
    let mut all = object(text)?;
    let text_of = |key: &str| all.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = text_of("name");
    check_name(&name).map_err(|reason| format!("its name {name:?} cannot be used: {reason}"))?;
    let flag = |key: &str| match all.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        // Some releases of other tools wrote it so, and libcni reads it.
        Some(Value::String(value)) => {
            value.parse().map_err(|_| format!("its {key} is neither true nor false"))
        }
        Some(_) => Err(format!("its {key} is neither true nor false")),
    };
    let (disable_check, disable_gc) = (flag("disableCheck")?, flag("disableGC")?);
    let inlined_alone = flag("loadOnlyInlinedPlugins")?;
    let versions = versions(&all)?;
    let (plugins, is_list) = match all.remove("plugins") {
        Some(Value::Array(plugins)) => (plugins.into_iter().map(plugin).collect::<Result<_, _>>()?, true),
        Some(_) => return Err("its plugins are no list".into()),
        None if all.contains_key("type") => {
            // The chain's own fields are set anew at each call.
            all.retain(|key, _| !["name", "cniVersion", "cniVersions"].contains(&key.as_str()));
            (vec![plugin(Value::Object(all))?], false)
        }
        None if inlined_alone => return Err("it has no plugins, and loadOnlyInlinedPlugins".into()),
        None => (vec![], true),
    };
    let source = source.to_owned();
    Ok((
        NetworkConfig { name, versions, disable_check, disable_gc, plugins, source },
        is_list && !inlined_alone,
    ))
}

fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(all)) => Ok(all),
        Ok(_) => Err("it is not an object of JSON".into()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

fn plugin(value: Value) -> Result<PluginConfig, String> {
    let Value::Object(fields) = value else { return Err("a plugin of it is not an object".into()) };
    let types = [
        Some(&fields).and_then(|fields| fields.get("type")),
        fields.get("ipam").and_then(|ipam| ipam.get("type")),
    ];
    if types[0].is_none() {
        return Err("a plugin of it has no type".into());
    }
    for kind in types.into_iter().flatten() {
        let text = kind.as_str().ok_or("a type of it is not a text")?;
        check_name(text).map_err(|reason| format!("the type {text:?} names no program: {reason}"))?;
    }
    Ok(PluginConfig(fields))
}

/// The versions of a configuration that this client speaks.
fn versions(all: &Map<String, Value>) -> Result<Vec<CniVersion>, String> {
    let mut texts: Vec<&str> = Vec::new();
    if let Some(one) = all.get("cniVersion") {
        texts.push(one.as_str().ok_or("its cniVersion is not a text")?);
    }
    if let Some(more) = all.get("cniVersions") {
        let more = more.as_array().ok_or("its cniVersions are no list")?;
        texts.extend(more.iter().filter_map(Value::as_str));
    }
    let mut known: Vec<CniVersion> = texts.iter().filter_map(|text| CniVersion::parse(text)).collect();
    known.sort_unstable();
    known.dedup();
    if known.is_empty() {
        let given = if texts.is_empty() { "no version".into() } else { texts.join(", ") };
        return Err(format!("it has {given}; one of 0.3.0 to {} is needed", CniVersion::NEWEST));
    }
    Ok(known)
}

/// The files of a directory with one of the extensions, sorted by name.
fn files_of(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, NetworkError> {
    let failed = |source| NetworkError::Record { path: directory.to_owned(), what: "read", source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let metadata = std::fs::metadata(directory).map_err(failed)?;
    check_owner(&metadata)
        .map_err(|reason| NetworkError::Configuration { path: directory.to_owned(), reason })?;
    let paths = entries.take(FILES_LIMIT).map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>().map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|end| extensions.iter().any(|wanted| end == *wanted)));
    paths.sort_unstable();
    Ok(paths)
}

fn read_file(path: &Path) -> Result<Vec<u8>, NetworkError> {
    let failed = |source| NetworkError::Record { path: path.to_owned(), what: "read", source };
    let refused = |reason: String| NetworkError::Configuration { path: path.to_owned(), reason };
    // Without NONBLOCK a FIFO would block.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(refused("it is not a regular file".into()));
    }
    check_owner(&metadata).map_err(refused)?;
    let mut text = Vec::new();
    file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(refused(format!("it is larger than {} KiB", FILE_LIMIT_BYTES >> 10)));
    }
    Ok(text)
}

/// Refuses what somebody else than root or us can change.
pub(super) fn check_owner(metadata: &std::fs::Metadata) -> Result<(), String> {
    let ours = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != ours {
        return Err(format!("it belongs to the user {}, neither root nor us", metadata.uid()));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err("everybody may write it".into());
    }
    Ok(())
}
