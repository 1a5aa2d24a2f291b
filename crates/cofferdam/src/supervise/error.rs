//! Why a container could not be made.

use std::io;
use std::path::PathBuf;

use crate::bundle::BundleError;
use crate::cgroup::{CgroupPath, LimitError, MemoryCounters};
use crate::error::{Code, Diagnose};
use crate::exit::format_bytes;
use crate::fault::Fault;
use crate::network::ConnectError;
use crate::runtime::RuntimeError;
use crate::state::StateError;

/// A container that could not be made. Everything that had been made was unmade.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The kernel killed it for lack of memory before its process ran.
    #[error(
        "the memory limit{} is too small to start in: the kernel killed a process of it ({} oom_kill={})",
        limit_of(.counters), file_name(.counters), .counters.oom_kill
    )]
    OutOfMemory {
        /// Whether it is a sandbox, which needs memory for itself.
        sandboxed: bool,
        /// What the cgroup counted.
        counters: Box<MemoryCounters>,
        /// What the runtime said.
        #[source]
        source: RuntimeError,
    },
    /// The runtime has put it elsewhere than it was told to.
    #[error(
        "its process is in the cgroup {}, and was to be in {}: its limits and its end could not be told",
        .found.as_str(), .wanted.as_str()
    )]
    Elsewhere {
        /// Where it was to be.
        wanted: CgroupPath,
        /// Where it is.
        found: CgroupPath,
    },
    /// It could not be connected to its network.
    #[error("it could not be connected to its network")]
    Network(#[source] ConnectError),
    /// Its bundle could not be completed.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its limits could not be set.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The kernel refused something that supervision needs.
    #[error("the container cannot be supervised: {what}")]
    Supervision {
        /// What was refused.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody listens for its output.
    #[error("journald does not listen at {}", .path.display())]
    Journald {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The caller gave up.
    #[error("the launch was cancelled")]
    Cancelled,
    /// A test made a step fail.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Diagnose for StartError {
    fn code(&self) -> Code {
        match self {
            Self::Runtime(error) => error.code(),
            Self::OutOfMemory { .. } => Code::OutOfMemoryAtStart,
            Self::Elsewhere { .. } => Code::CgroupUnavailable,
            Self::Limit(error) => error.code(),
            Self::Network(error) => error.code(),
            Self::Bundle(error) => error.code(),
            Self::Supervision { .. } | Self::Fault(_) => Code::Internal,
            Self::Journald { .. } => Code::JournaldUnreachable,
            Self::State(error) => error.code(),
            Self::Cancelled => Code::Cancelled,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Runtime(error) => error.next_step(),
            Self::OutOfMemory { sandboxed: true, .. } => {
                Some("give it more: a gVisor sandbox needs about 16m for itself, so -m 64m is little".into())
            }
            Self::OutOfMemory { .. } => Some("give it more, such as -m 64m".into()),
            Self::Journald { .. } => {
                Some("start systemd-journald, or its namespace; or take another --log-driver".into())
            }
            Self::State(error) => error.next_step(),
            Self::Supervision { source, .. } => next_of(source).map(str::to_owned),
            Self::Limit(error) => error.next_step(),
            Self::Network(error) => error.next_step(),
            Self::Bundle(error) => error.next_step(),
            Self::Elsewhere { .. } => Some(
                "look whether something moves processes between cgroups here; `cofferdam doctor` shows the layout".into(),
            ),
            Self::Cancelled | Self::Fault(_) => None,
        }
    }
}

/// What mends an error of the system's.
fn next_of(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("the file system of the state directory or of its logs is full: make room there")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("the file system of the state directory is read-only"),
        _ if error.raw_os_error() == Some(libc::EMFILE) => {
            Some("raise the limit of open files: `ulimit -n 1024`")
        }
        _ => None,
    }
}

fn limit_of(counters: &MemoryCounters) -> String {
    counters.limit_bytes.map_or_else(String::new, |bytes| format!(" of {}", format_bytes(bytes)))
}

fn file_name(counters: &MemoryCounters) -> String {
    counters.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn supervision(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Supervision { what, source }
}
