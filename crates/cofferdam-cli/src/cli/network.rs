//! The grammar of `network`.

use clap::Subcommand;

pub(crate) const NETWORK_EXAMPLES: &str = "\
Examples:
  cofferdam network ls
  cofferdam network pool --low 4 --high 16 bridge
  cofferdam network pool --off bridge";

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// List networks: the one that cofferdam brings along, and those of /etc/cni/net.d
    #[command(visible_alias = "list")]
    Ls {
        /// Print names alone
        #[arg(short, long)]
        quiet: bool,
        /// table, json, or a template such as '{{.name}}'
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Keep attachments prepared, so that containers start faster. Without options, fill the pool now
    Pool {
        /// Prepare more when fewer than these are left
        #[arg(long, value_name = "NUMBER", requires = "high")]
        low: Option<usize>,
        /// So many then
        #[arg(long, value_name = "NUMBER", requires = "low")]
        high: Option<usize>,
        /// Keep none any more, and take away those that are there
        #[arg(long, conflicts_with = "low")]
        off: bool,
        /// The network
        network: String,
    },
}
