//! What a container's streams have beside its pipes: ends that outlast the supervisor, a journal, a log.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::control::{Command, Request};
use super::error::{StartError, supervision};
use super::peek::{Journal, outlasting};
use super::sink::SharedLog;
use super::supervisor::Supervisor;
use crate::exit::AskedBy;
use crate::logs::LogWriter;
use crate::runtime::ContainerStdio;

impl Supervisor {
    /// Whether the container's pipes are to outlast this process.
    pub(super) const fn is_outlasted(&self) -> bool {
        self.unattended && !self.record.terminal
    }

    /// Gives a container in the background ends of its pipes that outlast this process, and writes down which they are.
    pub(super) fn outlast(
        &mut self,
        ends: ContainerStdio,
        interactive: bool,
    ) -> Result<ContainerStdio, StartError> {
        let inode = |end: &OwnedFd| rustix::fs::fstat(end).map(|stat| stat.st_ino).ok();
        let reopened = |end: OwnedFd, id: &mut Option<u64>| {
            *id = inode(&end);
            outlasting(&end).map_err(supervision("no pipes for its streams"))
        };
        let ids = &mut self.record.pipes;
        Ok(ContainerStdio {
            // The end of a file has to come through; callers never close their side.
            stdin: if interactive { reopened(ends.stdin, &mut ids.stdin)? } else { ends.stdin },
            stdout: reopened(ends.stdout, &mut ids.stdout)?,
            stderr: reopened(ends.stderr, &mut ids.stderr)?,
        })
    }

    /// The journal of output that is under way into a log, which is kept where the container outlasts its supervisor.
    pub(super) fn open_journal(&self) -> Result<Option<Arc<Journal>>, StartError> {
        if !self.is_outlasted() || self.record.log.is_none() {
            return Ok(None);
        }
        Journal::open(&self.container.journal())
            .map(Some)
            .map_err(supervision("its journal cannot be opened"))
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
        let stop = move || {
            let request = Request::Stop { signal: None, grace_ms: None, by: AskedBy::LogFull };
            // A queue that is full is asked again with the next output.
            let _ = commands.try_send(Command { request, reply: oneshot::channel().0 });
        };
        Ok(Some(SharedLog::new(writer, config.on_full, Box::new(stop))))
    }
}
