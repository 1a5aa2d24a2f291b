//! The grammar of `run` and `create`.

use std::path::PathBuf;

use clap::Args;
use cofferdam::logs::LogFormat;
use cofferdam::request::{LaunchRequest, LogRequest};

use crate::args::{LaunchArgs, refuse};
use crate::images::Obtained;
use crate::output::CliError;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Run in the background and print the id
    #[arg(short, long, help_heading = None)]
    pub(crate) detach: bool,
    /// Print the final specification and why it was changed, and start nothing
    #[arg(long, help_heading = None)]
    pub(crate) dry_run: bool,
    /// Print on standard error how long each step took
    #[arg(long, help_heading = None)]
    pub(crate) timings: bool,
    #[command(flatten)]
    pub(crate) making: MakingArgs,
}

/// What `run` and `create` have in common.
#[derive(Debug, Args)]
pub(crate) struct MakingArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
    /// Pass standard input on; in the background, that of whoever attaches
    #[arg(short, long, help_heading = None)]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long, help_heading = None)]
    pub(crate) tty: bool,
    /// Forget the container once it has ended
    #[arg(long, help_heading = None)]
    pub(crate) rm: bool,
    /// Write the id to a file, which must not exist
    #[arg(long, value_name = "FILE", help_heading = None)]
    pub(crate) cidfile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) streams: StreamArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// An image and its command; with --rootfs or --bundle the command alone
    #[arg(trailing_var_arg = true, value_name = "IMAGE COMMAND", help_heading = None)]
    pub(crate) command: Vec<String>,
}

impl MakingArgs {
    /// The request that these words make; `image` is what they name, where it is an image.
    pub(crate) fn request(&self, image: Option<&Obtained>) -> Result<LaunchRequest, CliError> {
        let mut request = self.launch.request(image.map(|image| image.image.clone()), &self.command)?;
        (request.terminal, request.remove) = (self.tty, self.rm);
        Ok(request)
    }
}

/// Where the streams of a container go that has no foreground.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Streams of a container in the background")]
pub(crate) struct StreamArgs {
    /// Read standard input from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// Append standard output to a file; without it, it is only counted
    #[arg(long, value_name = "FILE")]
    pub(crate) stdout: Option<PathBuf>,
    /// Append standard error to a file; without it, it is only counted
    #[arg(long, value_name = "FILE")]
    pub(crate) stderr: Option<PathBuf>,
}

impl StreamArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.stdin.is_some() || self.stdout.is_some() || self.stderr.is_some()
    }
}

/// How the output of a container in the background is kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log of a container in the background")]
pub(crate) struct LogArgs {
    /// Format of the log: cri, json-file; or journald, or none [default: cri]
    #[arg(long, value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,
    /// max-size=16m: size of a file; max-file=4: how many are kept; on-full=drop, block or stop
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) log_opt: Vec<String>,
}

impl LogArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.log_driver.is_some() || !self.log_opt.is_empty()
    }

    /// The request that these words make.
    pub(crate) fn request(&self) -> Result<LogRequest, CliError> {
        let option = |text: &String| {
            let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            pair.ok_or_else(|| refuse("--log-opt", &format!("`{text}` is not of the form KEY=VALUE")))
        };
        Ok(LogRequest {
            driver: self.log_driver.clone().unwrap_or_else(|| LogFormat::Cri.name().to_owned()),
            options: self.log_opt.iter().map(option).collect::<Result<_, _>>()?,
        })
    }
}

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  cofferdam run --rm alpine:3.20 echo hello
  cofferdam run --rm --rootfs /srv/alpine echo hello
  cofferdam run --rm -it --runtime gvisor -m 256m --rootfs /srv/alpine sh
  cofferdam run --bundle /srv/bundle --timeout 30s
  cofferdam run --dry-run --runtime gvisor --bundle /srv/bundle

Exit code: the command's own; 128+n for a signal; 137 also when out of memory; 124 for --timeout;
125 when cofferdam or the runtime failed; 126 and 127 when the command cannot be executed or found.";

pub(super) const CREATE_EXAMPLES: &str = "\
Examples:
  cofferdam create --name web --rootfs /srv/alpine sleep 60
  cofferdam start web && cofferdam wait web";
