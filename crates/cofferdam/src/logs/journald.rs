//! Handing a container's output to systemd-journald, with docker's field names.
//!
//! The native protocol: a datagram an entry, each field as `NAME=value` or, for any bytes, `NAME`, their number as 8
//! bytes, and the bytes (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{ENTRY_LIMIT_BYTES, Stream};
use crate::id::{ContainerId, ContainerName};

/// How long journald may take to take an entry, before it is given up.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// How long after a failure it is tried again: journald may be restarted.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Which journald.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournaldConfig {
    /// The one of a namespace (`systemd-journald@NAME.service`); the system's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl JournaldConfig {
    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let folder = match &self.namespace {
            Some(namespace) => format!("/run/systemd/journal.{namespace}"),
            None => "/run/systemd/journal".into(),
        };
        PathBuf::from(folder).join("socket")
    }
}

/// Hands the output of one container on.
#[derive(Debug)]
pub(crate) struct JournaldWriter {
    config: JournaldConfig,
    /// The fields that every entry has.
    fields: Vec<u8>,
    socket: Option<UnixDatagram>,
    retry_at: Option<Instant>,
    /// Bytes that are missing since the last entry, and why.
    gap: Option<(u64, io::Error)>,
}

impl JournaldWriter {
    /// Connects to journald.
    ///
    /// # Errors
    /// What the socket returns: nobody listens, say.
    pub(crate) fn open(
        config: JournaldConfig,
        id: &ContainerId,
        name: Option<&ContainerName>,
    ) -> io::Result<Self> {
        let mut fields = Vec::new();
        let name = name.map_or_else(|| id.short().to_owned(), ToString::to_string);
        for (field, value) in [
            ("CONTAINER_ID", id.short()),
            ("CONTAINER_ID_FULL", id.as_str()),
            ("CONTAINER_NAME", &name),
            ("CONTAINER_TAG", id.short()),
            ("SYSLOG_IDENTIFIER", id.short()),
        ] {
            push(&mut fields, field, value.as_bytes());
        }
        let socket = Some(connect(&config)?);
        Ok(Self { config, fields, socket, retry_at: None, gap: None })
    }

    /// Hands on what was read from a stream. Gives the number of bytes at its end that were not taken.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let length = end.min(ENTRY_LIMIT_BYTES);
            let ends_line = length == end && end < rest.len();
            if let Err(error) = self.send_with_gap(stream, &rest[..length], ends_line) {
                let before = self.gap.take().map_or(0, |(bytes, _)| bytes);
                if before == 0 {
                    tracing::warn!(%error, "journald does not take the container's output");
                }
                self.gap = Some((before.saturating_add(rest.len() as u64), error));
                return rest.len();
            }
            rest = &rest[length + usize::from(ends_line)..];
        }
        0
    }

    fn send_with_gap(&mut self, stream: Stream, bytes: &[u8], ends_line: bool) -> io::Result<()> {
        if let Some((missing, why)) = &self.gap {
            let words = format!("cofferdam: {missing} bytes of output are missing here: {why}");
            self.send(Stream::Stderr, words.as_bytes(), true)?;
            self.gap = None;
        }
        self.send(stream, bytes, ends_line)
    }

    fn send(&mut self, stream: Stream, bytes: &[u8], ends_line: bool) -> io::Result<()> {
        let mut entry = self.fields.clone();
        push(&mut entry, "MESSAGE", bytes);
        // Of syslog: info, and error.
        push(&mut entry, "PRIORITY", if stream == Stream::Stdout { b"6" } else { b"3" });
        if !ends_line {
            push(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        if let Some(socket) = &self.socket
            && socket.send(&entry).is_ok()
        {
            return Ok(());
        }
        // It has been restarted, or will be.
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(io::Error::other("journald is not there"));
        }
        self.socket = None;
        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
        let socket = connect(&self.config)?;
        socket.send(&entry)?;
        (self.socket, self.retry_at) = (Some(socket), None);
        Ok(())
    }
}

fn connect(config: &JournaldConfig) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(config.socket())?;
    socket.set_write_timeout(Some(SEND_LIMIT))?;
    Ok(socket)
}

/// Appends a field in the form that any bytes have.
fn push(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_bytes() {
        let mut entry = Vec::new();
        push(&mut entry, "MESSAGE", b"a\n\xff=");
        assert_eq!(entry, b"MESSAGE\n\x04\0\0\0\0\0\0\0a\n\xff=\n");
    }

    #[test]
    fn a_namespace_has_a_socket_of_its_own() {
        let socket =
            |namespace: Option<&str>| JournaldConfig { namespace: namespace.map(str::to_owned) }.socket();
        assert_eq!(socket(None), PathBuf::from("/run/systemd/journal/socket"));
        assert_eq!(socket(Some("a")), PathBuf::from("/run/systemd/journal.a/socket"));
    }
}
