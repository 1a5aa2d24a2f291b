//! The words of `logs`, and of all that prints a log.

use clap::{Args, ValueEnum};
use cofferdam::logs::ReadLimits;
use jiff::Timestamp;

use crate::args::{Tail, moment, tail};

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Name, id, or the beginning of an id
    pub(crate) container: String,
}

/// What is wanted of a log, and how it is printed.
#[derive(Debug, Args)]
pub(crate) struct ReadingArgs {
    /// Go on with what comes, until the container has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print what was written at this time or later: RFC 3339, seconds since 1970, or a length of time before now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<Timestamp>,
    /// Print what was written at this time or earlier
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<Timestamp>,
    /// Print this many lines at the end, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    pub(crate) tail: Tail,
    /// Print the time of each line before it
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Print what comes after this entry, by its number in --format json
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<u64>,
    /// text, or json: one object a line, with the number of the entry
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: LogOutput,
}

/// How entries of a log are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogOutput {
    Text,
    Json,
}

impl ReadingArgs {
    pub(crate) fn limits(&self) -> ReadLimits {
        ReadLimits { since: self.since, until: self.until, after: self.after, tail: self.tail.0 }
    }

    pub(crate) fn json(&self) -> bool {
        self.format == LogOutput::Json
    }
}
