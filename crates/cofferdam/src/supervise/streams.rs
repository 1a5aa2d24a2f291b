//! What a container's streams have beside its pipes: ends that outlast the supervisor, a journal, a log.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;
use tokio::sync::{mpsc, oneshot};

use super::control::{Command, Request};
use super::error::{StartError, supervision};
use super::peek::{Journal, Peek, outlasting};
use super::sink::{SharedJournald, SharedLog};
use super::stdio::OurEnds;
use super::supervisor::Supervisor;
use crate::exit::AskedBy;
use crate::keeper::Kept;
use crate::logs::{JournaldWriter, LogConfig, LogWriter, Stream, logged_at};
use crate::process::Claim;
use crate::runtime::ContainerStdio;
use crate::state::PipeIds;

impl Supervisor {
    /// Whether the container's pipes are to outlast this process.
    pub(super) const fn is_outlasted(&self) -> bool {
        self.unattended && !self.record.terminal
    }

    /// The journal of output that is under way into a log, which is kept where the container outlasts its supervisor.
    pub(super) fn open_journal(&self) -> Result<Option<Arc<Journal>>, StartError> {
        if !self.is_outlasted() || (self.record.log.is_none() && self.record.journald.is_none()) {
            return Ok(None);
        }
        Journal::open(&self.container.journal())
            .map(Some)
            .map_err(supervision("its journal cannot be opened"))
    }

    /// Connects to the journald that gets the container's output, if one does.
    pub(super) fn open_journald(&self) -> Result<Option<SharedJournald>, StartError> {
        let Some(config) = &self.record.journald else { return Ok(None) };
        let writer = JournaldWriter::open(config.clone(), &self.record.id, self.record.name.as_ref());
        let writer = writer.map_err(|source| StartError::Journald { path: config.socket(), source })?;
        Ok(Some(Arc::new(Mutex::new(writer))))
    }

    /// Opens the container's log, if it is to have one, before there is anything to write into it.
    pub(super) fn open_log(
        &self,
        commands: &mpsc::Sender<Command>,
    ) -> Result<Option<Arc<SharedLog>>, StartError> {
        let Some(config) = self.record.log else { return Ok(None) };
        let writer = LogWriter::open(&self.state.logs_of(&self.container.id), config)
            .map_err(supervision("its log cannot be opened"))?;
        let commands = commands.clone();
        let asked = AtomicBool::new(false);
        let stop = move || {
            if asked.load(Ordering::Relaxed) {
                return;
            }
            let request = Request::Stop { signal: None, grace_ms: None, by: AskedBy::LogFull };
            // A queue that is full is asked again with the next output.
            let is_asked = commands.try_send(Command { request, reply: oneshot::channel().0 }).is_ok();
            asked.store(is_asked, Ordering::Relaxed);
        };
        Ok(Some(SharedLog::new(writer, config.on_full, Box::new(stop))))
    }
}

/// Gives a process in the background ends of its pipes that outlast this one, and says which they are.
pub(super) fn outlast(ends: ContainerStdio, interactive: bool) -> std::io::Result<(ContainerStdio, PipeIds)> {
    let mut ids = PipeIds::default();
    let reopened = |end: OwnedFd, id: &mut Option<u64>| {
        *id = rustix::fs::fstat(&end).map(|stat| stat.st_ino).ok();
        outlasting(&end)
    };
    let ends = ContainerStdio {
        // The end of a file has to come through; callers never close their side.
        stdin: if interactive { reopened(ends.stdin, &mut ids.stdin)? } else { ends.stdin },
        stdout: reopened(ends.stdout, &mut ids.stdout)?,
        stderr: reopened(ends.stderr, &mut ids.stderr)?,
    };
    Ok((ends, ids))
}

/// What a successor needs of a process, in copies. What cannot be copied is not kept.
pub(super) fn copies(process: &Claim, ours: &OurEnds, terminal: Option<&OwnedFd>) -> Kept {
    let copy = |descriptor: &OwnedFd| descriptor.try_clone().ok();
    // The pipes of what has a terminal are only the runtime's.
    let output = |end: &Option<OwnedFd>| end.as_ref().filter(|_| terminal.is_none()).and_then(copy);
    Kept {
        pid: process.pid,
        process: process.pidfd.as_ref().and_then(|pidfd| pidfd.as_fd().try_clone_to_owned().ok()),
        stdout: output(&ours.stdout),
        stderr: output(&ours.stderr),
        terminal: terminal.and_then(copy),
    }
}

/// Our ends of pipes: as they were kept, or reopened where one of these processes still has them.
pub(super) fn find_pipes(ids: PipeIds, pids: &[i32], kept: &mut Kept) -> OurEnds {
    let open = |inode: Option<u64>, writes: bool| {
        let path = pids.iter().find_map(|pid| descriptor_of(*pid, inode?))?;
        let mut options = std::fs::OpenOptions::new();
        options.read(!writes).write(writes).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        options.open(path).ok().map(OwnedFd::from)
    };
    OurEnds {
        stdin: open(ids.stdin, true),
        stdout: kept.stdout.take().or_else(|| open(ids.stdout, false)),
        stderr: kept.stderr.take().or_else(|| open(ids.stderr, false)),
    }
}

/// The path of a process's descriptor of a pipe.
fn descriptor_of(pid: i32, inode: u64) -> Option<PathBuf> {
    let name = format!("pipe:[{inode}]");
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(|path| std::fs::read_link(path).is_ok_and(|to| to.as_os_str() == name.as_str()))
}

/// Takes out of the pipes what a dead predecessor had logged and not taken.
pub(super) fn skip_what_is_logged(
    ours: &OurEnds,
    journal: &Arc<Journal>,
    folder: &Path,
    log: Option<LogConfig>,
) -> std::io::Result<()> {
    for (end, stream) in [(&ours.stdout, Stream::Stdout), (&ours.stderr, Stream::Stderr)] {
        let Some(end) = end else { continue };
        let peek = Peek::new(Arc::clone(journal), stream)?;
        peek.go_on(end, |time| log.map_or(0, |log| logged_at(folder, log.format, stream, time)));
    }
    Ok(())
}
