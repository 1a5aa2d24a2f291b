//! The NVIDIA GPUs of this host: the effects to the decisions in `gpu`.
//!
//! Facts come from the driver's own files in /proc, which cost nothing and take no lock. NVML, which may take seconds
//! to wake a GPU, is asked only where these leave something open, and within a limit of time.
//!
//! [`DriverRoot`] is where all of it lies: `/`, or where an operator's container has the driver; tests have a tree of
//! their own.

mod char_links;
mod generate;
mod libraries;
mod nvml;
mod proc;
mod toolkit;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use char_links::make_char_links;
pub use generate::generate;
pub use libraries::LibraryDirectories;
pub use proc::parse_information;
pub use toolkit::{describe_by_toolkit, find_toolkit};
pub(crate) use usage::usage_of;
pub use usage::{GpuReading, GpuUsage, read_gpus};

use crate::gpu::{DriverVersion, Gpu, GpuError};

/// How long NVML may take. Without the persistence daemon it wakes each GPU, which takes a second and more.
const NVML_LIMIT: Duration = Duration::from_secs(20);

/// The driver, and the GPUs that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The kernel's driver.
    pub driver: DriverVersion,
    /// In the order of their index.
    pub gpus: Vec<Gpu>,
}

/// The directory below which the driver's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverRoot(PathBuf);

impl Default for DriverRoot {
    fn default() -> Self {
        Self::new(Path::new("/"))
    }
}

impl DriverRoot {
    /// A root.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A path below it.
    #[must_use]
    pub fn join(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A path of the kernel's. A root that has a driver's libraries and no /proc of its own, as an operator of Kubernetes and
    /// the nodes of Google have it, has the host's.
    #[must_use]
    pub(crate) fn in_proc(&self, path: &str) -> PathBuf {
        let is_own = self.is_host() || self.join(proc::VERSION).exists();
        let has_libraries = || LibraryDirectories::of(self).find("libcuda.so.1").is_some();
        if !is_own && has_libraries() { path.into() } else { self.join(path) }
    }

    /// Whether it is the host's own.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Whether there is something of a driver that says its version, whatever it says.
    #[must_use]
    pub(crate) fn has_driver(&self) -> bool {
        self.in_proc(proc::VERSION).exists()
    }

    /// The kernel's driver; `None` where there is none.
    #[must_use]
    pub fn driver(&self) -> Option<DriverVersion> {
        proc::driver(self)
    }

    /// What there is.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`].
    pub fn inventory(&self) -> Result<Inventory, GpuError> {
        let driver = self.driver().ok_or_else(|| {
            let file = self.in_proc(proc::VERSION);
            let why = if file.exists() { "says no version that is understood" } else { "is not there" };
            GpuError::NoDriver(format!("{} {why}", file.display()))
        })?;
        let mut gpus = proc::gpus(self);
        if gpus.iter().any(|gpu| !proc::is_known(&gpu.uuid))
            && let Err(why) = nvml::complete(self, &mut gpus, NVML_LIMIT)
        {
            // They are known by their index and address all the same.
            tracing::warn!(why, "the UUIDs of GPUs that were not used yet are not known");
        }
        Ok(Inventory { driver, gpus })
    }

    /// What can be given: in a container that was given some GPUs, /proc shows all, and only these have device nodes. On a
    /// new host there may be no node yet, and that counts for nothing.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`].
    pub fn within_reach(&self) -> Result<Inventory, GpuError> {
        let mut inventory = self.inventory()?;
        let has_node = |gpu: &Gpu| {
            let node = format!("/dev/nvidia{}", gpu.minor);
            self.join(&node).exists() || Path::new(&node).exists()
        };
        if inventory.gpus.iter().any(has_node) {
            inventory.gpus.retain(has_node);
        }
        Ok(inventory)
    }
}
