//! The one file that starts foreign programs.
//!
//! Invariant: every program gets a process group of its own, an environment that is listed here, a limit of time, and
//! output that is bounded. Whatever happens to the future, the program's whole group is killed with it.

use std::ffi::OsString;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use super::Reaper;
use super::kin::MARK;
use crate::exit::ProcessEnd;
use crate::fault::passed;
use crate::sys::PidFd;

/// How much of a program's standard output is kept, in bytes: the list of thousands of containers.
const STDOUT_LIMIT_BYTES: usize = 8 << 20;
/// How much of the end of its standard error is kept, in bytes.
const STDERR_LIMIT_BYTES: usize = 16 << 10;
/// How long output is read on after the program's end. A grandchild (a hook's daemon) may hold the pipe for ever.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// A program that is to be run to its end.
#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    /// The binary.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Its standard streams.
    pub(crate) streams: Streams,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// Standard streams of a program.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Nothing to read; output and errors are kept.
    Captured,
    /// The same with something to read, and with another environment than all others have.
    Fed {
        /// What it reads.
        stdin: Vec<u8>,
        /// Its whole environment.
        environment: Vec<(OsString, OsString)>,
        /// How much of its output is kept, in bytes.
        limit: usize,
    },
    /// Streams of the container that it makes: they must not be read to their end to know that the program is done.
    Given {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Completed {
    /// How.
    pub(crate) end: ProcessEnd,
    /// Its standard output, if captured.
    pub(crate) stdout: Vec<u8>,
    /// The end of its standard error, if captured.
    pub(crate) stderr: Vec<u8>,
}

/// A program that could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvokeError {
    /// It could not be started.
    #[error("{} could not be started", .program.display())]
    Spawn {
        /// The binary.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{} did not end within {}", .program.display(), crate::exit::format_duration(*.limit))]
    TimedOut {
        /// The binary.
        program: PathBuf,
        /// How long it was given.
        limit: Duration,
    },
}

/// Kills a program's process group unless it has ended.
struct KillOnDrop {
    reaper: &'static Reaper,
    pid: Option<i32>,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            self.reaper.kill_group(pid);
        }
    }
}

/// Runs a program to its end.
///
/// Not cancel safe in the sense that the work is undone: a dropped future kills the program.
pub(crate) async fn run(invocation: Invocation<'_>) -> Result<Completed, InvokeError> {
    let program = invocation.program.to_owned();
    let limit = invocation.limit;
    let failed = |source: io::Error| InvokeError::Spawn { program: program.clone(), source };
    let reaper = Reaper::get().map_err(failed)?;
    let (mut command, readers) = prepare(invocation).map_err(failed)?;
    tracing::debug!(program = %program.display(), args = ?command.get_args().collect::<Vec<_>>(), "run");
    let (child, mut end) = reaper.spawn(&mut command).map_err(failed)?;
    // The parent's copies of the child's ends of the pipes live in the command.
    drop(command);
    let mut guard = KillOnDrop { reaper, pid: i32::try_from(child.id()).ok() };
    passed("runtime.called");
    let outcome = tokio::time::timeout(limit, &mut end).await;
    let Ok(Ok(end)) = outcome else {
        drop(guard);
        return Err(InvokeError::TimedOut { program, limit });
    };
    guard.pid = None;
    tracing::debug!(program = %program.display(), %end, "done");
    let (stdout, stderr) = match readers {
        Some((stdout, stderr)) => (stdout.finish().await, stderr.finish().await),
        None => (Vec::new(), Vec::new()),
    };
    Ok(Completed { end, stdout, stderr })
}

/// Our ends of a monitor's streams.
#[derive(Debug)]
pub(crate) struct MonitorProcess {
    /// A handle.
    pub(crate) process: PidFd,
    /// What it reads its request from.
    pub(crate) stdin: OwnedFd,
    /// What it answers on.
    pub(crate) stdout: OwnedFd,
}

/// Starts our own binary as a monitor. It has our environment, and our standard error until it lets go of it.
#[expect(clippy::disallowed_methods, reason = "this is the one file that spawns")]
pub(crate) fn spawn_monitor(program: &Path, args: &[String]) -> io::Result<MonitorProcess> {
    spawn_ours(Command::new(program), args)
}

/// The same for a keeper, which a test's faults are not meant for.
#[expect(clippy::disallowed_methods, reason = "this is the one file that spawns")]
pub(crate) fn spawn_keeper(program: &Path, args: &[String]) -> io::Result<MonitorProcess> {
    let mut command = Command::new(program);
    command.env_remove("FAILPOINTS");
    spawn_ours(command, args)
}

fn spawn_ours(mut command: Command, args: &[String]) -> io::Result<MonitorProcess> {
    let (stdin_end, stdin) = std::io::pipe()?;
    let (stdout, stdout_end) = std::io::pipe()?;
    // No group of its own: it makes a session, which a group's leader may not.
    command.args(args).stdin(stdin_end).stdout(stdout_end).env(MARK, "1");
    // Its status says nothing that its answer does not.
    let process = Reaper::get()?.spawn_apart(&mut command)?;
    Ok(MonitorProcess { process, stdin: stdin.into(), stdout: stdout.into() })
}

/// A task that reads a stream, and what it has kept so far.
struct Reader {
    task: JoinHandle<()>,
    kept: Arc<Mutex<Vec<u8>>>,
}

/// Which part of a stream is kept when it is longer than its limit.
#[derive(Clone, Copy)]
enum Keep {
    First(usize),
    Last(usize),
}

#[expect(clippy::disallowed_methods, reason = "this is the one file that spawns")]
fn prepare(invocation: Invocation<'_>) -> io::Result<(Command, Option<(Reader, Reader)>)> {
    let mut command = Command::new(invocation.program);
    command.args(invocation.args).process_group(0).current_dir("/").env_clear().envs(environment());
    let readers = match invocation.streams {
        Streams::Given { stdin, stdout, stderr } => {
            command.stdin(stdin).stdout(stdout).stderr(stderr);
            None
        }
        Streams::Captured => {
            command.stdin(Stdio::null());
            Some(capture(&mut command, STDOUT_LIMIT_BYTES)?)
        }
        Streams::Fed { stdin, environment, limit } => {
            command.stdin(in_memory(&stdin)?).env_clear().envs(environment);
            Some(capture(&mut command, limit)?)
        }
    };
    Ok((command, readers))
}

/// Takes a program's output and errors.
fn capture(command: &mut Command, stdout_limit: usize) -> io::Result<(Reader, Reader)> {
    let (stdout, stdout_end) = std::io::pipe()?;
    let (stderr, stderr_end) = std::io::pipe()?;
    command.stdout(stdout_end).stderr(stderr_end);
    let stdout = Receiver::from_owned_fd(stdout.into())?;
    let stderr = Receiver::from_owned_fd(stderr.into())?;
    Ok((
        Reader::start(stdout, Keep::First(stdout_limit)),
        Reader::start(stderr, Keep::Last(STDERR_LIMIT_BYTES)),
    ))
}

/// A file without a name that holds these bytes: unlike with a pipe, nobody has to write while a program reads.
fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// The environment of a foreign program. Everything else of ours stays with us: LISTEN_FDS and NOTIFY_SOCKET would be
/// handed into the container by runc, and secrets in our environment are none of a hook's business.
fn environment() -> Vec<(OsString, OsString)> {
    const KEPT: [&str; 2] = [
        // Runtimes look for their helpers (criu, newuidmap, nvidia-container-cli) along it.
        "PATH",
        // Where rootless runtimes keep their state.
        "XDG_RUNTIME_DIR",
    ];
    let mut environment: Vec<_> =
        KEPT.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect();
    if environment.iter().all(|(name, _)| name != "PATH") {
        environment
            .push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
    }
    environment
}

impl Reader {
    fn start(stream: Receiver, keep: Keep) -> Self {
        let kept = Arc::default();
        Self { task: tokio::spawn(read(stream, keep, Arc::clone(&kept))), kept }
    }

    /// Waits a short time for the end of the stream, and gives what was read.
    async fn finish(mut self) -> Vec<u8> {
        if tokio::time::timeout(DRAIN_LIMIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads a stream to its end and keeps a part of it; the rest is read into nothing, so that the writer never blocks.
async fn read(mut stream: Receiver, keep: Keep, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        match keep {
            Keep::First(limit) => {
                let room = limit.saturating_sub(kept.len()).min(count);
                kept.extend_from_slice(&buffer[..room]);
            }
            Keep::Last(limit) => {
                kept.extend_from_slice(&buffer[..count]);
                let surplus = kept.len().saturating_sub(limit);
                kept.drain(..surplus);
            }
        }
    }
}
