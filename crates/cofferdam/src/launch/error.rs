//! Why a container could not be launched.

use std::io;
use std::path::PathBuf;

use crate::bundle::BundleError;
use crate::cdi::CdiError;
use crate::error::{Code, Diagnose};
use crate::fault::Fault;
use crate::gpu::GpuError;
use crate::network::{CniError, NetworkError};
use crate::request::Refused;
use crate::rootfs::{CommandError, OverlayError, RootfsError, UserError};
use crate::runtime::{LocateError, RuntimeError};
use crate::spec::{PrepareError, RateError};
use crate::state::StateError;
use crate::supervise::StartError;
use crate::volume::VolumeError;

/// A launch that failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The request cannot be right.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The runtime cannot be found.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// The runtime cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The root filesystem cannot be used.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The layers of the image cannot be put together.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The user is unknown.
    #[error(transparent)]
    User(#[from] UserError),
    /// The specification cannot be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The GPUs cannot be given.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A device cannot be given.
    #[error(transparent)]
    Cdi(#[from] CdiError),
    /// The rate of a device cannot be limited.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// The command cannot be executed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// There is no such network, or its files cannot be written.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The network cannot be joined.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The source of a mount is missing.
    #[error("the source of a mount, {}, is not there", .path.display())]
    MountSource {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A volume cannot be used.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// This user may not.
    #[error("cofferdam needs root for containers; this is the user {0}")]
    NotRoot(u32),
    /// Making or supervising the container failed.
    #[error(transparent)]
    Start(#[from] StartError),
    /// This process supervises a container already: children do not say whose they are.
    #[error("this process supervises another container")]
    AlreadySupervising,
    /// The task that supervised it died.
    #[error("the supervisor's task died")]
    SupervisorDied,
    /// A test made a step fail.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl LaunchError {
    fn inner(&self) -> Option<&dyn Diagnose> {
        Some(match self {
            Self::Refused(error) => error,
            Self::Locate(error) => error,
            Self::Runtime(error) => error,
            Self::Bundle(error) => error,
            Self::Rootfs(error) => error,
            Self::Overlay(error) => error,
            Self::User(error) => error,
            Self::Prepare(error) => error,
            Self::Gpu(error) => error,
            Self::Cdi(error) => error,
            Self::Rate(error) => error,
            Self::Command(error) => error,
            Self::Network(error) => error,
            Self::Cni(error) => error,
            Self::Volume(error) => error,
            Self::State(error) => error,
            Self::Start(error) => error,
            Self::MountSource { .. }
            | Self::NotRoot(_)
            | Self::AlreadySupervising
            | Self::SupervisorDied
            | Self::Fault(_) => return None,
        })
    }
}

impl Diagnose for LaunchError {
    fn code(&self) -> Code {
        match self {
            Self::MountSource { .. } => Code::MountSourceMissing,
            Self::NotRoot(_) => Code::NotPermitted,
            Self::AlreadySupervising => Code::AlreadySupervising,
            _ => self.inner().map_or(Code::Internal, Diagnose::code),
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::MountSource { path, .. } => Some(format!(
                "make it first: mkdir -p {} (docker would make a directory, also where a file was meant)",
                path.display()
            )),
            Self::NotRoot(_) => Some("run it as root: sudo cofferdam ...".into()),
            Self::AlreadySupervising => {
                Some("wait for the end of that one, or give each container a monitor (Engine::detach)".into())
            }
            _ => self.inner().and_then(Diagnose::next_step),
        }
    }
}
