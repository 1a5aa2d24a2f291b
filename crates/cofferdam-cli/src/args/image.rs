//! The options by which an image is chosen and fetched.

use clap::{Args, ValueEnum};
use cofferdam_image::registry::{Credentials, Registry, RegistryConfig};

use crate::output::CliError;

/// How registries are spoken to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct RegistryArgs {
    /// Registries that are spoken to without TLS, or whose certificate is not looked at
    #[arg(
        long = "insecure-registry",
        value_name = "HOST[:PORT]",
        env = "COFFERDAM_INSECURE_REGISTRIES",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) insecure: Vec<String>,
}

impl RegistryArgs {
    /// A client for registries, with what this machine and its user have settled.
    pub(crate) fn client(&self) -> Result<Registry, CliError> {
        let mut config = RegistryConfig { insecure: self.insecure.clone(), ..RegistryConfig::default() };
        config.add_system_registries_conf()?;
        Ok(Registry::new(config, Credentials::of_user(|name| std::env::var_os(name))))
    }
}

/// Which image, and when it is fetched.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct ImageArgs {
    /// Replace the entrypoint of the image; an empty one takes it away
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// When the image is fetched: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing", hide_possible_values = true)]
    pub(crate) pull: Pull,
    /// Take the image for another machine, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    #[default]
    Missing,
    Always,
    Never,
}
