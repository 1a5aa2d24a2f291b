//! `prune`: containers that have ended are forgotten, all at once.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use cofferdam::engine::EngineError;
use cofferdam::state::StateError;
use jiff::Timestamp;

use crate::args::refuse;
use crate::context::Context;
use crate::output::{CliError, OUR_FAILURE, print, print_failure};

pub(super) async fn prune(context: &Context, until: Option<Duration>, force: bool) -> Result<u8, CliError> {
    if !force && !confirmed("All containers that have ended are forgotten, with their logs and reports.")? {
        return Ok(0);
    }
    let (views, _) = context.engine.containers().await.map_err(EngineError::from)?;
    let age = until.unwrap_or_default();
    let is_old = |ended: Timestamp| {
        // A clock that was set back makes it young.
        Duration::try_from(Timestamp::now().duration_since(ended)).unwrap_or_default() >= age
    };
    let mut code = 0;
    for view in views.iter().filter(|view| view.report.as_ref().is_some_and(|report| is_old(report.ended))) {
        let id = view.container.id.as_str();
        match context.engine.remove(id, false).await {
            Ok(_) => print(id)?,
            // Somebody else was faster.
            Err(EngineError::State(StateError::NoSuchContainer(_))) => {}
            Err(error) => {
                code = OUR_FAILURE;
                print_failure(&CliError::from(error).0);
            }
        }
    }
    Ok(code)
}

/// Asks the person at the terminal. Nobody else is asked: a program says `--force`.
pub(super) fn confirmed(what: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(refuse("--force", "without a terminal nobody can be asked: give it"));
    }
    let failed = |error: io::Error| CliError::internal("the terminal", &error);
    let mut asked = io::stderr().lock();
    write!(asked, "{what} Go on? [y/N] ").and_then(|()| asked.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
