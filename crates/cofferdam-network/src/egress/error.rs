//! What can go wrong with a gate.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A gate that could not be made, changed or served. Wherever this happens, the gate holds the policy it held before,
/// or lets nothing through.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GateError {
    /// A program is nowhere.
    #[error("the program {program} is missing: install {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
    },
    /// A program could not be started.
    #[error("{} could not be started", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} in {} failed ({status}): {said}", namespace.display())]
    Program {
        /// Its name.
        program: &'static str,
        /// The network namespace it ran in.
        namespace: PathBuf,
        /// How it ended.
        status: String,
        /// The end of what it wrote to standard error.
        said: String,
    },
    /// The kernel refused something in a network namespace.
    #[error("could not {what} in the network namespace {}", namespace.display())]
    Namespace {
        /// The namespace.
        namespace: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The attachment is nothing that a gate can stand in.
    #[error("the attachment cannot have a gate: {0}")]
    Unfit(String),
    /// There is no gate in the namespace.
    #[error("there is no gate in the network namespace {}", .0.display())]
    NoGate(PathBuf),
}
