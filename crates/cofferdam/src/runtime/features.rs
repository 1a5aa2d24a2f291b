//! What a runtime's binary is and can do, asked of the binary itself, and remembered as long as the file is the same.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::version::parse_version;
use super::{RuntimeError, RuntimeKind, RuntimeVersion};
use crate::gpu::{DriverVersion, parse_supported};
use crate::process::{self, Invocation, Streams};
use crate::sys::with_fresh_network_namespace;

/// How long a binary may take to answer a question about itself.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// Version of the cache's format. A file of another version is probed anew.
const CACHE_VERSION: u32 = 2;

/// What a runtime's binary is and can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Features {
    /// Which runtime it is.
    pub kind: RuntimeKind,
    /// Its version.
    pub version: RuntimeVersion,
    /// The first line of what it says of itself.
    pub version_line: String,
    /// Its commands.
    pub commands: BTreeSet<String>,
    /// Its global flags, without dashes.
    pub flags: BTreeSet<String>,
    /// The OCI features document, where it has one.
    pub oci: Option<Value>,
    /// The NVIDIA drivers that gVisor's nvproxy knows.
    pub nvidia_drivers: Vec<DriverVersion>,
    /// How it gets on with this kernel.
    pub kernel: KernelFacts,
}

/// What depends on binary and kernel together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// gVisor before 20240807 takes a namespace for the host's own where it sees net.core.rmem_default, which newer
    /// kernels show in all of them; it then refuses every network namespace.
    pub mistakes_namespaces_for_root: bool,
}

#[derive(Serialize, Deserialize)]
struct CacheEntry {
    version: u32,
    binary: PathBuf,
    identity: Identity,
    features: Features,
}

/// What tells a file from the one that was probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    modified_ns: i128,
    size: u64,
    inode: u64,
    /// The kernel counts too: `KernelFacts` are true of one kernel only.
    kernel: String,
}

impl Features {
    /// Whether the binary has a global flag.
    #[must_use]
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// Whether the binary has a command.
    #[must_use]
    pub fn has_command(&self, command: &str) -> bool {
        self.commands.contains(command)
    }

    /// The runtime and its version, for messages.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.version)
    }
}

/// The features of a binary, from the cache if the file is still the same.
pub(super) async fn probe_cached(binary: &Path, cache: &Path) -> Result<Features, RuntimeError> {
    let missing = |source| RuntimeError::Spawn { program: binary.to_owned(), source };
    let identity = identity(binary).map_err(missing)?;
    let file = cache_file(binary, cache);
    if let Some(features) = read_cache(&file, binary, &identity) {
        return Ok(features);
    }
    let features = probe(binary).await?;
    let entry = CacheEntry {
        version: CACHE_VERSION,
        binary: binary.to_owned(),
        identity,
        features: features.clone(),
    };
    if let Err(error) = write_cache(&file, &entry) {
        // Only time is lost: the next call probes again.
        tracing::debug!(file = %file.display(), %error, "the features could not be cached");
    }
    Ok(features)
}

fn identity(binary: &Path) -> std::io::Result<Identity> {
    let metadata = std::fs::metadata(binary)?;
    Ok(Identity {
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        size: metadata.size(),
        inode: metadata.ino(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    })
}

fn cache_file(binary: &Path, cache: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    binary.hash(&mut hasher);
    cache.join(format!("features-{:016x}.json", hasher.finish()))
}

fn read_cache(file: &Path, binary: &Path, identity: &Identity) -> Option<Features> {
    let entry: CacheEntry = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let fits = entry.version == CACHE_VERSION && entry.binary == binary && entry.identity == *identity;
    fits.then_some(entry.features)
}

fn write_cache(file: &Path, entry: &CacheEntry) -> std::io::Result<()> {
    let text = serde_json::to_vec(entry)?;
    crate::state::write_atomically(file, |out| out.write_all(&text))
}

async fn probe(binary: &Path) -> Result<Features, RuntimeError> {
    let version = ask(binary, &["--version"]).await?;
    let Some((kind, number)) = parse_version(&version) else {
        return Err(RuntimeError::Unrecognised { program: binary.to_owned(), answer: version });
    };
    let (help, flags) = match kind {
        RuntimeKind::Runsc => tokio::try_join!(ask(binary, &["help"]), ask(binary, &["flags"]))?,
        RuntimeKind::Runc | RuntimeKind::Crun | RuntimeKind::Youki => {
            let help = ask(binary, &["--help"]).await?;
            (help.clone(), help)
        }
    };
    let commands = parse_commands(&help);
    let oci = if commands.contains("features") {
        serde_json::from_str(&ask(binary, &["features"]).await?).ok()
    } else {
        None
    };
    let flags = parse_flags(&flags);
    let nvidia_drivers = if flags.contains("nvproxy") && commands.contains("nvproxy") {
        parse_supported(&ask(binary, &["nvproxy", "list-supported-drivers"]).await?)
    } else {
        vec![]
    };
    let kernel = KernelFacts { mistakes_namespaces_for_root: mistakes_namespaces(kind, &number, &flags) };
    Ok(Features {
        kind,
        version: number,
        version_line: version.lines().next().unwrap_or_default().trim().to_owned(),
        commands,
        flags,
        oci,
        nvidia_drivers,
        kernel,
    })
}

/// Asks a binary something about itself; the answer is what it prints on both streams (old releases of runsc print
/// their flags on standard error).
async fn ask(binary: &Path, args: &[&str]) -> Result<String, RuntimeError> {
    let invocation = Invocation {
        program: binary,
        args: args.iter().map(Into::into).collect(),
        streams: Streams::Captured,
        limit: PROBE_LIMIT,
    };
    let done =
        process::run(invocation).await.map_err(|error| RuntimeError::from_invoke(error, "--version"))?;
    let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&String::from_utf8_lossy(&done.stderr));
    Ok(text)
}

/// The commands in a help text: indented lines of a word and its description.
#[must_use]
pub fn parse_commands(help: &str) -> BTreeSet<String> {
    help.lines()
        .filter(|line| line.starts_with([' ', '\t']))
        .filter_map(|line| {
            let word = line.split_whitespace().next()?.trim_end_matches(',');
            let is_command =
                word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with('-');
            is_command.then(|| word.to_owned())
        })
        .collect()
}

/// The flags in a help text: the words before the description that begin with a dash.
#[must_use]
pub fn parse_flags(help: &str) -> BTreeSet<String> {
    help.lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .flat_map(|line| line.split_whitespace().take_while(|word| word.starts_with('-')))
        .map(|word| {
            let word = word.trim_start_matches('-');
            let end = word.find([',', '=', '[']).unwrap_or(word.len());
            word[..end].to_owned()
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Whether this runsc would refuse every network namespace on this kernel.
fn mistakes_namespaces(kind: RuntimeKind, version: &RuntimeVersion, flags: &BTreeSet<String>) -> bool {
    const FIXED_IN: RuntimeVersion = RuntimeVersion::Dated(20_240_807);
    // Came with 20240930, so a build without a version that has it has the fix too.
    const LATER_FLAG: &str = "nvproxy-allowed-driver-capabilities";
    let fixed = version.at_least(&FIXED_IN).unwrap_or_else(|| flags.contains(LATER_FLAG));
    if kind != RuntimeKind::Runsc || fixed {
        return false;
    }
    // Where it cannot be looked up (no privilege to make a namespace), runsc could not use one either.
    with_fresh_network_namespace(|| Path::new("/proc/sys/net/core/rmem_default").exists()).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_and_flags_are_read_from_verbatim_help() {
        let runc = "COMMANDS:\n   checkpoint  checkpoint a running container\n   help, h     Shows a list\n\nGLOBAL OPTIONS:\n   --log-format value  set the log format\n   --version, -v       print the version\n";
        assert!(parse_commands(runc).contains("checkpoint") && parse_commands(runc).contains("help"));
        assert_eq!(parse_flags(runc).into_iter().collect::<Vec<_>>(), ["log-format", "v", "version"]);
        let crun = "COMMANDS:\n\tcreate      - create a container\n      --cgroup-manager=MANAGER   cgroup manager\n  -v, -V, --version\n";
        assert!(parse_commands(crun).contains("create"));
        assert!(parse_flags(crun).contains("cgroup-manager") && parse_flags(crun).contains("version"));
        let runsc = "  -nvproxy\n    \tEXPERIMENTAL: enable support for Nvidia GPUs\n  -overlay2 value\n    \twrap mounts\n";
        assert!(parse_flags(runsc).contains("nvproxy") && parse_flags(runsc).contains("overlay2"));
    }

    #[test]
    fn a_cache_is_used_only_for_the_same_file_and_version() {
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("runc");
        std::fs::write(&binary, "x").unwrap();
        let features = Features {
            kind: RuntimeKind::Runc,
            version: RuntimeVersion::Numbered(1, 1, 5),
            version_line: "runc version 1.1.5".into(),
            commands: BTreeSet::new(),
            flags: BTreeSet::new(),
            oci: None,
            nvidia_drivers: vec!["550.90.07".parse().unwrap()],
            kernel: KernelFacts::default(),
        };
        let file = cache_file(&binary, directory.path());
        let first = identity(&binary).unwrap();
        let entry = CacheEntry {
            version: CACHE_VERSION,
            binary: binary.clone(),
            identity: first.clone(),
            features: features.clone(),
        };
        write_cache(&file, &entry).unwrap();
        assert_eq!(read_cache(&file, &binary, &first), Some(features));
        std::fs::write(&binary, "xy").unwrap();
        assert_eq!(read_cache(&file, &binary, &identity(&binary).unwrap()), None);
        std::fs::write(&file, "not json").unwrap();
        assert_eq!(read_cache(&file, &binary, &first), None);
    }

    proptest! {
        #[test]
        fn no_help_panics(text in ".*") {
            let _ = (parse_commands(&text), parse_flags(&text));
        }
    }
}
