//! What happens to the containers of a state directory: telling it, and listening.

use std::io;
use std::time::Duration;

use jiff::Timestamp;

use super::{Engine, EngineError};
use crate::error::Failure;
use crate::event::{Event, Happening};
use crate::logs::LineReader;
use crate::state::Record;
use crate::sys::FolderWatch;

/// How long nothing may be heard before the events are looked at all the same.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Which events are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventsFrom {
    /// Those of this moment and later.
    pub since: Option<Timestamp>,
    /// Those of this moment and earlier; the stream ends when it is over.
    pub until: Option<Timestamp>,
    /// Those after the one with this number: to go on where one has stopped.
    pub after: Option<u64>,
}

/// Events as they happen.
#[derive(Debug)]
pub struct EventStream {
    lines: LineReader,
    watch: FolderWatch,
    from: EventsFrom,
}

fn unreadable(source: io::Error) -> EngineError {
    EngineError::Kernel { what: "the events cannot be read", source }
}

impl Engine {
    /// Listens to events: those of the past where `since` or `after` ask for them, and those to come.
    ///
    /// # Errors
    /// [`EngineError::Kernel`] when they cannot be read.
    pub fn events(&self, from: EventsFrom) -> Result<EventStream, EngineError> {
        let folder = self.state.events();
        let watch = FolderWatch::new(&[&folder]).map_err(unreadable)?;
        let lines = LineReader::new(&folder);
        let mut stream = EventStream { lines, watch, from };
        if from.since.is_none() && from.after.is_none() {
            // From now on.
            while stream.next_here()?.is_some() {}
        }
        Ok(stream)
    }

    /// Writes down what has happened to a container without a supervisor. That it cannot be is only logged: it has
    /// happened.
    pub(super) fn tell(&self, record: &Record, what: Happening) {
        if let Err(error) = self.state.append_event(&record.id, record.name.as_ref(), what) {
            tracing::warn!(error = %Failure::of(&error), "an event could not be written down");
        }
    }

    /// The same for the end of a container, which may have been written down already.
    pub(super) fn tell_end(&self, record: &Record, what: Happening) {
        if let Err(error) = self.state.append_end_once(&record.id, record.name.as_ref(), what) {
            tracing::warn!(error = %Failure::of(&error), "an event could not be written down");
        }
    }
}

impl EventStream {
    /// The next event that is there; `None` when there is none now.
    ///
    /// # Errors
    /// [`EngineError::Kernel`] when they cannot be read.
    pub fn next_here(&mut self) -> Result<Option<Event>, EngineError> {
        while let Some(line) = self.lines.next_line().map_err(unreadable)? {
            let Ok(event) = serde_json::from_slice::<Event>(&line) else {
                // A newer version may know events that we do not.
                tracing::debug!(line = %String::from_utf8_lossy(&line), "an event is not understood");
                continue;
            };
            let EventsFrom { since, until, after } = self.from;
            let is_wanted = since.is_none_or(|since| event.time >= since)
                && until.is_none_or(|until| event.time <= until)
                && after.is_none_or(|after| event.seq > after);
            if is_wanted {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Waits for the next event; `None` when the time that was asked for is over. Cancel safe.
    ///
    /// # Errors
    /// Like [`EventStream::next_here`].
    pub async fn next(&mut self) -> Result<Option<Event>, EngineError> {
        loop {
            let is_over = self.from.until.is_some_and(|until| until < Timestamp::now());
            if let Some(event) = self.next_here()? {
                return Ok(Some(event));
            }
            if is_over {
                return Ok(None);
            }
            if let Ok(Err(error)) = tokio::time::timeout(LOOK_AGAIN, self.watch.changed()).await {
                return Err(unreadable(error));
            }
        }
    }
}
