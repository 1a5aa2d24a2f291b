//! What every command begins with: the state directory and its engine.

use std::path::PathBuf;

use cofferdam::engine::{Engine, MonitorProgram};
use cofferdam::launch::LaunchError;
use cofferdam::state::default_state_dir;
use cofferdam::volume::DEFAULT_DATA_DIR;

use crate::args::absolute;
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
            // There is no session of a user's either: the error must not be about a directory that is not the cause.
            return Err(LaunchError::NotRoot(rustix::process::geteuid().as_raw()).into());
        };
        let program = std::env::current_exe().map_err(|error| CliError::internal("own binary", &error))?;
        let monitor = MonitorProgram { program, args: vec!["monitor".into()] };
        let data_dir = match &global.data_dir {
            Some(path) => absolute(path)?,
            None => PathBuf::from(DEFAULT_DATA_DIR),
        };
        Ok(Self { engine: Engine::open(&path)?.with_data_dir(data_dir).with_monitor(monitor) })
    }
}
