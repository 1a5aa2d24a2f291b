//! Logs: what a container writes to its standard streams, on disk, with time and stream, byte for byte.
//!
//! ```text
//!   pump ──bytes──> LogWriter ──entries──> log, log.1, log.2 …      LogReader ──entries──> `logs`
//! ```
//!
//! One file a container, and older ones by number. The formats are those of others, so that their tools read them:
//! Kubernetes' (`cri`) and docker's (`json-file`).
//! Invariant: the bytes of a stream's entries, put together, are the bytes that the container wrote, but for gaps that
//! are counted in an entry of their own. Not here: who reads the container's pipes (`supervise::stdio`).

mod audience;
mod files;
mod format;
mod index;
mod journald;
mod lines;
mod reader;
mod recent;
mod writer;

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use audience::nobody_reads;
pub(crate) use files::{begin_another, file_at, open_newest};
pub use format::{decode, encode};
pub use journald::JournaldConfig;
pub(crate) use journald::JournaldWriter;
pub(crate) use lines::LineReader;
pub use reader::{LogReader, ReadLimits};
pub(crate) use recent::logged_at;
pub(crate) use writer::{LogWriter, Unlogged};

/// The most that one entry holds, in bytes: what Kubernetes' and docker's readers expect at most.
pub const ENTRY_LIMIT_BYTES: usize = 16 << 10;

/// How a container's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Kubernetes' format: `TIME STREAM P|F BYTES`, a line an entry.
    Cri,
    /// docker's: a JSON object a line, with `log`, `stream` and `time`.
    JsonFile,
}

/// What happens when an entry cannot be written, because the disk is full, say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It is dropped and counted; the next entry that can be written says how much is missing.
    #[default]
    Drop,
    /// The container waits until it can be written.
    Block,
    /// The container is stopped.
    Stop,
}

/// How a container's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The format.
    pub format: LogFormat,
    /// How large one file becomes, in bytes, before another one is begun.
    pub max_bytes: u64,
    /// How many files are kept, the newest included.
    pub max_files: u32,
    /// What happens when the disk is full.
    pub on_full: OnFull,
}

/// Which stream of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output: a line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was read from the container.
    pub time: Timestamp,
    /// From which stream.
    pub stream: Stream,
    /// Whether a line ends after it. If not, the next entry of the stream goes on with the line.
    pub ends_line: bool,
    /// The bytes, without the line's end.
    pub bytes: Vec<u8>,
    /// Its number in its log, from 1 on; 0 of one that comes from none.
    pub seq: u64,
}

/// A name that is not one of the formats'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a log driver: give cri, json-file, journald or none", crate::id::quote(.0))]
pub struct UnknownFormat(String);

impl LogFormat {
    /// Its name, as users give it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cri => "cri",
            Self::JsonFile => "json-file",
        }
    }
}

impl FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Cri, Self::JsonFile]
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Cri, max_bytes: 16 << 20, max_files: 4, on_full: OnFull::Drop }
    }
}

impl Stream {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
