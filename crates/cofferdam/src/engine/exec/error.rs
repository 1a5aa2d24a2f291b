//! Why a process could not be run in a container.

use super::super::EngineError;
use crate::bundle::BundleError;
use crate::error::{Code, Diagnose};
use crate::request::Refused;
use crate::rootfs::{CommandError, RootfsError, UserError};
use crate::supervise::StartError;

/// A process that could not be run in a container. The container is not affected.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The request cannot be right.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The container's specification cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The container's root filesystem cannot be read.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The user is unknown.
    #[error(transparent)]
    User(#[from] UserError),
    /// The command cannot be executed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The runtime failed, or supervision did.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Diagnose for ExecError {
    fn code(&self) -> Code {
        match self {
            Self::Engine(error) => error.code(),
            Self::Refused(error) => error.code(),
            Self::Bundle(error) => error.code(),
            Self::Rootfs(error) => error.code(),
            Self::User(error) => error.code(),
            Self::Command(error) => error.code(),
            Self::Start(error) => error.code(),
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.next_step(),
            Self::Refused(error) => error.next_step(),
            Self::Bundle(error) => error.next_step(),
            Self::Rootfs(error) => error.next_step(),
            Self::User(error) => error.next_step(),
            Self::Command(error) => error.next_step(),
            Self::Start(error) => error.next_step(),
        }
    }
}
