//! Entries as lines of a file, and back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{LogEntry, LogFormat, Stream};

/// docker's entry. `raw` is ours: the bytes, in base64, where they are not UTF-8 and `log` only shows them.
#[derive(Debug, Serialize, Deserialize)]
struct JsonEntry<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    stream: Stream,
    time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
}

/// The text that stands before every entry of one moment and stream: made once for all lines that were read together.
pub(super) struct Head {
    format: LogFormat,
    time: Timestamp,
    stream: Stream,
    /// What stands before the bytes (`cri`) or after them (`json-file`), of an entry that ends a line and of one that
    /// does not.
    whole: String,
    part: String,
}

impl Head {
    pub(super) fn new(format: LogFormat, time: Timestamp, stream: Stream) -> Self {
        let (whole, part) = match format {
            LogFormat::Cri => {
                let text = format!("{time:.9} {} ", stream.name());
                (format!("{text}F "), format!("{text}P "))
            }
            LogFormat::JsonFile => {
                let text = format!(r#"","stream":"{}","time":"{time}"}}"#, stream.name());
                (format!(r"\n{text}"), text)
            }
        };
        Self { format, time, stream, whole, part }
    }

    /// Appends an entry as a line.
    pub(super) fn encode(&self, bytes: &[u8], ends_line: bool, out: &mut Vec<u8>) {
        match self.format {
            LogFormat::Cri => {
                let head = if ends_line { &self.whole } else { &self.part };
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(bytes);
            }
            LogFormat::JsonFile if bytes.iter().all(is_plain) => {
                out.extend_from_slice(br#"{"log":""#);
                out.extend_from_slice(bytes);
                out.extend_from_slice(if ends_line { &self.whole } else { &self.part }.as_bytes());
            }
            LogFormat::JsonFile => {
                let mut log = String::from_utf8_lossy(bytes);
                let raw = (log.as_bytes() != bytes).then(|| data_encoding::BASE64.encode(bytes));
                if ends_line {
                    log.to_mut().push('\n');
                }
                let entry = JsonEntry { log, stream: self.stream, time: self.time, raw };
                // Texts, numbers and a time: none of them can fail to be JSON, and a vector takes all.
                let _ = serde_json::to_writer(&mut *out, &entry);
            }
        }
        out.push(b'\n');
    }
}

/// Whether a byte stands for itself in a JSON string.
fn is_plain(byte: &u8) -> bool {
    (b' '..=b'~').contains(byte) && *byte != b'"' && *byte != b'\\'
}

/// Appends an entry as a line, its end included.
pub fn encode(format: LogFormat, entry: &LogEntry, out: &mut Vec<u8>) {
    Head::new(format, entry.time, entry.stream).encode(&entry.bytes, entry.ends_line, out);
}

/// Reads an entry from a line, without the line's end; `None` when it is none, because the writer died in it, say.
#[must_use]
pub fn decode(format: LogFormat, line: &[u8]) -> Option<LogEntry> {
    match format {
        LogFormat::Cri => {
            let mut parts = line.splitn(4, |byte| *byte == b' ');
            let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
            let stream = stream_of(parts.next()?)?;
            // Kubernetes allows further tags after a colon.
            let ends_line = match parts.next()?.split(|byte| *byte == b':').next()? {
                b"F" => true,
                b"P" => false,
                _ => return None,
            };
            Some(LogEntry { time, stream, ends_line, bytes: parts.next()?.to_vec(), seq: 0 })
        }
        LogFormat::JsonFile => {
            let entry: JsonEntry<'_> = serde_json::from_slice(line).ok()?;
            let (text, ends_line) = match entry.log.strip_suffix('\n') {
                Some(text) => (text, true),
                None => (&*entry.log, false),
            };
            let bytes = match entry.raw {
                Some(raw) => data_encoding::BASE64.decode(raw.as_bytes()).ok()?,
                None => text.as_bytes().to_vec(),
            };
            Some(LogEntry { time: entry.time, stream: entry.stream, ends_line, bytes, seq: 0 })
        }
    }
}

fn stream_of(name: &[u8]) -> Option<Stream> {
    [Stream::Stdout, Stream::Stderr].into_iter().find(|stream| stream.name().as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(bytes: &[u8], ends_line: bool) -> LogEntry {
        let time = "2026-11-25T01:02:03.000000004Z".parse().unwrap();
        LogEntry { time, stream: Stream::Stderr, ends_line, bytes: bytes.to_vec(), seq: 0 }
    }

    fn line(format: LogFormat, entry: &LogEntry) -> Vec<u8> {
        let mut out = Vec::new();
        encode(format, entry, &mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1, "an entry is one line");
        out.pop();
        out
    }

    #[test]
    fn the_formats_are_those_of_kubernetes_and_docker() {
        let text = |format, entry: &LogEntry| String::from_utf8(line(format, entry)).unwrap();
        assert_eq!(
            text(LogFormat::Cri, &entry(b"hello", true)),
            "2026-11-25T01:02:03.000000004Z stderr F hello"
        );
        assert_eq!(text(LogFormat::Cri, &entry(b"", false)), "2026-11-25T01:02:03.000000004Z stderr P ");
        assert_eq!(
            text(LogFormat::JsonFile, &entry(b"a\"b", true)),
            r#"{"log":"a\"b\n","stream":"stderr","time":"2026-11-25T01:02:03.000000004Z"}"#
        );
    }

    #[test]
    fn the_short_way_to_json_is_the_same_as_the_long_one() {
        for (bytes, ends_line) in [(&b"plain [text]!"[..], true), (b"plain", false), (b"", true)] {
            let entry = entry(bytes, ends_line);
            let log = String::from_utf8([bytes, if ends_line { b"\n" } else { b"" }].concat()).unwrap();
            let long = JsonEntry { log: log.into(), stream: entry.stream, time: entry.time, raw: None };
            assert_eq!(line(LogFormat::JsonFile, &entry), serde_json::to_vec(&long).unwrap());
        }
    }

    #[test]
    fn entries_of_others_are_read() {
        // Verbatim from a kubelet's node and from docker 20.10.
        let cri = b"2016-10-06T00:17:09.669794202Z stdout P:x log content 1";
        assert_eq!(decode(LogFormat::Cri, cri).unwrap().bytes, b"log content 1");
        let docker = br#"{"log":"caf\u00e9\r\n","stream":"stdout","time":"2023-01-02T03:04:05.678901234Z"}"#;
        assert_eq!(decode(LogFormat::JsonFile, docker).unwrap().bytes, "café\r".as_bytes());
    }

    proptest! {
        #[test]
        fn bytes_survive_in_both_formats(bytes in prop::collection::vec(any::<u8>(), 0..200), ends_line: bool) {
            let bytes: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\n').collect();
            let entry = entry(&bytes, ends_line);
            for format in [LogFormat::Cri, LogFormat::JsonFile] {
                prop_assert_eq!(decode(format, &line(format, &entry)), Some(entry.clone()));
            }
        }

        #[test]
        fn no_line_panics(line: Vec<u8>) {
            for format in [LogFormat::Cri, LogFormat::JsonFile] {
                let _ = decode(format, &line);
            }
        }
    }
}
