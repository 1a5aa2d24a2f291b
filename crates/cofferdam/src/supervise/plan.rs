//! Where a container's streams come from and go to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::request::StdioFiles;

/// A file for a container's streams that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be opened", .path.display())]
pub struct StreamError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What is at the caller's ends of a container's streams.
#[derive(Debug)]
pub struct StdioPlan {
    /// Where its standard input comes from; `None` is empty.
    pub stdin: Option<OwnedFd>,
    /// Where its standard output goes; `None` is nowhere.
    pub stdout: Option<OwnedFd>,
    /// Where its standard error goes; `None` is nowhere. With a terminal there is only standard output.
    pub stderr: Option<OwnedFd>,
    /// Where the input of attached callers goes: the other end of what `stdin` is read from. `None` takes none.
    pub input: Option<OwnedFd>,
}

impl StdioPlan {
    /// No input, and output to nowhere. It is still read and counted.
    #[must_use]
    pub fn discard() -> Self {
        Self { stdin: None, stdout: None, stderr: None, input: None }
    }

    /// Output to nowhere, and the input of attached callers. It stays open as long as the container lives.
    ///
    /// # Errors
    /// What making a pipe returns.
    pub fn interactive() -> io::Result<Self> {
        let (stdin, input) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { stdin: Some(stdin), input: Some(input), ..Self::discard() })
    }

    /// The streams of this process; input only where it is wanted.
    ///
    /// # Errors
    /// What duplicating a descriptor returns.
    pub fn inherit(stdin: bool) -> io::Result<Self> {
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        Ok(Self {
            stdin: if stdin { Some(own(io::stdin().as_fd())?) } else { None },
            stdout: Some(own(io::stdout().as_fd())?),
            stderr: Some(own(io::stderr().as_fd())?),
            input: None,
        })
    }

    /// The files of a container in the background.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn open(files: &StdioFiles) -> Result<Self, StreamError> {
        let plan = if files.interactive {
            let no_pipe = |source| StreamError { path: "a pipe for its input".into(), source };
            Self::interactive().map_err(no_pipe)?
        } else {
            Self::discard()
        };
        Ok(Self {
            stdin: plan.stdin.map_or_else(|| open(files.stdin.as_ref(), true), |stdin| Ok(Some(stdin)))?,
            stdout: open(files.stdout.as_ref(), false)?,
            stderr: open(files.stderr.as_ref(), false)?,
            input: plan.input,
        })
    }
}

fn open(path: Option<&PathBuf>, input: bool) -> Result<Option<OwnedFd>, StreamError> {
    let Some(path) = path else { return Ok(None) };
    let failed = |source| StreamError { path: path.clone(), source };
    let mut options = std::fs::OpenOptions::new();
    // Of a FIFO, to open the one end waits for the other. A terminal must not become this session's.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    options.custom_flags(flags.bits().cast_signed());
    if input {
        options.read(true);
    } else {
        options.append(true).create(true).mode(0o600);
    }
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => failed(io::Error::other("nobody reads from this FIFO, or it is a socket")),
        _ => failed(error),
    })?;
    rustix::io::ioctl_fionbio(&file, false).map_err(|errno| failed(errno.into()))?;
    Ok(Some(file.into()))
}
