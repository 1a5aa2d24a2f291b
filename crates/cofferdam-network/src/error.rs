//! What can go wrong with a network, and what to do next.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cni::{Command, PluginError};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No configuration has the name.
    #[error("there is no network {name:?}; there are: {}", list(.known))]
    NoSuchNetwork {
        /// The name.
        name: String,
        /// Names of those that there are.
        known: Vec<String>,
        /// Where they were looked for.
        directories: Vec<PathBuf>,
    },
    /// A configuration cannot be used.
    #[error("the network configuration {} cannot be used: {reason}", .path.display())]
    Configuration {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What was asked for makes no sense.
    #[error("{what} {text:?} cannot be used: {reason}")]
    Invalid {
        /// What it was meant to be.
        what: &'static str,
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A program is in none of the directories.
    #[error("the program {program} is missing; looked in {}", list(&.directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()))]
    ProgramMissing {
        /// Its name.
        program: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// A program could not be started.
    #[error("{} could not be started", .program.display())]
    Start {
        /// The binary.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A plugin refused, and said why.
    #[error("the plugin {plugin} refused {command}: {error}")]
    Refused {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// Its own words.
        error: PluginError,
    },
    /// A plugin did something that no plugin may.
    #[error("the plugin {plugin} failed at {command}: {reason}{}", tail(.stderr))]
    Broken {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// What it did.
        reason: String,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// A plugin took too long and was killed.
    #[error("the plugin {plugin} did not end {command} within {} s", .limit.as_secs())]
    TimedOut {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// How long it was given.
        limit: Duration,
    },
    /// A program that is no plugin failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// How, and what it said.
        reason: String,
    },
    /// The kernel refused something about a namespace.
    #[error("the network namespace {} could not be {what}", .path.display())]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// What was to be done with it.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel refused something about links and addresses.
    #[error("the link {link} could not be {what}")]
    Link {
        /// Its name.
        link: String,
        /// What was to be done with it.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else has a port of the host.
    #[error("port {port}/{protocol} of {address} is taken{}", holder(.by.as_ref()))]
    PortTaken {
        /// The host's address.
        address: std::net::IpAddr,
        /// The port.
        port: u16,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The container that has it, where it is one of ours.
        by: Option<String>,
    },
    /// The container has a network already.
    #[error("the container {0} is attached to a network already")]
    AttachedAlready(String),
    /// Something that is written down cannot be read or written.
    #[error("{} could not be {what}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What was to be done with it.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is written down is of another release.
    #[error("{} has version {version}, which this release does not know", .path.display())]
    RecordVersion {
        /// The file.
        path: PathBuf,
        /// The version in it.
        version: u32,
    },
    /// Several things could not be taken away.
    #[error("{} things could not be taken away, the first: {}", .0.len(), .0.first().map_or(String::new(), chain))]
    Several(Vec<NetworkError>),
}

/// Whose fault it is, for a caller's error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkErrorKind {
    /// There is no such network.
    NoSuchNetwork,
    /// The request makes no sense.
    Invalid,
    /// A program has to be installed.
    ProgramMissing,
    /// A port of the host is taken.
    PortTaken,
    /// A plugin or the kernel refused.
    Setup,
}

impl NetworkError {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> NetworkErrorKind {
        match self {
            Self::NoSuchNetwork { .. } => NetworkErrorKind::NoSuchNetwork,
            Self::Invalid { .. } | Self::AttachedAlready(_) => NetworkErrorKind::Invalid,
            Self::ProgramMissing { .. } => NetworkErrorKind::ProgramMissing,
            Self::PortTaken { .. } => NetworkErrorKind::PortTaken,
            Self::Configuration { .. }
            | Self::Start { .. }
            | Self::Refused { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::Program { .. }
            | Self::Namespace { .. }
            | Self::Link { .. }
            | Self::Record { .. }
            | Self::RecordVersion { .. }
            | Self::Several(_) => NetworkErrorKind::Setup,
        }
    }

    /// What somebody who sees this should do.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::NoSuchNetwork { directories, .. } => format!(
                "use one of the networks that there are, or put a configuration with this name into {}",
                directories.first().map_or_else(String::new, |path| path.display().to_string())
            ),
            Self::Configuration { path, .. } => format!("mend or remove {}", path.display()),
            Self::Invalid { .. } => "see the reference of this option".into(),
            Self::ProgramMissing { program, .. } if ["iptables", "ip6tables"].contains(&program.as_str()) => {
                "install iptables (on Debian: apt-get install iptables)".into()
            }
            Self::ProgramMissing { .. } => "install the CNI plugins (on Debian: apt-get install \
                containernetworking-plugins), or set CNI_PATH to the directory that has them"
                .into(),
            Self::Start { .. } => "see that it can be executed, and that the machine has memory and processes left".into(),
            Self::Refused { error, .. } if error.code == PluginError::TRY_AGAIN => "try again in a while".into(),
            Self::Refused { error, .. } if error.code == PluginError::INCOMPATIBLE_VERSION => {
                "set cniVersion of the configuration to one that the plugin supports, or take newer plugins".into()
            }
            Self::Refused { .. } => "the plugin's words say what is wrong with the configuration or the host".into(),
            Self::Broken { plugin, .. } => format!("see whether {plugin} is a CNI plugin and whole"),
            Self::TimedOut { .. } => {
                "see what the plugin waits for: a DHCP server, say, or the lock of iptables".into()
            }
            Self::Program { program, .. } => format!("run {program} by hand to see what it wants"),
            Self::Namespace { .. } => {
                "networks need root with CAP_SYS_ADMIN and CAP_NET_ADMIN, and a kernel with network namespaces".into()
            }
            Self::Link { .. } => "networks need CAP_NET_ADMIN".into(),
            Self::PortTaken { .. } => {
                "take another port, or none (`-p 80` chooses a free one); `ss -ltnup` shows who has it".into()
            }
            Self::AttachedAlready(_) => "detach it first".into(),
            Self::Record { .. } => "see that the state directory can be written and its disk is not full".into(),
            Self::RecordVersion { .. } => "use the release that wrote it to take the container away".into(),
            Self::Several(errors) => errors.first().map_or_else(String::new, Self::next_step),
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn tail(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(" (it wrote: {stderr})") }
}

fn holder(by: Option<&String>) -> String {
    by.map_or_else(String::new, |id| format!(" by the container {id}"))
}

fn chain(error: &NetworkError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
