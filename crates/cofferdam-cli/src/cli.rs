//! The grammar of the command line. Where docker has a word for something, it is docker's word.

mod cdi;
mod exec;
mod image;
mod launching;
mod logs;
mod looking;
mod network;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use cofferdam::signal::Signal;

use cdi::CDI_EXAMPLES;
pub(crate) use cdi::{CdiCommand, CdiFormat};
pub(crate) use exec::{ExecArgs, SessionCommand};
use image::PULL_EXAMPLES;
pub(crate) use image::{
    CommitArgs, CopyArgs, ImageCommand, ImagesArgs, LoadArgs, LoginArgs, PullArgs, RmiArgs, SaveArgs,
    SaveFormat, TagArgs,
};
use launching::{CREATE_EXAMPLES, RUN_EXAMPLES};
pub(crate) use launching::{MakingArgs, RunArgs, StreamArgs};
pub(crate) use logs::{LogsArgs, ReadingArgs};
use looking::{EVENTS_EXAMPLES, PS_EXAMPLES};
pub(crate) use looking::{EventsArgs, InspectArgs, PsArgs, StatsArgs};

use network::NETWORK_EXAMPLES;
pub(crate) use network::NetworkCommand;
use volume::VOLUME_EXAMPLES;
pub(crate) use volume::VolumeCommand;

use crate::args::{DeviceSearchArgs, DriverArgs, LimitArgs, duration};
use crate::detach_keys::DetachKeys;

/// Runs untrusted and GPU workloads in containers: one lifecycle over runc, crun, youki and gVisor, and the truth
/// about how each container ended.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where containers are written down [default: /run/cofferdam]
    #[arg(long, global = true, value_name = "DIR", env = "COFFERDAM_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where images, volumes and root filesystems are kept [default: /var/lib/cofferdam]
    #[arg(long, global = true, value_name = "DIR", env = "COFFERDAM_DATA_DIR", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL", env = "COFFERDAM_LOG", default_value = "warn")]
    #[arg(hide_env_values = true)]
    pub(crate) log_level: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new container and end with its exit code
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Make a container whose process waits for `start`
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<MakingArgs>),
    /// Let the process of created containers run
    Start {
        /// Take part in its streams, and end with its exit code
        #[arg(short, long)]
        attach: bool,
        /// Take part in its streams and pass standard input on
        #[arg(short, long)]
        interactive: bool,
        #[command(flatten)]
        containers: Containers,
    },
    /// Wait until containers have ended and print their exit codes
    Wait(WaitArgs),
    /// Run another command in a running container
    #[command(after_help = EXEC_EXAMPLES)]
    Exec(ExecArgs),
    /// Look after what was executed in containers in the background (`exec --detach`)
    Session {
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// Take part in the streams of a container in the background, and end with its exit code
    Attach(AttachArgs),
    /// Print what a container in the background has written
    #[command(after_help = LOGS_EXAMPLES)]
    Logs(LogsArgs),
    /// Print what happens to containers, as it happens
    #[command(after_help = EVENTS_EXAMPLES)]
    Events(EventsArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// End containers: a signal, a time of grace, SIGKILL
    Stop(StopArgs),
    /// Forget containers that have ended
    Rm(RmArgs),
    /// Forget all containers that have ended, with their logs and reports
    Prune {
        /// Those alone that ended so long ago or longer, such as 24h
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        until: Option<Duration>,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
    /// List containers, of every runtime and state root on this machine
    #[command(after_help = PS_EXAMPLES)]
    Ps(PsArgs),
    /// List all containers with their state roots and bundles (`ps --all --wide`)
    #[command(visible_alias = "ls")]
    List(PsArgs),
    /// Print all that is known of containers, as JSON
    Inspect(InspectArgs),
    /// Print a container's state in the form of the OCI runtime specification
    State {
        /// Name, id, or the beginning of an id
        container: String,
    },
    /// Freeze the processes of containers
    Pause {
        #[command(flatten)]
        containers: Containers,
    },
    /// Thaw the processes of containers
    Unpause {
        #[command(flatten)]
        containers: Containers,
    },
    /// Change the limits of containers, and what they may reach
    Update {
        #[command(flatten)]
        limits: LimitArgs,
        /// What the container may reach, where it was started with --egress
        #[arg(long, value_name = "POLICY", help_heading = "Network")]
        egress: Option<String>,
        #[command(flatten)]
        containers: Containers,
    },
    /// Print what containers use: CPU, memory, network, block devices, processes
    Stats(StatsArgs),
    /// List the processes of a container
    Top {
        /// Name, id, or the beginning of an id
        container: String,
    },
    /// Fetch images from a registry, a directory or an archive
    #[command(after_help = PULL_EXAMPLES)]
    Pull(PullArgs),
    /// List images
    Images(ImagesArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Give an image a further name
    Tag(TagArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Copy files between a container and the host
    Cp(CopyArgs),
    /// List what a container has changed of its image: A added, C changed, D deleted
    Diff {
        /// Name, id, or the beginning of an id
        container: String,
    },
    /// Pack all files of a container into an archive
    Export {
        /// The file; standard output without it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Name, id, or the beginning of an id
        container: String,
    },
    /// Make an image of what a container has written
    Commit(CommitArgs),
    /// Log in to a registry
    Login(LoginArgs),
    /// Log out of a registry
    Logout {
        /// The registry [default: docker.io]
        #[arg(value_name = "REGISTRY")]
        server: Option<String>,
    },
    /// Look after images
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Building images is not cofferdam's
    #[command(hide = true)]
    Build {
        /// Whatever docker build takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print facts about this host and the runtimes on it
    Info {
        /// table, json, or a template such as '{{.Kernel}}'
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
        #[command(flatten)]
        driver: DriverArgs,
    },
    /// Print what each runtime here can do, and the reason for each no
    Capabilities {
        /// Runtimes, by name or by the path of a binary; all that are installed without it
        #[arg(value_name = "RUNTIME")]
        runtimes: Vec<String>,
        /// table or json
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Devices of the Container Device Interface: list, check, describe
    #[command(after_help = CDI_EXAMPLES)]
    Cdi {
        #[command(subcommand)]
        command: CdiCommand,
    },
    /// Directories with names that outlive containers: make, list, inspect, remove
    #[command(after_help = VOLUME_EXAMPLES)]
    Volume {
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// Networks: list them, and keep attachments to them prepared
    #[command(after_help = NETWORK_EXAMPLES)]
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Check this host, and say how to mend what is wrong. Ends with 1 if a check fails
    Doctor {
        /// text or json
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        format: DoctorFormat,
        #[command(flatten)]
        search: DeviceSearchArgs,
    },
    /// Find what killed processes of cofferdam have left behind, and take it away
    Gc {
        /// Show it only
        #[arg(long)]
        dry_run: bool,
        /// table or json
        #[arg(long, value_name = "FORMAT", default_value = "table", hide_possible_values = true)]
        format: GcFormat,
    },
    /// Explain an error code, such as E0115
    Explain {
        /// The code; without one, all are listed
        code: Option<String>,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Supervise one container (started by cofferdam itself)
    #[command(hide = true)]
    Monitor,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DoctorFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Containers {
    /// Names, ids, or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Send it no input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Do not pass signals on; INT and TERM then end the attachment only
    #[arg(long)]
    pub(crate) no_sig_proxy: bool,
    /// Keys that end the attachment and leave the container alone
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: DetachKeys,
    /// Name, id, or the beginning of an id
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What to wait for: exit (for good), running or healthy
    #[arg(long = "for", value_name = "CONDITION", default_value = "exit", hide_possible_values = true)]
    pub(crate) until: Condition,
    /// Give up after this time, such as 30s, with exit code 124
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// json, or a template such as '{{.cause.kind}}'; without it, the exit code
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    #[command(flatten)]
    pub(crate) containers: Containers,
}

/// How `gc` prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GcFormat {
    Table,
    Json,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Condition {
    Exit,
    Running,
    Healthy,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(crate) signal: Signal,
    /// Send it to every process of the container
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) containers: Containers,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The signal, instead of the container's own
    #[arg(short, long, value_name = "SIGNAL")]
    pub(crate) signal: Option<Signal>,
    /// Time until SIGKILL, such as 10s, instead of the container's own
    #[arg(short, long, value_name = "DURATION", value_parser = duration, visible_alias = "timeout")]
    pub(crate) time: Option<Duration>,
    #[command(flatten)]
    pub(crate) containers: Containers,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// End containers that run, and forget containers that are not there without complaint
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove their volumes that have no name, too
    #[arg(short, long)]
    pub(crate) volumes: bool,
    #[command(flatten)]
    pub(crate) containers: Containers,
}

const EXEC_EXAMPLES: &str = "\
Examples:
  cofferdam exec web ps
  cofferdam exec -it -u nobody web sh";

const LOGS_EXAMPLES: &str = "\
Examples:
  cofferdam logs --tail 20 --timestamps web
  cofferdam logs --follow --since 10m web";
