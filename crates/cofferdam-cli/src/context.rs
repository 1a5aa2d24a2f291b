//! What every command begins with: the state directory and its engine.

use std::path::PathBuf;

use cofferdam::engine::{Engine, MonitorProgram};
use cofferdam::launch::LaunchError;
use cofferdam::state::DEFAULT_STATE_DIR;

use crate::cli::Global;
use crate::output::CliError;

/// The engine of the state directory that the user means.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) engine: Engine,
}

impl Context {
    pub(crate) fn open(global: &Global) -> Result<Self, CliError> {
        let path = global.state_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
        let uid = rustix::process::geteuid().as_raw();
        if uid != 0 && global.state_dir.is_none() {
            // Else the error would be about a directory that is not the cause.
            return Err(LaunchError::NotRoot(uid).into());
        }
        let program = std::env::current_exe().map_err(|error| CliError::internal("own binary", &error))?;
        let monitor = MonitorProgram { program, args: vec!["monitor".into()] };
        Ok(Self { engine: Engine::open(&path)?.with_monitor(monitor) })
    }
}
