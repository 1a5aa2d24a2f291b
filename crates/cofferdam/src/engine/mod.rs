//! Containers that exist already, whoever made them: finding, asking, ending and forgetting them.
//!
//! A container is asked through its supervisor. Where the supervisor has died, the engine takes over: it repairs the
//! record, or ends the container and says what can still be known (`orphan`).
//! Not here: making containers (`launch`), and containers that are not ours (`inventory` only lists them).

mod attach;
mod events;
mod exec;
mod files;
mod gc;
mod handover;
mod inventory;
mod logs;
mod monitor;
mod orphan;
mod pools;
mod probe;
mod remove;
mod roots;
mod sessions;
mod stats;
mod verbs;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;

pub use events::{EventStream, EventsFrom};
pub use exec::{ExecEnd, ExecError, ExecRequest, RunningExec};
pub use files::Written;
pub use gc::{Leftover, LeftoverKind};
pub use inventory::{Listing, ListingWarning, Row};
pub use logs::ContainerLog;
pub use monitor::{DetachRequest, MonitorError, MonitorProgram, MonitorReply, serve_monitor};
pub use probe::{Found, RuntimeProbe};
pub use remove::RemoveOutcome;
pub use sessions::SessionView;
pub use verbs::Thaw;

use crate::error::{Code, Diagnose, Failure};
use crate::exit::ExitReport;
use crate::gpu::DeviceRequest;
use crate::host::HostFacts;
use crate::id::ContainerId;
use crate::launch::{LaunchError, Launcher, network_dir_of};
use crate::lifecycle::{Status, WrongState};
use crate::runtime::{self, Runtime, RuntimeConfig, RuntimeError};
use crate::state::{ContainerDir, Record, StateDir, StateError, lock_is_free};
use crate::volume::{DEFAULT_DATA_DIR, VolumeError, VolumeStore};

/// The containers of one state directory.
#[derive(Debug, Clone)]
pub struct Engine {
    state: StateDir,
    host: Arc<HostFacts>,
    /// Where images, volumes and root filesystems are kept.
    data_dir: PathBuf,
    monitor: Option<Arc<MonitorProgram>>,
    /// The soft limit of descriptors that its monitors are to have; `None` for this process's own.
    descriptors: Option<u64>,
}

/// What is true of a container now.
#[derive(Debug, Clone)]
pub struct View {
    /// Its folder.
    pub container: ContainerDir,
    /// What is written down of it.
    pub record: Record,
    /// Whether its supervisor lives.
    pub supervised: bool,
    /// How it ended, if it has.
    pub report: Option<ExitReport>,
}

/// A request about a container that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The state directory, or the container's record, cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The container's state does not allow it.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The supervisor refused.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The supervisor holds the container's lock and does not answer.
    #[error("the supervisor of {container} does not answer")]
    Unreachable {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: Option<io::Error>,
    },
    /// The container did not end in time.
    #[error("{container} is still there after {}", crate::exit::format_duration(*.limit))]
    StillRunning {
        /// The container.
        container: String,
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// Its output is not kept.
    #[error("the output of {0} is not kept")]
    NoLog(String),
    /// Its output is in journald.
    #[error("the output of {container} is in journald")]
    InJournald {
        /// The container.
        container: String,
        /// Its id.
        id: ContainerId,
        /// The namespace of that journald.
        namespace: Option<String>,
    },
    /// Something of a container that has ended is still there.
    #[error("something of {container} could not be taken away")]
    Leftover {
        /// The container.
        container: String,
        /// The first of what went wrong.
        #[source]
        failure: Failure,
    },
    /// A volume of the container could not be removed with it.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The kernel refused something.
    #[error("{what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for EngineError {
    fn code(&self) -> Code {
        match self {
            Self::State(error) => error.code(),
            Self::WrongState(error) => error.code(),
            Self::Runtime(error) => error.code(),
            Self::Refused(failure) => failure.code,
            Self::Unreachable { .. } => Code::SupervisorUnreachable,
            Self::StillRunning { .. } => Code::StillRunning,
            Self::NoLog(_) | Self::InJournald { .. } => Code::NoLog,
            Self::Leftover { .. } => Code::CleanupFailed,
            Self::Volume(error) => error.code(),
            Self::Kernel { .. } => Code::Internal,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::State(error) => error.next_step(),
            Self::WrongState(error) => error.next_step(),
            Self::Runtime(error) => error.next_step(),
            Self::Refused(failure) => failure.next.clone(),
            Self::Unreachable { container, .. } => Some(format!(
                "`cofferdam inspect {container}` names its process, which may be stopped; \
                 `cofferdam rm --force {container}` ends both"
            )),
            Self::StillRunning { .. } => Some("give it longer, or end it with SIGKILL".into()),
            Self::InJournald { id, namespace, .. } => {
                let namespace = namespace.iter().map(|name| format!(" --namespace={name}")).collect::<String>();
                Some(format!("`journalctl{namespace} CONTAINER_ID_FULL={id}` prints it"))
            }
            Self::NoLog(_) => Some(
                "a container in the background keeps it, unless --log-driver is none or its streams go to files".into(),
            ),
            Self::Leftover { container, .. } => Some(format!(
                "mend that and try again, or forget it all the same: `cofferdam rm --force {container}`"
            )),
            Self::Volume(error) => error.next_step(),
            Self::Kernel { .. } => None,
        }
    }
}

impl View {
    /// The state that the container is in.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.report.is_some() { Status::Stopped } else { self.record.status }
    }

    /// What the user calls it: its name, or the short id.
    #[must_use]
    pub fn title(&self) -> String {
        self.record.title()
    }
}

impl Engine {
    /// The engine of a state directory, which is made where it is missing, with the default data directory.
    ///
    /// # Errors
    /// [`StateError::Unusable`].
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        Ok(Self {
            state: StateDir::open(state_dir)?,
            host: Arc::new(HostFacts::probe()),
            data_dir: PathBuf::from(DEFAULT_DATA_DIR),
            monitor: None,
            descriptors: None,
        })
    }

    /// Keeps images, volumes and root filesystems in this directory, which is made when it is needed.
    #[must_use]
    pub fn with_data_dir(self, data_dir: PathBuf) -> Self {
        Self { data_dir, ..self }
    }

    /// Where images, volumes and root filesystems are kept.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where the root filesystems are that containers of images have of their own.
    #[must_use]
    pub fn rootfs_dir(&self) -> PathBuf {
        self.data_dir.join("rootfs")
    }

    /// Where the attachments of this state directory's containers to networks are written down.
    #[must_use]
    pub fn network_dir(&self) -> PathBuf {
        network_dir_of(&self.data_dir, self.state.path())
    }

    /// The volumes.
    #[must_use]
    pub fn volumes(&self) -> VolumeStore {
        VolumeStore::of(&self.data_dir)
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// The facts of this host.
    #[must_use]
    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    /// A launcher for one runtime.
    ///
    /// # Errors
    /// [`LaunchError::Runtime`] when its binary cannot be used.
    pub async fn launcher(&self, config: RuntimeConfig) -> Result<Launcher, LaunchError> {
        let launcher = Launcher::open(self.state.clone(), Arc::clone(&self.host), config).await?;
        Ok(launcher.with_data_dir(&self.data_dir))
    }

    /// Closes the records of containers that have GPUs, and have ended since their supervisors died, for a request that
    /// may want them.
    ///
    /// # Errors
    /// [`StateError::File`] when the state directory cannot be read.
    pub async fn settle_gpus(&self, wanted: &DeviceRequest) -> Result<(), StateError> {
        if !wanted.is_empty() && !self.state.gpu_leases()?.is_empty() {
            // What cannot be closed keeps its GPUs.
            drop(self.containers().await?);
        }
        Ok(())
    }

    /// Finds a container by id, name or the beginning of its id, and what is true of it now. Repairs what a dead
    /// supervisor has left.
    ///
    /// # Errors
    /// [`EngineError::State`] when there is none, or its record cannot be read.
    pub async fn find(&self, text: &str) -> Result<View, EngineError> {
        let container = self.state.find(text)?;
        self.view(container).await?.ok_or_else(|| StateError::NoSuchContainer(text.to_owned()).into())
    }

    /// All containers of this state directory, oldest first, and what could not be read of others.
    ///
    /// # Errors
    /// [`StateError::File`] when the directory cannot be read.
    pub async fn containers(&self) -> Result<(Vec<View>, Vec<(ContainerDir, EngineError)>), StateError> {
        self.state.sweep_trash();
        self.sweep_stale_locks();
        let (mut views, mut broken) = (Vec::new(), Vec::new());
        // Side by side: one whose record has to be closed with a slow runtime does not hold the others up.
        let mut looks = JoinSet::new();
        for container in self.state.containers()? {
            let engine = self.clone();
            looks.spawn(async move {
                let view = engine.view(container.clone()).await;
                (container, view)
            });
        }
        for (container, view) in looks.join_all().await {
            match view {
                Ok(Some(view)) => views.push(view),
                Ok(None) => {}
                Err(error) => broken.push((container, error)),
            }
        }
        views.sort_by(|a, b| (a.record.created, &a.container.id).cmp(&(b.record.created, &b.container.id)));
        Ok((views, broken))
    }

    /// What is true of a container; `None` when it is only being made, or gone meanwhile.
    async fn view(&self, container: ContainerDir) -> Result<Option<View>, EngineError> {
        // The lock before the record: a supervisor writes the report before it lets go.
        let free =
            lock_is_free(&container).map_err(|source| EngineError::Kernel { what: "the lock", source })?;
        let record = container.read_record()?;
        let report = container.read_report()?;
        match (record, report) {
            // Its supervisor died between the report and the end of its clean-up.
            (Some(record), Some(report)) if free && record.status != Status::Stopped => {
                self.finish_clearing(container, record, report).await.map(Some)
            }
            (Some(record), report @ Some(_)) => {
                Ok(Some(View { container, record, supervised: !free, report }))
            }
            (Some(record), None) if !free => {
                Ok(Some(View { container, record, supervised: true, report: None }))
            }
            (Some(record), None) => self.repair(container, record).await,
            (None, _) if free => {
                self.sweep_unrecorded(&container);
                Ok(None)
            }
            (None, _) => Ok(None),
        }
    }

    async fn runtime_of(&self, record: &Record) -> Result<Arc<dyn Runtime>, RuntimeError> {
        runtime::open(record.runtime.clone(), &self.state.cache()).await
    }
}
