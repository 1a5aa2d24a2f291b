//! The runtimes that cofferdam drives, behind one trait.
//!
//! Invariant: a container has one runtime from its first call to its last; there is no falling back from one to
//! another. A flag that the binary at hand lacks is never passed.
//! Drivers: `runc` (crun and youki too, by a table of their differences) and `runsc`. What a binary can do is probed
//! from the binary (`features`), never assumed from its name.

mod binary;
pub mod capabilities;
mod clearing;
mod criu;
mod failure;
mod features;
mod flavor;
mod locate;
mod log;
mod nvproxy;
mod parse;
mod runc;
mod runsc;
mod version;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use binary::parse_pid_file;
pub use clearing::Clearing;
pub use failure::{CommandFailure, Lacks, RuntimeError};
pub use features::{Features, KernelFacts, parse_commands, parse_flags};
pub(crate) use locate::find_program;
pub use locate::{LocateError, RuntimeKind, locate};
pub use log::last_error;
pub(crate) use log::read_last_error;
pub use parse::{ListedContainer, RuntimeState, parse_list, parse_process_table, parse_state};
pub use version::{RuntimeVersion, parse_version};

use crate::gpu::Granted;
use crate::host::HostFacts;
use crate::id::ContainerId;
use crate::request::{ContainerPlan, MEMORY_FLOOR_BYTES};
use crate::signal::Signal;
use crate::spec::{NetworkChoice, PrepareError, SpecEditor};

/// How long `create`, `run`, `start` and `exec` may take, hooks included, unless the user says otherwise.
pub const DEFAULT_START_LIMIT: Duration = Duration::from_secs(60);
/// How long every other call may take. A runtime that is asked for its state answers in tens of milliseconds.
pub const QUERY_LIMIT: Duration = Duration::from_secs(20);

/// Which runtime to use and where it keeps its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// Its name, such as `runc` or `runsc`.
    pub name: String,
    /// The binary: an absolute path.
    pub binary: PathBuf,
    /// Its state root, given as `--root` with every call.
    pub root: PathBuf,
    /// gVisor's platform; `None` leaves it to the binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How long `create`, `run`, `start` and `exec` may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub start_limit: Duration,
}

/// Global flags of a runtime that one container needs at every call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuntimeFlags(pub Vec<String>);

/// A container as a runtime is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its id.
    pub id: &'a ContainerId,
    /// Its own global flags.
    pub flags: &'a RuntimeFlags,
    /// Where the runtime writes its log.
    pub log: &'a Path,
}

/// What a container is made from.
#[derive(Debug)]
pub struct CreateCall<'a> {
    /// The container.
    pub target: Target<'a>,
    /// The bundle that cofferdam wrote.
    pub bundle: &'a Path,
    /// Where the runtime writes the container's pid.
    pub pid_file: &'a Path,
    /// Where it sends the terminal, if the container has one.
    pub console_socket: Option<&'a Path>,
    /// The container's standard streams.
    pub stdio: ContainerStdio,
}

/// Another process for a running container.
#[derive(Debug)]
pub struct ExecCall<'a> {
    /// The container.
    pub target: Target<'a>,
    /// The file that holds the OCI process.
    pub process: &'a Path,
    /// Where the runtime writes the pid on the host that stands for the process.
    pub pid_file: &'a Path,
    /// Where gVisor writes the pid inside the sandbox.
    pub internal_pid_file: &'a Path,
    /// Where it sends the terminal, if the process has one.
    pub console_socket: Option<&'a Path>,
    /// The process's standard streams.
    pub stdio: ContainerStdio,
}

/// The ends of the standard streams that a container gets.
#[derive(Debug)]
pub struct ContainerStdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// What a specification is prepared for.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// How it is connected.
    pub network: &'a NetworkChoice,
    /// What was asked for.
    pub plan: &'a ContainerPlan,
    /// The host.
    pub host: &'a HostFacts,
    /// The devices that it is given.
    pub granted: &'a Granted,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillScope {
    /// The container's first process.
    Init,
    /// Every process of the container.
    All,
    /// The process with this pid inside a sandbox.
    Process(i32),
}

/// A process of a container, as `top` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// User id, or name where the runtime gives that.
    pub uid: String,
    /// Pid: on the host for runc, inside the sandbox for gVisor.
    pub pid: i32,
    /// Parent's pid, in the same numbering.
    pub ppid: i32,
    /// CPU time used, as `HH:MM:SS`.
    pub time: String,
    /// Command line.
    pub command: String,
}

/// New limits for a running container; what is `None` stays as it is.
pub type ResourceUpdate = crate::request::Limits;

/// A container runtime.
///
/// # For implementers
/// Every method is required: a driver that forgets one must not compile. A container's supervisor makes its calls one
/// at a time, in the order create, start, (kill, pause, resume, update), delete, or run, (the same), delete. Other
/// processes may call `exec`, `state`, `ps` and `stats` meanwhile, also while the container ends, and `list` at any time.
/// All calls of a container carry the flags that `prepare` gave for it. Futures may be dropped at any point; the program that they
/// run is then killed, and the caller unmakes what is there.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync {
    /// What this driver was made from.
    fn config(&self) -> &RuntimeConfig;

    /// What the binary can do.
    fn features(&self) -> &Features;

    /// Whether the container's pid is a sandbox's, which reports a guest's signal as exit code 128+n.
    fn is_sandbox(&self) -> bool;

    /// The least limit of memory under which it can make a container, in bytes.
    fn memory_floor(&self) -> u64 {
        MEMORY_FLOOR_BYTES
    }

    /// What it needs of a container's memory itself, in bytes, on top of what the container is to have.
    fn memory_headroom(&self, _limit: u64) -> u64 {
        0
    }

    /// Whether all that it keeps of a container after an orderly end are directories that carry the id: in its state
    /// root, and the cgroups. Where it does, `delete` need not be called for a container without poststop hooks.
    fn leaves_only_files(&self) -> bool;

    /// Changes a specification so that this runtime runs it as it is meant, and gives the flags that it needs.
    ///
    /// A pure function. Comes first of all calls.
    ///
    /// # Errors
    /// [`PrepareError`] when this runtime cannot do what is asked.
    fn prepare(
        &self,
        editor: &mut SpecEditor,
        surroundings: &Surroundings<'_>,
    ) -> Result<RuntimeFlags, PrepareError>;

    /// Makes a container whose process waits to be started, and returns its pid.
    ///
    /// # Errors
    /// [`RuntimeError`]; the caller then calls `delete`.
    async fn create(&self, call: CreateCall<'_>) -> Result<i32, RuntimeError>;

    /// Makes a container and starts its process; returns its pid. In one call of the runtime where that loses no exit.
    ///
    /// # Errors
    /// [`RuntimeError`]; the caller then calls `delete`.
    async fn run(&self, call: CreateCall<'_>) -> Result<i32, RuntimeError>;

    /// Starts the process of a created container.
    ///
    /// # Errors
    /// [`RuntimeError`]; the container then has ended or will not start.
    async fn start(&self, target: Target<'_>) -> Result<(), RuntimeError>;

    /// Runs another process in a running container and returns the pid that stands for it on the host.
    ///
    /// # Errors
    /// [`RuntimeError`]; the container is not affected.
    async fn exec(&self, call: ExecCall<'_>) -> Result<i32, RuntimeError>;

    /// Sends a signal. Returns when it is sent, not when it has an effect.
    ///
    /// # Errors
    /// [`RuntimeError`] when it could not be sent, also because the process has ended.
    async fn kill(&self, target: Target<'_>, signal: Signal, scope: KillScope) -> Result<(), RuntimeError>;

    /// Removes what the runtime keeps of a container that has ended; with `force`, ends it first.
    ///
    /// # Errors
    /// [`RuntimeError`]; that there is no such container is none.
    async fn delete(&self, target: Target<'_>, force: bool) -> Result<(), RuntimeError>;

    /// The runtime's view of a container. gVisor's may be wrong after a crash; see the design notes.
    ///
    /// # Errors
    /// [`RuntimeError::NoContainer`] when the runtime does not know it.
    async fn state(&self, target: Target<'_>) -> Result<RuntimeState, RuntimeError>;

    /// All containers below the runtime's root, not only ours.
    ///
    /// # Errors
    /// [`RuntimeError`] when the list as a whole cannot be had.
    async fn list(&self) -> Result<Vec<ListedContainer>, RuntimeError>;

    /// The processes of a running container.
    ///
    /// # Errors
    /// [`RuntimeError`].
    async fn ps(&self, target: Target<'_>) -> Result<Vec<ProcessInfo>, RuntimeError>;

    /// What a running container uses, as the runtime's own `events --stats` gives it.
    ///
    /// # Errors
    /// [`RuntimeError::Lacks`] where the binary has no such command.
    async fn stats(&self, target: Target<'_>) -> Result<Value, RuntimeError>;

    /// Changes limits of a running container. `scratch` is a directory for a file that the runtime reads.
    ///
    /// # Errors
    /// [`RuntimeError::Lacks`] where the binary has no such command.
    async fn update(
        &self,
        target: Target<'_>,
        limits: &ResourceUpdate,
        scratch: &Path,
    ) -> Result<(), RuntimeError>;

    /// Freezes all processes of a running container.
    ///
    /// # Errors
    /// [`RuntimeError`].
    async fn pause(&self, target: Target<'_>) -> Result<(), RuntimeError>;

    /// Thaws a frozen container.
    ///
    /// # Errors
    /// [`RuntimeError`].
    async fn resume(&self, target: Target<'_>) -> Result<(), RuntimeError>;
}

/// Makes the driver of a runtime: finds out what its binary is and can do, or reads that from `cache`.
///
/// # Errors
/// [`RuntimeError`] when the binary cannot be executed, does not answer, or is no runtime that is known here.
pub async fn open(config: RuntimeConfig, cache: &Path) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let features = features::probe_cached(&config.binary, cache).await?;
    Ok(driver(config, features))
}

/// The driver for a binary with these features.
pub(crate) fn driver(config: RuntimeConfig, features: Features) -> Arc<dyn Runtime> {
    match features.kind {
        RuntimeKind::Runc | RuntimeKind::Crun | RuntimeKind::Youki => {
            Arc::new(runc::Runc::new(config, features))
        }
        RuntimeKind::Runsc => Arc::new(runsc::Runsc::new(config, features)),
    }
}
