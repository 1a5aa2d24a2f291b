//! The binary `cofferdam`: reads the command line, calls the library, prints what it says.
//!
//! Invariant: standard output is for what was asked for (a container's own bytes, a table, JSON); everything that
//! cofferdam has to say besides goes to standard error. Not here: any decision about containers.

mod args;
mod cli;
mod commands;
mod context;
mod detach_keys;
mod filter;
mod forward;
mod images;
mod output;
mod output_file;
mod progress;
mod table;
mod template;
mod terminal;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use cofferdam::error::{Code, Failure};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Command};
use crate::output::{CliError, OUR_FAILURE};

/// Descriptors that a supervisor has open at most, with some to spare.
const DESCRIPTORS: u64 = 32;

fn main() -> ExitCode {
    let _armed = cofferdam::fault::arm();
    if std::env::args_os().len() == 1 {
        // As `--help`: whoever types no more wants to know what there is.
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Err(failure) = log_to_stderr(&cli.global.log_level).and_then(|()| check_descriptors()) {
        output::print_failure(&failure);
        return ExitCode::from(OUR_FAILURE);
    }
    // One thread: a container's bytes are moved by threads of their own, and a small process starts fast.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = match cli.command {
                // Without the room on the stack that all the others together take: a monitor lives long.
                Command::Monitor => runtime.block_on(commands::monitor()),
                _ => runtime.block_on(commands::dispatch(cli)),
            };
            // A thread may still read our standard input, which nobody can interrupt.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(CliError::internal("the event loop cannot be started", &error)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::print_failure(&error.0);
            ExitCode::from(OUR_FAILURE.max(cofferdam::exit::shell_code_of_failure(error.0.code)))
        }
    }
}

/// Refuses a limit of open files below which nothing works, before it fails in the middle.
fn check_descriptors() -> Result<(), Failure> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < DESCRIPTORS => Err(Failure {
            code: Code::ResourceLimit,
            what: format!("the limit of open files is {limit}, and cofferdam needs {DESCRIPTORS}"),
            why: vec![],
            next: Some("raise it with `ulimit -n 1024`".into()),
        }),
        _ => Ok(()),
    }
}

/// Prints what clap has to say: help on standard output, a mistake as an error of ours.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone (`cofferdam --help | head`) is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let why =
        lines.filter(|line| !line.starts_with("For more information")).map(|line| line.trim().to_owned());
    output::print_failure(&Failure {
        code: Code::InvalidValue,
        what,
        why: why.collect(),
        next: Some("`cofferdam help COMMAND` explains each command".into()),
    });
    ExitCode::from(OUR_FAILURE)
}

fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let filter = level.parse::<LevelFilter>().map_err(|_| Failure {
        code: Code::InvalidValue,
        what: format!("the log level {} is not one", cofferdam::id::quote(level)),
        why: vec![],
        next: Some("--log-level and COFFERDAM_LOG take error, warn, info, debug or trace".into()),
    })?;
    tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
    Ok(())
}
