//! What a caller asks for, and its check: a [`LaunchRequest`] is untrusted, a [`ContainerPlan`] is not.
//!
//! Invariant: [`validate()`] looks at nothing but the request. Whether files, users or runtimes exist is found out
//! later, by the steps that use them.

mod health;
mod image;
mod limits;
mod mount;
mod network;
mod parse;
mod resources;
mod restart;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use health::{HealthCheck, HealthRequest, OnUnhealthy, Probe, SHORTEST_PROBE};
pub use image::{ImageDefaults, ImageUse};
pub use limits::{CPU_PERIOD_US, LimitRequest, Limits, MEMORY_FLOOR_BYTES};
pub(crate) use limits::{in_whole_pages, list_of, parse_memory};
pub(crate) use mount::VOLUME_DATA;
pub use mount::{MountFlags, MountKind, MountOption, MountRecord, MountRequest, Propagation, TmpfsOptions};
pub use network::NamesRequest;
pub(crate) use parse::check_destination;
pub use parse::{NetworkMode, Ulimit, UserPart, UserSpec, parse_size};
pub use resources::{
    CgroupManager, DeviceRate, HugepageLimit, MemoryThreshold, OomKill, ResourceRequest, Resources,
};
pub use restart::{RestartPolicy, Restarts, UnknownPolicy};
pub use validate::validate;
pub(crate) use validate::{check_cwd, check_env_entry, check_string};

use crate::error::{Code, Diagnose};
use crate::gpu::{DevicePlan, DeviceRequest};
use crate::id::{ContainerId, ContainerName};
use crate::logs::{JournaldConfig, LogConfig};
use crate::network::{NameRequest, PortRequest};
use crate::signal::Signal;

/// The longest single argument or environment entry that Linux accepts (`MAX_ARG_STRLEN`: 32 pages).
pub const ARGUMENT_LIMIT_BYTES: usize = 128 * 1024;
/// Time between the stop signal and SIGKILL unless the caller says otherwise: docker's default.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// How long the report of a container is kept that is forgotten after its end.
pub const DEFAULT_KEEP_REPORT: Duration = Duration::from_secs(600);

/// Where a container comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// An OCI bundle: a directory with config.json.
    Bundle {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that becomes the root filesystem, with a specification that cofferdam makes.
    Rootfs {
        /// The directory.
        path: PathBuf,
    },
    /// The layers of an image, over which the container gets a directory of its own to write to.
    Image(Box<ImageUse>),
}

impl Source {
    /// Where root filesystems are that containers of it have of their own.
    #[must_use]
    pub fn rootfs_dir(&self) -> Option<&Path> {
        match self {
            Self::Image(image) => Some(&image.rootfs_dir),
            Self::Bundle { .. } | Self::Rootfs { .. } => None,
        }
    }
}

/// What a caller asks for, as it was typed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// Where the container comes from.
    pub source: Source,
    /// A name for it.
    pub name: Option<String>,
    /// The command and its arguments; for a bundle, empty means the bundle's own. Of an image, they replace its `cmd`.
    pub args: Vec<String>,
    /// Replaces the entrypoint of an image; an empty one takes it away.
    #[serde(default)]
    pub entrypoint: Option<String>,
    /// Environment entries `KEY=VALUE`; they replace entries of the same key.
    pub env: Vec<String>,
    /// Working directory inside the container.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// Host name inside the container.
    pub hostname: Option<String>,
    /// `--volume`: `[SOURCE:]DESTINATION[:OPTIONS]`, one a mount.
    pub mounts: Vec<String>,
    /// `--mount`: `type=bind,source=SOURCE,target=DESTINATION`, one a mount.
    #[serde(default)]
    pub mount_options: Vec<String>,
    /// `--tmpfs`: `DESTINATION[:OPTIONS]`, one a mount.
    #[serde(default)]
    pub tmpfs: Vec<String>,
    /// Size of /dev/shm, such as `2g`.
    #[serde(default)]
    pub shm_size: Option<String>,
    /// How what it writes is kept, `KEY=VALUE`: `size`, such as `10g`, limits how much it is.
    #[serde(default)]
    pub storage_opt: Vec<String>,
    /// Limits that can be changed later.
    pub limits: LimitRequest,
    /// Further ones, and how they are enforced.
    #[serde(default)]
    pub resources: ResourceRequest,
    /// `none`, `host`, `ns:PATH`, `container:NAME`, or the name of a network of CNI.
    pub network: Option<String>,
    /// Ports to publish, in docker's grammar. Without a network, they mean `bridge`.
    #[serde(default)]
    pub publish: Vec<String>,
    /// Publish each port that the image says it listens on, at a free one of the host.
    #[serde(default)]
    pub publish_all: bool,
    /// Who resolves names for it, and how.
    #[serde(default)]
    pub names: NamesRequest,
    /// What it may reach: `none`, `public` or `allow:…`. Without a network, it means `bridge`.
    #[serde(default)]
    pub egress: Option<String>,
    /// Mount the root filesystem read-only.
    pub read_only: bool,
    /// Capabilities to add to the default ones.
    pub cap_add: Vec<String>,
    /// Capabilities to take from the default ones; `ALL` for all.
    pub cap_drop: Vec<String>,
    /// Resource limits `NAME=SOFT[:HARD]`.
    pub ulimits: Vec<String>,
    /// Labels: for the user, without effect on the container.
    pub labels: BTreeMap<String, String>,
    /// Run a small init before the command.
    #[serde(default)]
    pub init: bool,
    /// Give the container a terminal.
    pub terminal: bool,
    /// GPUs, and other devices.
    #[serde(default)]
    pub devices: DeviceRequest,
    /// Keep seccomp under gVisor too.
    pub oci_seccomp: bool,
    /// Cgroup below which the container's own is made; with systemd, a slice.
    pub cgroup_parent: Option<String>,
    /// Who makes it: `cgroupfs` or `systemd`; cgroupfs without it.
    #[serde(default)]
    pub cgroup_manager: Option<String>,
    /// End the container after this time, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// End it this time after it was made, in milliseconds, however often it is started again.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// End it when nobody has had to do with it for this time, in milliseconds.
    #[serde(default)]
    pub idle_ms: Option<u64>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
    /// Time between that signal and SIGKILL, in milliseconds.
    pub grace_ms: Option<u64>,
    /// Forget the container once its end has been reported.
    pub remove: bool,
    /// How long its report is kept then, in milliseconds; ten minutes without it.
    #[serde(default)]
    pub keep_report_ms: Option<u64>,
    /// Start it again after its end: `no`, `on-failure[:TIMES]`, `always`, `unless-stopped`. In the background only.
    #[serde(default)]
    pub restart: Option<String>,
    /// Ask it whether it is well.
    #[serde(default)]
    pub health: Option<HealthRequest>,
    /// Do not ask it as its image says.
    #[serde(default)]
    pub no_healthcheck: bool,
    /// How its output is kept; `None` is not at all. What a caller takes by a descriptor is not kept in any case.
    #[serde(default)]
    pub log: Option<LogRequest>,
}

/// How a caller wants a container's output to be kept, in docker's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// `cri`, `json-file`, `journald` or `none`.
    pub driver: String,
    /// `max-size`, `max-file`, `on-full`; of journald, `journal-namespace`.
    pub options: BTreeMap<String, String>,
}

impl LaunchRequest {
    /// A request for a container from `source` that asks for nothing special.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            name: None,
            args: vec![],
            entrypoint: None,
            env: vec![],
            cwd: None,
            user: None,
            hostname: None,
            mounts: vec![],
            mount_options: vec![],
            tmpfs: vec![],
            shm_size: None,
            storage_opt: vec![],
            limits: LimitRequest::default(),
            resources: ResourceRequest::default(),
            network: None,
            publish: vec![],
            publish_all: false,
            names: NamesRequest::default(),
            egress: None,
            read_only: false,
            cap_add: vec![],
            cap_drop: vec![],
            ulimits: vec![],
            labels: BTreeMap::new(),
            init: false,
            terminal: false,
            devices: DeviceRequest::default(),
            oci_seccomp: false,
            cgroup_parent: None,
            cgroup_manager: None,
            timeout_ms: None,
            ttl_ms: None,
            idle_ms: None,
            stop_signal: None,
            grace_ms: None,
            remove: false,
            keep_report_ms: None,
            restart: None,
            health: None,
            no_healthcheck: false,
            log: None,
        }
    }
}

/// A checked request: each value has its type, and none can be wrong by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    /// The container's id, made here.
    pub id: ContainerId,
    /// Where it comes from.
    pub source: Source,
    /// Its name.
    pub name: Option<ContainerName>,
    /// The command; empty for a bundle's own.
    pub args: Vec<String>,
    /// Environment entries.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// The user.
    pub user: Option<UserSpec>,
    /// Host name.
    pub hostname: Option<String>,
    /// Mounts to add, parents before what is mounted below them.
    pub mounts: Vec<MountRequest>,
    /// Size of /dev/shm, in bytes.
    pub shm_bytes: Option<u64>,
    /// How much it may write to its root filesystem, in bytes.
    pub storage_bytes: Option<u64>,
    /// Limits that can be changed later.
    pub limits: Limits,
    /// Further ones, and how they are enforced.
    pub resources: Resources,
    /// Network; `None` leaves it to the bundle, and means none without a bundle.
    pub network: Option<NetworkMode>,
    /// Ports to publish.
    pub publish: Vec<PortRequest>,
    /// What it asks about names.
    pub names: NameRequest,
    /// What it may reach, in its canonical form.
    pub egress: Option<String>,
    /// Read-only root.
    pub read_only: bool,
    /// Capabilities to add, by full name.
    pub cap_add: Vec<String>,
    /// Capabilities to take, by full name.
    pub cap_drop: Vec<String>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// An init before the command.
    pub init: bool,
    /// A terminal.
    pub terminal: bool,
    /// GPUs, and other devices.
    pub devices: DevicePlan,
    /// Keep seccomp under gVisor.
    pub oci_seccomp: bool,
    /// Parent cgroup.
    pub cgroup_parent: Option<String>,
    /// Who makes its cgroup.
    pub cgroup_manager: CgroupManager,
    /// When and how it is stopped.
    pub stopping: Stopping,
    /// Forget it after its end.
    pub remove: bool,
    /// How long its report is kept then.
    pub keep_report: Duration,
    /// Whether it is started again.
    pub restart: RestartPolicy,
    /// How it is asked whether it is well.
    pub health: Option<HealthCheck>,
    /// How its output is kept.
    pub log: Option<LogConfig>,
    /// Which journald gets it instead.
    pub journald: Option<JournaldConfig>,
}

/// When and how a container is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// The signal that asks it to.
    pub signal: Signal,
    /// Time between that signal and SIGKILL.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub grace: Duration,
    /// Time after which it is stopped by itself.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub timeout: Option<Duration>,
    /// Time after which it is, however often it was started again in it.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub ttl: Option<Duration>,
    /// Time after which it is, when in all of it nobody has had to do with it.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub idle: Option<Duration>,
}

/// The streams of a container in the background. Output is appended to a file; without one it goes into the log, or is
/// counted only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioFiles {
    /// Standard input; empty without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<PathBuf>,
    /// Take standard input from whoever attaches, instead.
    #[serde(default)]
    pub interactive: bool,
    /// Standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<PathBuf>,
    /// Standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<PathBuf>,
}

/// A request that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Refused {
    /// The field, as the user knows it.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl Refused {
    pub(crate) fn new(field: &str, why: impl Into<String>) -> Self {
        Self { field: field.to_owned(), why: why.into() }
    }
}

impl Diagnose for Refused {
    fn code(&self) -> Code {
        Code::InvalidValue
    }

    fn next_step(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
