//! What every command begins with: the state directory and its engine.

use cofferdam::engine::{Engine, MonitorProgram};
use cofferdam::state::default_state_dir;

use crate::args::refuse;
use crate::cli::Global;
use crate::output::CliError;

/// The engine of the state directory that the user means.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) engine: Engine,
}

impl Context {
    pub(crate) fn open(global: &Global) -> Result<Self, CliError> {
        let Some(path) = global.state_dir.clone().or_else(default_state_dir) else {
            return Err(refuse(
                "--state-dir",
                "XDG_RUNTIME_DIR is not set, where that of a user who is not root lies: set it, or give a directory",
            ));
        };
        let program = std::env::current_exe().map_err(|error| CliError::internal("own binary", &error))?;
        let monitor = MonitorProgram { program, args: vec!["monitor".into()] };
        Ok(Self { engine: Engine::open(&path)?.with_monitor(monitor) })
    }
}
