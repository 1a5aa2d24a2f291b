//! What runtimes write when something goes wrong: their log files, and the few texts that have to be recognised.
//!
//! The texts are the second line of defence. The first is that cofferdam checks for itself before it asks a runtime.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use crate::error::Code;

/// How much of the end of a log is read, in bytes.
const TAIL_BYTES: u64 = 64 << 10;

/// The message of the last error in a log of JSON lines, as runc, crun, runsc and youki write them.
///
/// Lines that are not JSON, or cut, are passed over.
#[must_use]
pub fn last_error(log: &[u8]) -> Option<String> {
    log.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let entry: Value = serde_json::from_slice(line).ok()?;
        let level = entry.get("level")?.as_str()?;
        if !["error", "fatal", "panic"].iter().any(|bad| level.eq_ignore_ascii_case(bad)) {
            return None;
        }
        // youki nests it, as the Rust tracing format does.
        let message = entry.get("msg").or_else(|| entry.pointer("/fields/message"))?;
        Some(message.as_str()?.to_owned())
    })
}

/// How long a log is now, in bytes: what a call writes comes after it.
pub(super) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// [`last_error`] of a file from a position on; `None` too when it cannot be read.
pub(crate) fn read_last_error(path: &Path, from: u64) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(from))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    last_error(&tail)
}

/// Whether a runtime says that it does not know a container.
pub(super) fn says_no_container(text: &str) -> bool {
    // runc and youki; runsc; crun, whose status file is not there.
    text.contains("container does not exist")
        || (text.contains("loading container") && text.contains("file does not exist"))
        || (text.contains("/status`") && text.contains("No such file"))
}

/// Whether a runtime says that the command cannot be found or executed.
///
/// A failure to make a file system, a hook or a socket speaks of missing files too, so the phrases of starting the
/// process itself have to be there.
pub(super) fn command_problem(text: &str) -> Option<Code> {
    let starting = [
        "exec: ",
        "executable file",
        "open executable",
        "failed to load ",
        "finding executable",
        "exec user process",
        "exec container process",
    ]
    .iter()
    .any(|phrase| text.contains(phrase));
    if !starting {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    if says(&["permission denied", "exec format error", "is a directory", "not executable"]) {
        Some(Code::CommandNotExecutable)
    } else if says(&["no such file", "not found", "not a directory", "too many levels of symbolic links"]) {
        Some(Code::CommandNotFound)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_error_is_found_among_other_lines() {
        // Verbatim: runc 1.4.3, runsc 20240729, youki's form.
        let log = br#"{"level":"warning","msg":"can't raise ambient capability CAP_KILL: operation not permitted","time":"2026-11-24T00:07:58Z"}
{"level":"error","msg":"runc run failed: unable to start container process: error during container init: exec: \"/bin/nope\": stat /bin/nope: no such file or directory","time":"2026-11-24T00:07:58Z"}
{"level":"warning","msg":"later","time":"2026-11-24T00:07:58Z"}
{"level":"err"#;
        assert!(last_error(log).unwrap().ends_with("no such file or directory"));
        let runsc = br#"{"msg":"running container: starting container: starting root container: starting sandbox: creating process: failed to load /bin/nope: no such file or directory","level":"error","time":"2026-11-24T00:07:59.178953936Z"}"#;
        assert_eq!(command_problem(&last_error(runsc).unwrap()), Some(Code::CommandNotFound));
        let youki = br#"{"timestamp":"x","level":"ERROR","fields":{"message":"failed to create container"}}"#;
        assert_eq!(last_error(youki).as_deref(), Some("failed to create container"));
        assert_eq!(last_error(b""), None);
    }

    #[test]
    fn command_problems_are_told_from_others() {
        let cases = [
            (r#"exec: "nope": executable file not found in $PATH"#, Some(Code::CommandNotFound)),
            (r#"exec: "/x": stat /x: no such file or directory"#, Some(Code::CommandNotFound)),
            (r#"exec: "/x": permission denied"#, Some(Code::CommandNotExecutable)),
            ("exec /x: exec format error", None),
            ("exec container process `/x`: Exec format error", Some(Code::CommandNotExecutable)),
            ("open executable: Permission denied", Some(Code::CommandNotExecutable)),
            (
                "executable file `nope` not found in $PATH: No such file or directory",
                Some(Code::CommandNotFound),
            ),
            ("mounting \"/x\" to rootfs: no such file or directory", None),
            ("error running hook: permission denied", None),
        ];
        for (text, expected) in cases {
            assert_eq!(command_problem(text), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_container_is_recognised() {
        for text in [
            "container does not exist",
            "loading container: file does not exist",
            "FetchSpec failed: loading container: file does not exist",
            "error opening file `/run/crun/abc/status`: No such file or directory",
        ] {
            assert!(says_no_container(text), "{text}");
        }
        assert!(!says_no_container("cannot connect: connection refused"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = last_error(&bytes);
            let text = String::from_utf8_lossy(&bytes);
            let _ = (says_no_container(&text), command_problem(&text));
        }
    }
}
