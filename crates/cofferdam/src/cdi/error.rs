//! Devices that cannot be given.

use std::io;
use std::path::PathBuf;

use crate::error::{Code, Diagnose};
use crate::gpu::is_gpu_device;

/// A description, or a device, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no description.
    #[error("{path} is no valid description of CDI: {why}")]
    Invalid {
        /// Its path.
        path: String,
        /// Why.
        why: String,
    },
    /// Others can write it.
    #[error("{path} can be written by others than root, and what it says would be done as root")]
    Untrusted {
        /// The file, or its directory.
        path: String,
    },
    /// Nobody describes the device.
    #[error("no file describes the device {device}{}", list(.there, .problems))]
    Unresolved {
        /// Its qualified name.
        device: String,
        /// The devices of its kind that there are.
        there: Vec<String>,
        /// Files that were not used.
        problems: Vec<String>,
    },
    /// Two files describe it.
    #[error("two files describe the device {device}: {one} and {other}")]
    Conflict {
        /// Its qualified name.
        device: String,
        /// One.
        one: String,
        /// The other.
        other: String,
    },
    /// Something that it needs is not on this host.
    #[error("{origin} says that {device} needs {}, which is not there", .path.display())]
    Stale {
        /// Its qualified name.
        device: String,
        /// Who describes it.
        origin: String,
        /// What is missing.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that the runtime is to run for it is not on this host.
    #[error("{origin} has {} run for {device}, and that is no program that is there", .path.display())]
    NoHook {
        /// Its qualified name.
        device: String,
        /// Who describes it.
        origin: String,
        /// The program.
        path: PathBuf,
    },
    /// It gives libraries of another driver than the host's.
    #[error("{origin} gives {device} the library {library}, and the driver of this host is {driver}")]
    OtherDriver {
        /// Its qualified name.
        device: String,
        /// Who describes it.
        origin: String,
        /// The library, by its path on the host.
        library: String,
        /// The host's driver.
        driver: String,
    },
    /// Its edits cannot be made.
    #[error("the device {device} of {origin} cannot be given: {why}")]
    Unusable {
        /// Its qualified name.
        device: String,
        /// Who describes it.
        origin: String,
        /// Why.
        why: String,
    },
}

fn list(there: &[String], problems: &[String]) -> String {
    /// More are not read.
    const MOST: usize = 16;
    let mut text = String::new();
    if !there.is_empty() {
        let shown = there.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
        text.push_str(&format!("; there is {shown}"));
    }
    for problem in problems {
        text.push_str(&format!("; not used: {problem}"));
    }
    text
}

impl CdiError {
    /// What it says, with its reason.
    #[must_use]
    pub fn in_full(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

impl Diagnose for CdiError {
    fn code(&self) -> Code {
        match self {
            Self::Unreadable { .. }
            | Self::Invalid { .. }
            | Self::Untrusted { .. }
            | Self::Unusable { .. } => Code::CdiInvalid,
            Self::Unresolved { .. } => Code::CdiUnresolved,
            Self::Conflict { .. } => Code::CdiConflict,
            Self::Stale { .. } | Self::NoHook { .. } | Self::OtherDriver { .. } => Code::CdiStale,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { .. } | Self::Invalid { .. } | Self::Unusable { .. } => {
                "mend the file, or make it anew: `cofferdam cdi generate` does it for NVIDIA's GPUs".into()
            }
            Self::Untrusted { path } => {
                format!("give it to root alone: chown root {path} && chmod go-w {path}")
            }
            Self::Unresolved { .. } => {
                "`cofferdam cdi list` shows what there is; --cdi-spec-dir says where files are looked for"
                    .into()
            }
            Self::Conflict { one, .. } => {
                format!("remove one of them, or move {one} to a directory of another precedence")
            }
            Self::NoHook { device, origin, .. } if is_gpu_device(device) => format!(
                "install nvidia-container-toolkit, whose program it is; or have cofferdam describe the GPUs, which needs \
                 none: `cofferdam cdi generate --own --output {origin}`"
            ),
            Self::Stale { device, origin, .. } | Self::OtherDriver { device, origin, .. }
                if is_gpu_device(device) =>
            {
                format!(
                    "the description is older than the driver: `cofferdam cdi generate --output {origin}`"
                )
            }
            Self::NoHook { origin, .. } | Self::Stale { origin, .. } | Self::OtherDriver { origin, .. } => {
                format!(
                    "the description is older than what it describes: have its vendor's tool write {origin} anew"
                )
            }
        })
    }
}
