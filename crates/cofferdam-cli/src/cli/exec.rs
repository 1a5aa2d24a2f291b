//! The words of `exec` and `session`.

use std::time::Duration;

use clap::{Args, Subcommand};
use cofferdam::signal::Signal;

use super::ReadingArgs;
use crate::args::duration;
use crate::detach_keys::DetachKeys;

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Leave the command in the background, and print the id of its session
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable; KEY alone takes the caller's value
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// End the command, and all that it has started, after this time; exit code 124
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Name, id, or the beginning of an id
    pub(crate) container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// What can be done with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List them, those that have ended included
    Ls {
        /// Print ids only
        #[arg(short, long)]
        quiet: bool,
        /// table, json, or a template such as '{{.status}}'
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
        /// Those of this container alone
        container: Option<String>,
    },
    /// Take part in the streams of one, and end with its exit code
    Attach {
        /// Do not pass standard input on
        #[arg(long)]
        no_stdin: bool,
        /// The keys that detach
        #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
        detach_keys: DetachKeys,
        /// Id, or the beginning of it
        session: String,
    },
    /// Print what one has written
    Logs {
        #[command(flatten)]
        reading: ReadingArgs,
        /// Id, or the beginning of it
        session: String,
    },
    /// Send a signal to them; KILL to all that they have started, too
    Kill {
        /// The signal, by name or number
        #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
        signal: Signal,
        /// Ids, or the beginnings of them
        #[arg(required = true, value_name = "SESSION")]
        sessions: Vec<String>,
    },
    /// Wait until they have ended, and print their exit codes
    Wait {
        /// Give up after this time, such as 30s, with exit code 124
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        timeout: Option<Duration>,
        /// Ids, or the beginnings of them
        #[arg(required = true, value_name = "SESSION")]
        sessions: Vec<String>,
    },
    /// Forget those that have ended, and what they wrote
    Rm {
        /// End them first
        #[arg(short, long)]
        force: bool,
        /// Ids, or the beginnings of them
        #[arg(required = true, value_name = "SESSION")]
        sessions: Vec<String>,
    },
}
