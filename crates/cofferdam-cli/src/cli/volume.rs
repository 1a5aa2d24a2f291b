//! The grammar of `volume`.

use clap::Subcommand;

pub(crate) const VOLUME_EXAMPLES: &str = "\
Examples:
  cofferdam run -v db:/var/lib/db --rootfs /srv/alpine sh
  cofferdam volume ls
  cofferdam volume rm db";

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume and print its name; one that is there already stays as it is
    Create {
        /// Set a label
        #[arg(short, long, value_name = "KEY[=VALUE]")]
        label: Vec<String>,
        /// Its name; one is made up without it
        name: Option<String>,
    },
    /// List volumes
    #[command(visible_alias = "list")]
    Ls {
        /// name=, label=KEY[=VALUE], dangling=true or false
        #[arg(short, long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// Print names alone
        #[arg(short, long)]
        quiet: bool,
        /// table, json, or a template such as '{{.name}}'
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Print all that is known of volumes, as JSON
    Inspect {
        /// json, or a template such as '{{.mountpoint}}'
        #[arg(short, long, value_name = "FORMAT")]
        format: Option<String>,
        /// Their names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
    },
    /// Remove volumes that no container uses, with all that is in them
    #[command(visible_alias = "remove")]
    Rm {
        /// Pass over volumes that are not there without complaint
        #[arg(short, long)]
        force: bool,
        /// Their names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
    },
    /// Remove all volumes without a name that no container uses
    Prune {
        /// Those with names, too
        #[arg(short, long)]
        all: bool,
        /// Only those with a label: label=KEY[=VALUE]; or without it: label!=KEY[=VALUE]
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}
