//! The end of a container: evidence first, then the report, then clean-up in the reverse order of making.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::leftovers::{Marks, end_everything};
use super::target::OwnedTarget;
use crate::cgroup::kernel_log::{Verdict, killed_for_memory};
use crate::cgroup::{
    CgroupPath, ControllerDirectory, MemoryCounters, OomScope, Usage, find_scope, remove_leftovers, stats,
};
use crate::error::{Code, Failure};
use crate::exit::{Death, Evidence, ExitReport, NotInLog, format_duration};
use crate::fault;
use crate::host::HostFacts;
use crate::id::ContainerId;
use crate::network::Connection;
use crate::process::Reaper;
use crate::rootfs::{OverlayError, overlay};
use crate::runtime::{Clearing, Runtime, RuntimeConfig, RuntimeError};
use crate::state::{ContainerDir, ProcessId, Record, StateDir};
use crate::volume::remove_volumes;

/// How long the sandbox's helpers may take to end after it. They lose their connection to it at once.
const HELPERS_LIMIT: Duration = Duration::from_secs(5);

/// How long a runtime may take to delete a container, its second try with force included: it takes a tenth of a second.
const DELETE_LIMIT: Duration = Duration::from_secs(10);

/// How long systemd may take to take a scope away in which nothing lives: it takes some milliseconds.
const SCOPE_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const SCOPE_PAUSE: Duration = Duration::from_millis(5);

/// What is to be taken away of a container, whoever takes it away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remains<'a> {
    pub(crate) host: &'a HostFacts,
    /// `None` where its binary cannot be used any more.
    pub(crate) runtime: Option<&'a dyn Runtime>,
    /// The runtime's state root.
    pub(crate) root: &'a Path,
    /// The name of its binary.
    pub(crate) program: &'a OsStr,
    pub(crate) container: &'a ContainerDir,
    pub(crate) target: &'a OwnedTarget,
    pub(crate) cgroup: Option<&'a CgroupPath>,
    /// What of the limit of memory is for the sandbox itself.
    pub(crate) headroom_bytes: u64,
    /// What it may have of a network.
    pub(crate) connection: Option<&'a Connection>,
}

impl<'a> Remains<'a> {
    /// What a container has by its record.
    pub(crate) fn of(
        record: &'a Record,
        container: &'a ContainerDir,
        target: &'a OwnedTarget,
        runtime: Option<&'a dyn Runtime>,
        host: &'a HostFacts,
    ) -> Self {
        let RuntimeConfig { root, binary, .. } = &record.runtime;
        let program = binary.file_name().unwrap_or_default();
        let (cgroup, headroom_bytes) = (record.cgroup.as_ref(), record.memory_headroom_bytes);
        let connection = record.connection.as_deref();
        Self { host, runtime, root, program, container, target, cgroup, headroom_bytes, connection }
    }

    fn marks(&self, with_strays: bool) -> Marks<'_> {
        Marks {
            id: &self.container.id,
            root: self.root,
            program: self.program,
            cgroups: &self.host.cgroups,
            cgroup: self.cgroup,
            with_strays,
        }
    }

    /// Kills what still lives of the container. In its supervisor, stray children are the container's too.
    pub(crate) async fn end_processes(&self, with_strays: bool, errors: &mut Vec<Failure>) {
        if let Err(error) = end_everything(self.marks(with_strays)).await {
            errors.push(failure("processes of the container are left", &error));
        }
    }

    /// Waits until every stray child of this supervisor is reaped, and ends those that stay: an unreaped zombie makes
    /// `runsc delete` fail after its own deadline and leave the cgroup.
    pub(crate) async fn end_children(&self, reaper: &Reaper, errors: &mut Vec<Failure>) {
        if tokio::time::timeout(HELPERS_LIMIT, reaper.no_strays()).await.is_ok() {
            return;
        }
        self.end_processes(true, errors).await;
        if tokio::time::timeout(HELPERS_LIMIT, reaper.no_strays()).await.is_err() {
            let strays = reaper.strays();
            errors.push(Failure {
                code: Code::Internal,
                what: format!("children {strays:?} of the supervisor did not end"),
                why: vec![],
                next: None,
            });
        }
    }

    /// Where the container's memory is counted, and limited.
    pub(super) fn memory_directory(&self) -> Option<ControllerDirectory> {
        self.host.cgroups.directory_of(self.cgroup?, "memory")
    }

    /// Reads the counters that the death is judged by, before anything is removed.
    pub(crate) fn read_counters(&self) -> Counters {
        let mut memory = self.memory_directory().and_then(|directory| directory.read_memory());
        let (mut scope, mut kernel_line) = (None, None);
        let is_gone = memory.is_none() && self.cgroup.is_some_and(CgroupPath::is_scope);
        if let Some(cgroup) = self.cgroup
            && (is_gone || memory.as_ref().is_some_and(|memory| memory.oom_kill > 0))
        {
            (scope, kernel_line) = find_scope(&self.host.cgroups, cgroup);
        }
        if let Some(memory) = &mut memory {
            (memory.scope, memory.headroom_bytes) = (scope.clone(), self.headroom_bytes);
        }
        let usage = Usage {
            cpu_us: self.cgroup.and_then(|path| stats::cpu_usage_us(&self.host.cgroups, path)),
            memory_peak_bytes: memory.as_ref().and_then(|counters| counters.peak_bytes),
        };
        Counters { usage, memory, scope, kernel_line }
    }
}

/// What the cgroup counted up to the end.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) memory: Option<MemoryCounters>,
    pub(crate) usage: Usage,
    /// Whose lack of memory the last out-of-memory kill was.
    pub(crate) scope: Option<OomScope>,
    /// The kernel's line on what led to the last out-of-memory kill, where its log has one.
    pub(crate) kernel_line: Option<String>,
}

/// Puts the counters to what was seen of a death, and asks the kernel's log where they leave a question.
pub(crate) fn complete(death: &mut Death, counters: &Counters, process: Option<&ProcessId>) {
    death.memory.clone_from(&counters.memory);
    death.kernel_line.clone_from(&counters.kernel_line);
    // Of a sandbox, any process will do: it does not live on without one of them.
    if let Some(process) = process.filter(|_| death.may_be_oom_kill() && !death.sandboxed) {
        death.oom_line = match killed_for_memory(process.pid, process.began_us()) {
            Verdict::Killed(line) => Some(Ok(line)),
            Verdict::NotKilled => Some(Err(NotInLog)),
            Verdict::Unknown => None,
        };
    }
}

/// Takes away what the runtime and we have made, but the container's folder and its name. Goes on after an error.
/// Without a runtime to call, all is taken away that carries the container's id.
pub(crate) async fn clear_away(remains: Remains<'_>, clearing: Clearing, errors: &mut Vec<Failure>) {
    if clearing == Clearing::ByRuntime {
        delete_within_limit(remains, errors).await;
    }
    let_scope_go(remains).await;
    let mut left = remove_directories(remains);
    if left.is_err() && clearing == Clearing::ByUs {
        delete_within_limit(remains, errors).await;
        left = remove_directories(remains);
    }
    if let Err(error) = left {
        errors.push(failure("something of the container is left", &error));
    }
    if let Some(connection) = remains.connection
        && let Err(error) = Box::pin(connection.end(&remains.container.id)).await
    {
        errors.push(Failure::of(&error));
    }
    for file in [remains.container.console_socket(), remains.container.pid_file()] {
        // They may never have been made.
        let _ = std::fs::remove_file(file);
    }
    errors.extend(fault::reached("end.cleared").err().map(Failure::from));
}

/// Waits until systemd has taken a scope away. To take the directory away before it keeps the unit for ever: systemd
/// misses the notice that it is empty then (measured: in 4 of 6 cases and more).
async fn let_scope_go(remains: Remains<'_>) {
    let Some(scope) = remains.cgroup.filter(|path| path.is_scope()) else { return };
    let deadline = Instant::now() + SCOPE_LIMIT;
    let is_there = || remains.host.cgroups.directories_of(scope).iter().any(|directory| directory.exists());
    while is_there() && Instant::now() < deadline {
        tokio::time::sleep(SCOPE_PAUSE).await;
    }
}

/// A runtime that hangs must not hold up whoever only wants to see the end of its container.
async fn delete_within_limit(remains: Remains<'_>, errors: &mut Vec<Failure>) {
    if tokio::time::timeout(DELETE_LIMIT, delete_by_runtime(remains, errors)).await.is_err() {
        errors.push(Failure {
            code: Code::RuntimeTimedOut,
            what: format!("the runtime did not delete it within {}", format_duration(DELETE_LIMIT)),
            why: vec![],
            next: Some(
                "see why the runtime hangs; what carries the container's id was removed without it".into(),
            ),
        });
    }
}

async fn delete_by_runtime(remains: Remains<'_>, errors: &mut Vec<Failure>) {
    let (Some(runtime), target) = (remains.runtime, remains.target.target()) else { return };
    let Err(first) = runtime.delete(target, false).await else { return };
    tracing::debug!(error = %first, "delete failed; trying with force");
    if let Err(error) = runtime.delete(target, true).await
        && !matches!(runtime.state(target).await, Err(RuntimeError::NoContainer(_)))
    {
        let mut failure = Failure::of(&error);
        failure.why.push(format!("without force: {}", Failure::of(&first)));
        errors.push(failure);
    }
}

fn remove_directories(remains: Remains<'_>) -> io::Result<()> {
    let cgroups = remains.cgroup.map_or(Ok(()), |path| remove_leftovers(&remains.host.cgroups, path));
    let state = remove_state_leftovers(remains.root, &remains.container.id);
    cgroups.and(state)
}

/// Removes what a runtime whose call was cut short leaves in its state root (locks and sockets of runsc): the root is
/// ours alone, and the whole id is in the name of each.
///
/// # Errors
/// The last entry that could not be removed; the others are still tried.
pub(crate) fn remove_state_leftovers(root: &Path, id: &ContainerId) -> io::Result<()> {
    let mut result = Ok(());
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().contains(id.as_str()) {
            continue;
        }
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        let removed = if is_directory { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
            _ => {}
        }
    }
    result
}

/// Gives the GPUs of a container back that has ended and been cleared away. One that stays is free all the same.
pub(crate) fn release_gpus(state: &StateDir, record: &Record) {
    if !record.gpus.is_empty()
        && record.cleared
        && let Err(error) = state.release_gpus(&record.id)
    {
        tracing::warn!(error = %Failure::of(&error), "the lease of a GPU is left");
    }
}

/// Takes the root filesystem away that a container of an image has of its own.
pub(crate) fn discard_rootfs(record: &Record) -> Result<(), OverlayError> {
    record.source.rootfs_dir().map_or(Ok(()), |rootfs_dir| overlay::discard(rootfs_dir, &record.id))
}

/// Takes the folder and the name away: the container is forgotten. Its report is kept for a while, if there is one.
pub(crate) fn forget(
    state: &StateDir,
    container: &ContainerDir,
    record: &Record,
    report: Option<&ExitReport>,
    errors: &mut Vec<Failure>,
) {
    if let Some(report) = report.filter(|_| record.remove && !record.keep_report.is_zero())
        && let Err(error) = state.keep_report(report, record.keep_report)
    {
        // Whoever waits has it all the same.
        tracing::warn!(error = %Failure::of(&error), "the report could not be kept");
    }
    if let Some(name) = &record.name
        && let Err(error) = state.release_name(name, &container.id)
    {
        errors.push(Failure::of(&error));
    }
    state.remove_sessions_of(&container.id);
    if let Err(error) = discard_rootfs(record) {
        errors.push(Failure::of(&error));
    }
    if let Err(error) = remove_volumes(container, record) {
        errors.push(Failure::of(&error));
    }
    if let Err(error) = state.remove_container(container) {
        errors.push(Failure::of(&error));
    } else if !record.gpus.is_empty()
        && let Err(error) = state.release_gpus(&container.id)
    {
        errors.push(Failure::of(&error));
    }
}

/// The runtime's last error, as evidence.
pub(crate) fn runtime_words(container: &ContainerDir) -> Option<Evidence> {
    let line = crate::runtime::read_last_error(&container.runtime_log(), 0)?;
    Some(Evidence::RuntimeSaid { line })
}

fn failure(what: &str, error: &std::io::Error) -> Failure {
    Failure { code: Code::Internal, what: what.to_owned(), why: vec![error.to_string()], next: None }
}
