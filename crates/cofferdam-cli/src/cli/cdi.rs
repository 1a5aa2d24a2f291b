//! The grammar of `cdi`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::args::DeviceSearchArgs;

pub(crate) const CDI_EXAMPLES: &str = "\
Examples:
  cofferdam cdi list
  cofferdam cdi generate --output /etc/cdi/nvidia.yaml";

#[derive(Debug, Subcommand)]
pub(crate) enum CdiCommand {
    /// List the devices that can be given by --device, and the file that describes each
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        search: DeviceSearchArgs,
    },
    /// Check that devices can be given: all of them, or these
    Check {
        /// Qualified names, such as nvidia.com/gpu=0
        #[arg(value_name = "DEVICE")]
        devices: Vec<String>,
        #[command(flatten)]
        search: DeviceSearchArgs,
    },
    /// Describe this host's NVIDIA GPUs: by nvidia-ctk where it is installed
    Generate {
        /// The file; standard output without it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// yaml or json [default: by the file's name, or yaml]
        #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
        format: Option<CdiFormat>,
        /// Have cofferdam describe them, and not nvidia-ctk
        #[arg(long)]
        own: bool,
        #[command(flatten)]
        search: DeviceSearchArgs,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CdiFormat {
    Yaml,
    Json,
}
