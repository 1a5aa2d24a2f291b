//! From a request to a supervised container: the one place where the steps are put together.
//!
//! ```text
//! LaunchRequest ── validate ──> ContainerPlan ── look, prepare ──> Prepared ── reserve, supervise ──> Container
//! ```
//!
//! Invariant: each step takes the value of the one before it. Until [`Launcher::run`] nothing has been changed on the
//! machine; when it fails or its future is dropped, everything that it had made is unmade in reverse order.
//!
//! # In a program of your own
//! A process that supervises a container is its subreaper and reaps all its own children, so it must not wait for
//! children by other means. A child that it starts by other means while it supervises is taken for the container's and
//! ended with it; those that it had before are let be. Before each program that the library starts, every descriptor
//! of the process but the standard streams is marked close-on-exec.
//! One container at a time is supervised in a process; a second is refused ([`LaunchError::AlreadySupervising`]). Start
//! a monitor ([`crate::engine::Engine::detach`]) for each container where that does not suit.

mod devices;
mod error;
mod mounts;
mod network;
mod reserve;
mod source;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use error::LaunchError;
pub(crate) use network::directory_of as network_dir_of;
use source::open_source;

use crate::error::{Code, Failure};
use crate::exit::ExitReport;
use crate::gpu::Granted;
use crate::host::HostFacts;
use crate::id::ContainerId;
use crate::keeper::{Charge, KeeperProgram, Keeping, Kept};
use crate::network::{NameFiles, check_namespace};
use crate::process::{Reaper, Seat};
use crate::request::{
    ContainerPlan, LaunchRequest, NetworkMode, Refused, RestartPolicy, Source, StdioFiles, validate,
};
use crate::rootfs::{self, Rootfs};
use crate::runtime::{self, Runtime, RuntimeConfig};
use crate::spec::{self, Ingredients, PreparedSpec};
use crate::state::{ContainerDir, ContainerLock, Record, StateDir, check_root};
use crate::supervise::control::{Answer, Command, Request};
use crate::supervise::stdio::StdioPlan;
use crate::supervise::{Launching, Mode, Started, Supervisor, supervision};
use crate::volume::{DEFAULT_DATA_DIR, VolumeStore};

/// How many names are tried for a container that is not given one: of a hundred thousand, few are taken.
const NAME_ATTEMPTS: usize = 10;
/// Requests that may wait for a supervisor at once.
const COMMAND_QUEUE: usize = 64;

/// Launches containers with one runtime.
#[derive(Debug, Clone)]
pub struct Launcher {
    state: StateDir,
    host: Arc<HostFacts>,
    runtime: Arc<dyn Runtime>,
    volumes: VolumeStore,
    /// Where attachments to networks are written down.
    network_dir: PathBuf,
    background: Option<Background>,
}

/// What there is for a container in the background.
#[derive(Debug, Clone)]
struct Background {
    streams: StdioFiles,
    keeper: KeeperProgram,
}

/// A container that could be started: everything has been checked, and nothing has been made.
#[derive(Debug)]
pub struct Prepared {
    /// What was asked for.
    pub plan: ContainerPlan,
    /// The specification, with its edits and warnings.
    pub spec: PreparedSpec,
    /// The root filesystem.
    pub rootfs: PathBuf,
    /// The devices that it is given. Of GPUs, these or others like them: they are taken when it is made.
    pub granted: Granted,
}

/// A container that this process supervises. Dropping the handle changes nothing: it is supervised to its end as long
/// as the process and its event loop live.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// What there was when it had been made.
    pub started: Started,
    commands: mpsc::Sender<Command>,
    supervisor: JoinHandle<Option<ExitReport>>,
}

impl Launcher {
    /// A launcher for one runtime, with the default data directory. The runtime's binary is probed if that has not been
    /// done yet.
    ///
    /// # Errors
    /// [`LaunchError::Runtime`] when the binary cannot be used.
    pub async fn open(
        state: StateDir,
        host: Arc<HostFacts>,
        config: RuntimeConfig,
    ) -> Result<Self, LaunchError> {
        check_root(&config.root)?;
        let runtime = runtime::open(config, &state.cache()).await?;
        let launcher = Self {
            volumes: VolumeStore::of(Path::new("")),
            network_dir: PathBuf::new(),
            state,
            host,
            runtime,
            background: None,
        };
        Ok(launcher.with_data_dir(Path::new(DEFAULT_DATA_DIR)))
    }

    /// Keeps elsewhere what outlasts a reboot.
    #[must_use]
    pub fn with_data_dir(self, data_dir: &Path) -> Self {
        let network_dir = network_dir_of(data_dir, self.state.path());
        Self { volumes: VolumeStore::of(data_dir), network_dir, ..self }
    }

    /// For a process that nobody waits for: the report of a container is written down however long that takes, and its
    /// streams outlast the process.
    pub(crate) fn in_background(self, streams: StdioFiles, keeper: KeeperProgram) -> Self {
        Self { background: Some(Background { streams, keeper }), ..self }
    }

    /// The runtime.
    #[must_use]
    pub fn runtime(&self) -> &dyn Runtime {
        self.runtime.as_ref()
    }

    /// Checks a request against everything that can be known before a container is made. Changes nothing.
    ///
    /// Blocks the thread: for reading some files, and where GPUs are asked for, up to 5 seconds for a container that is
    /// being cleared away, and up to 20 for NVML where a GPU was not used yet.
    ///
    /// # Errors
    /// [`LaunchError`] says what cannot be.
    pub fn prepare(&self, request: LaunchRequest) -> Result<Prepared, LaunchError> {
        if self.host.uid != 0 {
            return Err(LaunchError::NotRoot(self.host.uid));
        }
        self.prepare_plan(validate(request)?)
    }

    fn prepare_plan(&self, mut plan: ContainerPlan) -> Result<Prepared, LaunchError> {
        self.find_network(&mut plan)?;
        let (bundle, rootfs) = open_source(&plan.source, &plan.id)?;
        let user = plan.user.as_ref().map(|user| rootfs::resolve_user(&rootfs, user)).transpose()?;
        let init = plan.init.then(spec::init::find).transpose()?;
        let rates = spec::resolve_rates(&plan.resources.device_rates)?;
        let config = bundle.as_ref().map(|(_, config)| config);
        let granted = self.look_for_devices(&plan.devices, config)?;
        let names: Vec<_> = self.name_files(&plan).iter().flat_map(NameFiles::mounts).collect();
        // What is written to a directory of the user's is his own affair; an image's container is copied from and committed.
        let is_of_image = matches!(plan.source, Source::Image(_));
        let is_hidden = self.runtime.is_sandbox() && is_of_image && rootfs.has_directory("tmp");
        let own_tmp = is_hidden.then(|| rootfs.path().join("tmp"));
        let mut spec = spec::prepare(Ingredients {
            plan: &plan,
            bundle: bundle.as_ref().map(|(path, config)| (path.as_path(), config)),
            rootfs: rootfs.path(),
            volumes: self.volumes.path(),
            own_tmp: own_tmp.as_deref(),
            user: user.as_ref(),
            init: init.as_deref(),
            rates: &rates,
            granted: &granted,
            names: &names,
            host: &self.host,
            runtime: self.runtime.as_ref(),
        })?;
        self.check_probe(&plan, &spec.network)?;
        self.check_surroundings(&rootfs, &plan, &spec, &names)?;
        if self.runtime.is_sandbox() {
            devices::check_nodes(&spec.value)?;
        } else {
            mounts::warn_of_writable(&plan, &mut spec);
        }
        Ok(Prepared { rootfs: rootfs.path().to_owned(), plan, spec, granted })
    }

    /// gVisor's loopback is inside of the sandbox, unless it has the host's network.
    fn check_probe(&self, plan: &ContainerPlan, network: &NetworkMode) -> Result<(), Refused> {
        let Some(address) = plan.health.as_ref().and_then(|check| check.probe.address()) else {
            return Ok(());
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if is_loopback && self.runtime.is_sandbox() && *network != NetworkMode::Host {
            let why =
                format!("{host} is inside of the sandbox, where only a command comes: use --health-cmd");
            return Err(Refused::new("--health-http, --health-tcp", why));
        }
        Ok(())
    }

    fn check_surroundings(
        &self,
        rootfs: &Rootfs,
        plan: &ContainerPlan,
        spec: &PreparedSpec,
        names: &[(PathBuf, &'static str)],
    ) -> Result<(), LaunchError> {
        mounts::check_sources(plan, spec, (rootfs.path(), self.volumes.path()), names)?;
        if let NetworkMode::Namespace { path } = &spec.network {
            check_namespace(path)?;
        }
        let covered: Vec<PathBuf> = spec.view().mount_destinations().collect();
        rootfs::check_accounts(rootfs, &covered)?;
        Ok(rootfs::check_process(rootfs, spec.view(), &self.host)?)
    }

    /// Makes a container, starts it, and supervises it in this process.
    ///
    /// When `cancel` resolves first, everything is unmade before this returns; [`std::future::pending`] never does.
    ///
    /// Cancel safe: when the future is dropped before it resolves, everything is unmade by the supervisor's task.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind.
    pub async fn run(
        &self,
        prepared: Prepared,
        stdio: StdioPlan,
        cancel: impl Future<Output = ()>,
    ) -> Result<Container, LaunchError> {
        self.launch(prepared, stdio, Mode::Run, cancel).await
    }

    /// Makes a container whose process waits for [`Request::Start`], and supervises it in this process. Otherwise like
    /// [`Launcher::run`].
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind.
    pub async fn create(
        &self,
        prepared: Prepared,
        stdio: StdioPlan,
        cancel: impl Future<Output = ()>,
    ) -> Result<Container, LaunchError> {
        self.launch(prepared, stdio, Mode::Create, cancel).await
    }

    async fn launch(
        &self,
        prepared: Prepared,
        stdio: StdioPlan,
        mode: Mode,
        cancel: impl Future<Output = ()>,
    ) -> Result<Container, LaunchError> {
        if prepared.plan.restart != RestartPolicy::No && self.background.is_none() {
            return Err(Refused::new("--restart", "it is for a container in the background").into());
        }
        let seat = take_seat()?;
        tokio::pin!(cancel);
        let mounts = prepared.plan.mounts.clone();
        let reserved = self.reserve(prepared)?;
        let filling = Box::pin(self.furnish(mounts, reserved, cancel.as_mut()));
        let (container, lock, record) = filling.await?;
        let keeping = self.begin_keeping(&container.id);
        let launching = Launching { keeping, ..self.launching(container, lock, record, stdio, mode, seat) };
        let id = launching.container.id.clone();
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let (started_sender, started) = oneshot::channel();
        // Dropped with this future, it cancels the launch; after the launch nobody listens to it.
        let (cancel_sender, cancelled) = oneshot::channel();
        let channel = (commands.clone(), receiver);
        let supervisor = tokio::spawn(Supervisor::supervise(launching, channel, started_sender, cancelled));
        tokio::pin!(started);
        let started = tokio::select! {
            started = &mut started => started,
            () = cancel => {
                drop(cancel_sender);
                started.await
            }
        };
        let started = started.map_err(|_| LaunchError::SupervisorDied)??;
        Ok(Container { id, started, commands, supervisor })
    }

    /// Takes over a container whose supervisor has died, and supervises it in this process.
    ///
    /// # Errors
    /// [`LaunchError`]; the container is left as it is.
    pub(crate) async fn adopt(
        &self,
        container: ContainerDir,
        lock: ContainerLock,
        record: Record,
        stdio: StdioPlan,
        (keeping, kept): (Keeping, Kept),
    ) -> Result<Container, LaunchError> {
        let seat = take_seat()?;
        let id = container.id.clone();
        let launching = self.launching(container, lock, record, stdio, Mode::Run, seat);
        let launching = Launching { keeping, ..launching };
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let (started_sender, started) = oneshot::channel();
        let channel = (commands.clone(), receiver);
        let supervisor = tokio::spawn(Supervisor::adopt(launching, kept, channel, started_sender));
        let started = started.await.map_err(|_| LaunchError::SupervisorDied)??;
        Ok(Container { id, started, commands, supervisor })
    }

    fn launching(
        &self,
        container: ContainerDir,
        lock: ContainerLock,
        record: Record,
        stdio: StdioPlan,
        mode: Mode,
        (reaper, seat): (&'static Reaper, Seat),
    ) -> Launching {
        seat.is_for(&container.id);
        Launching {
            state: self.state.clone(),
            host: Arc::clone(&self.host),
            runtime: Arc::clone(&self.runtime),
            container,
            lock,
            record,
            stdio,
            mode,
            unattended: self.background.is_some(),
            keeping: Keeping::default(),
            reaper,
            seat,
        }
    }

    fn begin_keeping(&self, id: &ContainerId) -> Keeping {
        let begin = |background: &Background| {
            Keeping::begin(self.state.clone(), background.keeper.clone(), Charge::Container(id.clone()))
        };
        self.background.as_ref().map(begin).unwrap_or_default()
    }
}

/// The right to supervise a container in this process.
fn take_seat() -> Result<(&'static Reaper, Seat), LaunchError> {
    let reaper = Reaper::get().map_err(supervision("no child subreaper"))?;
    Ok((reaper, reaper.take_seat().ok_or(LaunchError::AlreadySupervising)?))
}

impl Container {
    /// Asks the supervisor for something. Cancel safe: the request is carried out all the same once it is sent.
    ///
    /// # Errors
    /// The supervisor's refusal, or [`Code::SupervisorUnreachable`] when the container has ended.
    pub async fn ask(&self, request: Request) -> Result<Answer, Failure> {
        ask(&self.commands, request).await
    }

    /// A way to ask that can be handed to other tasks.
    #[must_use]
    pub fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Waits until the container has ended and has been cleared away.
    ///
    /// # Errors
    /// [`LaunchError::SupervisorDied`] when the task panicked; the container's record then tells what is known.
    pub async fn wait(self) -> Result<ExitReport, LaunchError> {
        self.supervisor.await.ok().flatten().ok_or(LaunchError::SupervisorDied)
    }
}

/// Asks a supervisor of this process.
///
/// # Errors
/// The supervisor's refusal, or [`Code::SupervisorUnreachable`] when it has gone.
pub async fn ask(commands: &mpsc::Sender<Command>, request: Request) -> Result<Answer, Failure> {
    let gone = || Failure {
        code: Code::SupervisorUnreachable,
        what: "the container has ended".into(),
        why: vec![],
        next: None,
    };
    let (reply, answer) = oneshot::channel();
    commands.send(Command { request, reply }).await.map_err(|_| gone())?;
    match answer.await.map_err(|_| gone())? {
        Answer::Failed(failure) => Err(failure),
        answer => Ok(answer),
    }
}
