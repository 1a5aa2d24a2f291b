//! Attaching to a container, from the caller's side.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::control::{Answer, Request, connect, send};
use super::frame::{Frame, read_frame, write_frame};
use crate::error::Failure;
use crate::state::ContainerDir;

/// How long a supervisor may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to a container's streams.
#[derive(Debug)]
pub struct Attached {
    /// What comes from the container.
    pub output: AttachedOutput,
    /// What goes to it.
    pub input: AttachedInput,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it takes input.
    pub takes_input: bool,
}

/// What comes from a container, from the moment of attaching on.
#[derive(Debug)]
pub struct AttachedOutput(BufReader<OwnedReadHalf>);

/// What goes to a container. Dropping it ends the attachment.
#[derive(Debug)]
pub struct AttachedInput(OwnedWriteHalf);

/// Attaches. `None` when there is no supervisor.
///
/// # Errors
/// What the socket returns; a supervisor's refusal is the inner error.
pub(crate) async fn attach(
    container: &ContainerDir,
    input: bool,
) -> io::Result<Option<Result<Attached, Failure>>> {
    let Some(stream) = connect(container).await? else { return Ok(None) };
    tokio::time::timeout(ANSWER_LIMIT, converse(stream, input)).await?
}

async fn converse(mut stream: UnixStream, input: bool) -> io::Result<Option<Result<Attached, Failure>>> {
    send(&mut stream, Request::Attach { input }).await?;
    let (from, to) = stream.into_split();
    let mut from = BufReader::new(from);
    let mut line = String::new();
    if from.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(match serde_json::from_str(&line)? {
        Answer::Attached { terminal, takes_input } => {
            Ok(Attached { output: AttachedOutput(from), input: AttachedInput(to), terminal, takes_input })
        }
        Answer::Failed(failure) => Err(failure),
        Answer::Done | Answer::Ended(_) => return Err(io::ErrorKind::InvalidData.into()),
    }))
}

impl AttachedOutput {
    /// The next piece of output, or of a gap; `None` when the container has ended or its supervisor has gone.
    ///
    /// Not cancel safe.
    ///
    /// # Errors
    /// What the connection returns.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        read_frame(&mut self.0).await
    }
}

impl AttachedInput {
    /// Sends input, or the size of the caller's terminal.
    ///
    /// Not cancel safe.
    ///
    /// # Errors
    /// What the connection returns.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        write_frame(&mut self.0, frame).await
    }
}
