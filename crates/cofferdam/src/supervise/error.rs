//! Why a container could not be made.

use std::io;

use crate::error::{Code, Diagnose};
use crate::fault::Fault;
use crate::runtime::RuntimeError;
use crate::state::StateError;

/// A container that could not be made. Everything that had been made was unmade.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The kernel refused something that supervision needs.
    #[error("the container cannot be supervised: {what}")]
    Supervision {
        /// What was refused.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The caller gave up.
    #[error("the launch was cancelled")]
    Cancelled,
    /// A test made a step fail.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Diagnose for StartError {
    fn code(&self) -> Code {
        match self {
            Self::Runtime(error) => error.code(),
            Self::Supervision { .. } | Self::Fault(_) => Code::Internal,
            Self::State(error) => error.code(),
            Self::Cancelled => Code::Cancelled,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Runtime(error) => error.next_step(),
            Self::State(error) => error.next_step(),
            Self::Supervision { .. } | Self::Cancelled | Self::Fault(_) => None,
        }
    }
}

pub(crate) fn supervision(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Supervision { what, source }
}
