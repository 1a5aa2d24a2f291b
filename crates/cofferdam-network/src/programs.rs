//! How foreign programs are run: by whoever uses this crate.
//!
//! A process that supervises containers reaps all of its children itself, so nothing in this crate may wait for one.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

/// A program that is to be run to its end.
#[derive(Debug, Clone)]
pub struct ProgramCall {
    /// The binary, an absolute path.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// What it reads from its standard input, which ends after it.
    pub stdin: Vec<u8>,
    /// How long it may take. Then it is killed with its process group.
    pub limit: Duration,
    /// How much of its standard output is kept, in bytes. The rest is read, and thrown away. For its standard error the
    /// runner has a limit of its own.
    pub output_limit_bytes: usize,
}

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct ProgramEnd {
    /// How.
    pub status: ProgramStatus,
    /// The first bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The last bytes, or the first, of its standard error.
    pub stderr: Vec<u8>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramStatus {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It took longer than its limit and was killed.
    TimedOut,
}

/// Runs programs.
#[async_trait]
pub trait Programs: Debug + Send + Sync {
    /// Runs a program to its end, in a process group of its own, with the environment of the call and no other.
    ///
    /// A dropped future kills the program's group. Called at any time, also for several programs at once.
    ///
    /// # Errors
    /// The program could not be started.
    async fn run(&self, call: ProgramCall) -> io::Result<ProgramEnd>;
}
