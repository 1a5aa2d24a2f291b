//! The frames in which an attached caller and a supervisor talk: docker's header for its streams, and a few more kinds.
//!
//! ```text
//!   0      1  2  3   4          8
//!   KIND   0  0  0   LENGTH     PAYLOAD        length in bytes, most significant byte first
//! ```

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::exit::ExitReport;
use crate::logs::Stream;

/// The longest payload, in bytes: more than a pump's buffer, or a report.
const PAYLOAD_LIMIT: usize = 1 << 20;

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// For the container's standard input.
    Input(Vec<u8>),
    /// From the container.
    Output(Stream, Vec<u8>),
    /// So many bytes of output were passed over, because the caller was too slow.
    Gap(u64),
    /// The size of the caller's terminal.
    Size {
        /// In lines.
        rows: u16,
        /// In columns.
        columns: u16,
    },
    /// How the container ended: the last frame.
    Ended(Box<ExitReport>),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Input(_) => 0,
            Self::Output(Stream::Stdout, _) => 1,
            Self::Output(Stream::Stderr, _) => 2,
            Self::Gap(_) => 3,
            Self::Size { .. } => 4,
            Self::Ended(_) => 5,
        }
    }

    fn of(kind: u8, payload: Vec<u8>) -> Option<Self> {
        Some(match kind {
            0 => Self::Input(payload),
            1 => Self::Output(Stream::Stdout, payload),
            2 => Self::Output(Stream::Stderr, payload),
            3 => Self::Gap(u64::from_be_bytes(payload.try_into().ok()?)),
            4 => {
                let [r0, r1, c0, c1] = payload.try_into().ok()?;
                Self::Size { rows: u16::from_be_bytes([r0, r1]), columns: u16::from_be_bytes([c0, c1]) }
            }
            5 => Self::Ended(serde_json::from_slice(&payload).ok()?),
            _ => return None,
        })
    }
}

/// Writes one frame.
///
/// Not cancel safe: a part of it may have been written.
pub(super) async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    match frame {
        Frame::Input(bytes) | Frame::Output(_, bytes) => write_payload(writer, frame.kind(), bytes).await,
        Frame::Ended(report) => write_payload(writer, frame.kind(), &serde_json::to_vec(report)?).await,
        Frame::Gap(bytes) => write_payload(writer, frame.kind(), &bytes.to_be_bytes()).await,
        Frame::Size { rows, columns } => {
            let ([r0, r1], [c0, c1]) = (rows.to_be_bytes(), columns.to_be_bytes());
            write_payload(writer, frame.kind(), &[r0, r1, c0, c1]).await
        }
    }
}

/// Writes output without copying it into a frame first.
pub(super) async fn write_output(
    writer: &mut (impl AsyncWrite + Unpin),
    stream: Stream,
    bytes: &[u8],
) -> io::Result<()> {
    write_payload(writer, Frame::Output(stream, vec![]).kind(), bytes).await
}

async fn write_payload(writer: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let [a, b, c, d] = length.to_be_bytes();
    let mut frame = Vec::with_capacity(8 + payload.len());
    frame.extend_from_slice(&[kind, 0, 0, 0, a, b, c, d]);
    frame.extend_from_slice(payload);
    writer.write_all(&frame).await
}

/// Reads one frame; `None` at the end of the connection.
///
/// Not cancel safe: a part of it may have been read.
///
/// # Errors
/// What the connection returns; [`io::ErrorKind::InvalidData`] for what is no frame.
pub(super) async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut header = [0; 8];
    match reader.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [kind, _, _, _, a, b, c, d] = header;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let invalid =
        || io::Error::new(io::ErrorKind::InvalidData, format!("no frame: kind {kind}, {length} bytes"));
    if length > PAYLOAD_LIMIT {
        return Err(invalid());
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Frame::of(kind, payload).map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn back(bytes: &[u8]) -> io::Result<Option<Frame>> {
        read_frame(&mut &*bytes).await
    }

    #[tokio::test]
    async fn frames_survive_the_wire() {
        for frame in [
            Frame::Input(b"ls\n".to_vec()),
            Frame::Output(Stream::Stdout, vec![0; 64 << 10]),
            Frame::Output(Stream::Stderr, vec![]),
            Frame::Gap(u64::MAX),
            Frame::Size { rows: 24, columns: 65535 },
        ] {
            let mut wire = Vec::new();
            write_frame(&mut wire, &frame).await.unwrap();
            assert_eq!(back(&wire).await.unwrap(), Some(frame));
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_and_an_end_is_an_end() {
        assert_eq!(back(b"").await.unwrap(), None);
        assert_eq!(back(&[1, 0, 0]).await.unwrap(), None);
        assert!(back(&[1, 0, 0, 0, 0, 0, 0, 5, b'x']).await.is_err());
        assert!(back(&[1, 0, 0, 0, 255, 255, 255, 255]).await.is_err(), "too long");
        assert!(back(&[9, 0, 0, 0, 0, 0, 0, 0]).await.is_err(), "unknown");
        assert!(back(&[4, 0, 0, 0, 0, 0, 0, 1, 0]).await.is_err(), "a size has four bytes");
    }
}
