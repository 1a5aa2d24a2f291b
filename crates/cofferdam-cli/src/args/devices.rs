//! The options that give a container GPUs and other devices.

use std::path::PathBuf;

use clap::Args;
use cofferdam::cdi::DEFAULT_DIRECTORIES;
use cofferdam::gpu::DeviceRequest;
use cofferdam::nvidia::DriverRoot;

use super::absolute;
use crate::output::CliError;

/// GPUs and other devices.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Devices")]
pub(crate) struct DeviceArgs {
    /// GPUs for this container alone: a number, all, device=0,1 (index or UUID), or MODEL:NUMBER
    #[arg(long, value_name = "GPUS")]
    gpus: Option<String>,
    /// A device of CDI, such as nvidia.com/gpu=0, which others may be given too
    #[arg(long, value_name = "VENDOR/CLASS=NAME")]
    device: Vec<String>,
    /// gVisor: have nvproxy take the NVIDIA driver for this version of its list
    #[arg(long, value_name = "VERSION")]
    gpu_driver_override: Option<String>,
    /// gVisor: let nvproxy try an NVIDIA driver that is not in its list
    #[arg(long)]
    gpu_allow_unsupported_driver: bool,
    #[command(flatten)]
    search: DeviceSearchArgs,
}

/// Where devices and their descriptions are looked for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Devices")]
pub(crate) struct DeviceSearchArgs {
    /// Where descriptions of CDI lie, a later one with precedence [default: /etc/cdi, /var/run/cdi]
    #[arg(
        long,
        value_name = "DIR",
        env = "COFFERDAM_CDI_SPEC_DIRS",
        value_delimiter = ':',
        hide_env_values = true
    )]
    cdi_spec_dir: Vec<PathBuf>,
    #[command(flatten)]
    driver: DriverArgs,
}

/// Where the NVIDIA driver is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Devices")]
pub(crate) struct DriverArgs {
    /// Where the NVIDIA driver is installed, such as /run/nvidia/driver [default: /]
    #[arg(long, value_name = "DIR", env = "COFFERDAM_NVIDIA_DRIVER_ROOT", hide_env_values = true)]
    nvidia_driver_root: Option<PathBuf>,
}

impl DriverArgs {
    /// The directory that was given.
    fn given(&self) -> Result<Option<PathBuf>, CliError> {
        let given = self.nvidia_driver_root.as_deref().filter(|path| !path.as_os_str().is_empty());
        given.map(absolute).transpose()
    }

    /// Where the driver's files lie.
    pub(crate) fn root(&self) -> Result<DriverRoot, CliError> {
        Ok(self.given()?.map_or_else(DriverRoot::default, |path| DriverRoot::new(&path)))
    }
}

impl DeviceArgs {
    pub(crate) fn request(&self) -> Result<DeviceRequest, CliError> {
        Ok(DeviceRequest {
            gpus: self.gpus.clone(),
            devices: self.device.clone(),
            driver_override: self.gpu_driver_override.clone(),
            allow_unsupported_driver: self.gpu_allow_unsupported_driver,
            spec_directories: self.search.spec_directories()?,
            driver_root: self.search.driver.given()?,
            visible: std::env::var_os("NVIDIA_VISIBLE_DEVICES")
                .map(|list| list.to_string_lossy().into_owned()),
        })
    }
}

impl DeviceSearchArgs {
    /// The directories that were given; none for the usual ones.
    fn spec_directories(&self) -> Result<Vec<PathBuf>, CliError> {
        // An empty variable has one empty part.
        self.cdi_spec_dir
            .iter()
            .filter(|path| !path.as_os_str().is_empty())
            .map(|path| absolute(path))
            .collect()
    }

    /// The directories that are searched.
    pub(crate) fn searched(&self) -> Result<Vec<PathBuf>, CliError> {
        let given = self.spec_directories()?;
        Ok(if given.is_empty() { DEFAULT_DIRECTORIES.map(PathBuf::from).to_vec() } else { given })
    }

    /// Where the driver's files lie.
    pub(crate) fn driver_root(&self) -> Result<DriverRoot, CliError> {
        self.driver.root()
    }
}
