//! Commands that look at containers, and change nothing.

use clap::Args;
use jiff::Timestamp;

use super::Containers;
use crate::args::{DriverArgs, moment};

#[derive(Debug, Clone, Args)]
pub(crate) struct PsArgs {
    /// List containers that have ended too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print ids alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print whole ids and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print state roots and bundles too
    #[arg(long)]
    pub(crate) wide: bool,
    /// List the containers of cofferdam alone
    #[arg(long)]
    pub(crate) own: bool,
    /// Look at another state root too, such as runsc=/var/lib/runsc
    #[arg(long, value_name = "RUNTIME=DIR")]
    pub(crate) root: Vec<String>,
    /// List those that fit: status=, name=, id=, label=, runtime=, owner=, root=, exited=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// table, json, or a template such as '{{.ID}} {{.Status}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// json, or a template such as '{{.State.Pid}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print the specification that the runtime got, instead
    #[arg(long, conflicts_with = "format")]
    pub(crate) spec: bool,
    #[command(flatten)]
    pub(crate) containers: Containers,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Begin with those of this time: RFC 3339, seconds since 1970, or a length of time before now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<Timestamp>,
    /// End at this time; 0s is now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<Timestamp>,
    /// Begin after the event with this number; 0 is before all
    #[arg(long, value_name = "SEQ")]
    pub(crate) after: Option<u64>,
    /// Print those that fit: container=, event=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// json, or a template such as '{{.seq}} {{.event}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Read again each second
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// table, json (one object a line), or a template such as '{{.name}} {{.memory.working_set_bytes}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
    /// Names, ids, or beginnings of ids; all that run without it
    #[arg(help_heading = None)]
    pub(crate) containers: Vec<String>,
}

pub(super) const PS_EXAMPLES: &str = "\
Examples:
  cofferdam ps
  cofferdam ps --all --filter runtime=runsc --format '{{.ID}} {{.Root}}'";

pub(super) const EVENTS_EXAMPLES: &str = "\
Examples:
  cofferdam events --filter event=exit --format json
  cofferdam events --since 1h --until 0s
  cofferdam events --after 4711";
