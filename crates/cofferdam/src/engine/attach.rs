//! Taking part in a container's streams.

use std::time::Instant;

use super::verbs::{AWAY_LIMIT, LOOK_AGAIN};
use super::{Engine, EngineError, View};
use crate::lifecycle::Verb;
use crate::state::StateError;
use crate::supervise::Attached;
use crate::supervise::attach::attach;

impl Engine {
    /// Attaches to a container that has not ended: gets what it writes from now on, and with `input` sends to it.
    ///
    /// # Errors
    /// [`EngineError`]; [`EngineError::Unreachable`] also where the supervisor has died, and the streams with it.
    pub async fn attach(&self, text: &str, input: bool) -> Result<(View, Attached), EngineError> {
        let mut view = self.find(text).await?;
        let (container, begun) = (view.container.clone(), Instant::now());
        loop {
            let title = view.title();
            view.status().check(Verb::Attach, &title)?;
            let unreachable = |source| EngineError::Unreachable { container: title.clone(), source };
            if !view.supervised {
                return Err(unreachable(None));
            }
            match attach(&container, input).await.map_err(|error| unreachable(Some(error)))? {
                Some(attached) => return Ok((view, attached?)),
                // It is being made, is ending, or has died: look again.
                None if begun.elapsed() < AWAY_LIMIT => tokio::time::sleep(LOOK_AGAIN).await,
                None => return Err(unreachable(None)),
            }
            view = self.view(container.clone()).await?.ok_or(StateError::NoSuchContainer(title))?;
        }
    }
}
