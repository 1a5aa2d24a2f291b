//! Messages with descriptors (SCM_RIGHTS) over a unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest message, in bytes.
const MESSAGE_LIMIT: usize = 4096;
/// The most descriptors that come with one.
const DESCRIPTORS: usize = 4;

/// Receives what was sent in one piece, and the descriptors that came with it; nothing at the end of the stream.
/// Descriptors for which this process has no room are missing. Cancel safe.
pub(crate) async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut text = vec![0; MESSAGE_LIMIT];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received = recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags)?;
            let messages = ancillary.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            let descriptors = messages.flatten().collect();
            text.truncate(received.bytes);
            Ok((text, descriptors))
        })
        .await
}

/// Receives a message; `None` at the end of the stream.
pub(super) async fn receive_message<T: DeserializeOwned>(
    stream: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (text, descriptors) = receive(stream).await?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text)?, descriptors)))
}

/// Sends a message that is shorter than any buffer of a socket.
pub(super) async fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            sendmsg(stream.as_fd(), &[IoSlice::new(&text)], &mut ancillary, flags)?;
            Ok(())
        })
        .await
}
