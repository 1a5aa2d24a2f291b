//! What a container has written, and goes on to write.

use std::time::Duration;

use jiff::Timestamp;

use super::sessions::SessionView;
use super::{Engine, EngineError};
use crate::logs::{LogEntry, LogReader, ReadLimits};
use crate::state::ContainerDir;
use crate::sys::FolderWatch;

/// How long nothing may be heard before the container is looked at all the same: a supervisor that is killed tells
/// nobody.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The log of one container.
#[derive(Debug)]
pub struct ContainerLog {
    engine: Engine,
    container: ContainerDir,
    limits: ReadLimits,
    reader: LogReader,
    watch: FolderWatch,
    /// Whether it is the log of a session.
    of_session: bool,
}

fn unreadable(source: std::io::Error) -> EngineError {
    EngineError::Kernel { what: "the container's log cannot be read", source }
}

impl Engine {
    /// Opens the log of a container, which may have ended.
    ///
    /// # Errors
    /// [`EngineError::NoLog`] of a container whose output is not kept.
    pub async fn logs(&self, text: &str, limits: ReadLimits) -> Result<ContainerLog, EngineError> {
        let view = self.find(text).await?;
        if let Some(journald) = &view.record.journald {
            let (container, id) = (view.title(), view.container.id.clone());
            return Err(EngineError::InJournald { container, id, namespace: journald.namespace.clone() });
        }
        let Some(config) = view.record.log else { return Err(EngineError::NoLog(view.title())) };
        let folder = self.state.logs_of(&view.container.id);
        // Before the first look, so that nothing that comes after it is missed.
        let watch = FolderWatch::new(&[&folder, view.container.path()]).map_err(unreadable)?;
        let reader = LogReader::open(&folder, config.format, limits).map_err(unreadable)?;
        let (engine, container) = (self.clone(), view.container);
        Ok(ContainerLog { engine, container, limits, reader, watch, of_session: false })
    }
}

impl ContainerLog {
    pub(super) fn of_session(
        engine: &Engine,
        view: SessionView,
        limits: ReadLimits,
    ) -> Result<Self, EngineError> {
        let folder = engine.state.logs_of(&view.folder.id);
        let watch = FolderWatch::new(&[&folder, view.folder.path()]).map_err(unreadable)?;
        let reader = LogReader::open(&folder, view.record.log.format, limits).map_err(unreadable)?;
        let (engine, container) = (engine.clone(), view.folder);
        Ok(Self { engine, container, limits, reader, watch, of_session: true })
    }

    /// The next entry that is there; `None` when there is none now.
    ///
    /// # Errors
    /// [`EngineError::Kernel`] when the log cannot be read.
    pub fn next_here(&mut self) -> Result<Option<LogEntry>, EngineError> {
        self.reader.next_entry().map_err(unreadable)
    }

    /// Waits for the next entry; `None` when the container has ended and all of it has been read, or the time that was
    /// asked for is over. Cancel safe.
    ///
    /// # Errors
    /// Like [`ContainerLog::next_here`].
    pub async fn next(&mut self) -> Result<Option<LogEntry>, EngineError> {
        loop {
            // Before the look at the log: what it wrote before its end is there by then.
            let is_over = self.limits.until.is_some_and(|until| until < Timestamp::now());
            let is_last = is_over || self.reader_is_behind_the_end().await?;
            if let Some(entry) = self.next_here()? {
                return Ok(Some(entry));
            }
            if is_last {
                return Ok(None);
            }
            if let Ok(Err(error)) = tokio::time::timeout(LOOK_AGAIN, self.watch.changed()).await {
                return Err(unreadable(error));
            }
        }
    }

    /// Whether nobody will write to the log any more.
    async fn reader_is_behind_the_end(&self) -> Result<bool, EngineError> {
        if self.of_session {
            return self.engine.session_is_over(self.container.clone()).await;
        }
        let view = self.engine.view(self.container.clone()).await?;
        Ok(view.is_none_or(|view| view.report.is_some() && !view.supervised))
    }

    /// How many lines of the log were passed over because they are damaged.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.reader.damaged()
    }
}
