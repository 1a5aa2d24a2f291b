//! The terminal of a container: a runtime makes it and sends us the other side over a socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use std::time::Duration;

use tokio::net::UnixListener;

use super::error::{StartError, supervision};
use super::stdio::OurEnds;
use crate::keeper::receive;

/// How long a runtime that has succeeded may take to have sent the terminal.
const TERMINAL_LIMIT: Duration = Duration::from_secs(2);

/// A socket on which one terminal is expected. Its file goes when it is dropped.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at a path that is short enough for a socket.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }

    /// Where the runtime is to connect.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the terminal. Cancel safe until somebody has connected.
    pub(crate) async fn receive(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        // The payload is the terminal's name, which is of no use here.
        let (_, descriptors) = receive(&stream).await?;
        let none = || io::Error::new(io::ErrorKind::InvalidData, "the runtime sent no terminal");
        descriptors.into_iter().next().ok_or_else(none)
    }
}

/// Runs the call of a runtime that makes a process, and takes the terminal that the runtime sends meanwhile.
///
/// The streams are the process's own, so what the runtime says when it fails is read from there.
pub(crate) async fn with_terminal<E: Into<StartError>>(
    call: impl Future<Output = Result<i32, E>>,
    console: Option<&ConsoleSocket>,
    ours: &OurEnds,
) -> Result<(i32, Option<OwnedFd>), StartError> {
    let told = |error: E| match error.into() {
        StartError::Runtime(error) => StartError::Runtime(error.with_words(|| ours.error_text())),
        other => other,
    };
    let Some(console) = console else { return Ok((call.await.map_err(told)?, None)) };
    let lost = supervision("the runtime sent no terminal");
    let receive = console.receive();
    tokio::pin!(call, receive);
    let mut master = None;
    let pid = loop {
        tokio::select! {
            pid = &mut call => break pid.map_err(told)?,
            received = &mut receive, if master.is_none() => master = Some(received.map_err(&lost)?),
        }
    };
    let master = match master {
        Some(master) => master,
        None => tokio::time::timeout(TERMINAL_LIMIT, receive)
            .await
            .map_err(|_| lost(io::ErrorKind::TimedOut.into()))?
            .map_err(&lost)?,
    };
    Ok((pid, Some(master)))
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // It goes with the container's folder otherwise.
        let _ = std::fs::remove_file(&self.path);
    }
}
