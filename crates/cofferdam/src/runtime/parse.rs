//! Reading what runtimes print: states, lists and process tables, as pure functions of bytes.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ProcessInfo;
use crate::lifecycle::Status;

/// A container as its runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeState {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: Status,
    /// The pid of its process or sandbox; `None` once it has ended.
    pub pid: Option<i32>,
    /// Its bundle.
    pub bundle: PathBuf,
}

/// A container in a runtime's list, which need not be one of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedContainer {
    /// Its id: foreign text.
    pub id: String,
    /// Its status in the runtime's words.
    pub status: String,
    /// The pid of its process or sandbox.
    pub pid: Option<i32>,
    /// Its bundle.
    pub bundle: PathBuf,
    /// When it was made, where the runtime says so.
    pub created: Option<Timestamp>,
}

/// Parses the output of `state`.
///
/// # Errors
/// Why it is not one.
pub fn parse_state(output: &[u8]) -> Result<RuntimeState, String> {
    let value: Value = serde_json::from_slice(output).map_err(|error| error.to_string())?;
    let text =
        |key: &str| value.get(key).and_then(Value::as_str).ok_or_else(|| format!("`{key}` is missing"));
    let status = text("status")?;
    Ok(RuntimeState {
        id: text("id")?.to_owned(),
        status: parse_status(status).ok_or_else(|| format!("the status {status:?} is not known"))?,
        pid: value.get("pid").and_then(parse_pid),
        bundle: text("bundle").unwrap_or_default().into(),
    })
}

/// Parses the output of `list --format json`; `null` is an empty list.
///
/// # Errors
/// Why it is not one.
pub fn parse_list(output: &[u8]) -> Result<Vec<ListedContainer>, String> {
    let value: Value = serde_json::from_slice(output).map_err(|error| error.to_string())?;
    let entries = match value {
        Value::Null => return Ok(vec![]),
        Value::Array(entries) => entries,
        _ => return Err("it is not an array".into()),
    };
    entries
        .iter()
        .map(|entry| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str);
            Ok(ListedContainer {
                id: text("id").ok_or("an entry has no `id`")?.to_owned(),
                status: text("status").unwrap_or("unknown").to_owned(),
                pid: entry.get("pid").and_then(parse_pid),
                bundle: text("bundle").unwrap_or_default().into(),
                created: text("created").and_then(|time| time.parse().ok()),
            })
        })
        .collect()
}

/// Parses the table that `runsc ps` prints: a header, then rows whose last column may hold spaces.
///
/// # Errors
/// Why it is not one.
pub fn parse_process_table(output: &[u8]) -> Result<Vec<ProcessInfo>, String> {
    let text = String::from_utf8_lossy(output);
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let column = |name: &str| {
        header.iter().position(|title| *title == name).ok_or_else(|| format!("the column {name} is missing"))
    };
    let (uid, pid, ppid, time, command) =
        (column("UID")?, column("PID")?, column("PPID")?, column("TIME")?, column("CMD")?);
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let word =
                |index: usize| words.get(index).copied().ok_or_else(|| format!("a row is cut: {line:?}"));
            let number =
                |index: usize| word(index)?.parse::<i32>().map_err(|_| format!("a row has no pid: {line:?}"));
            Ok(ProcessInfo {
                uid: word(uid)?.to_owned(),
                pid: number(pid)?,
                ppid: number(ppid)?,
                time: word(time)?.to_owned(),
                command: words.get(command..).unwrap_or_default().join(" "),
            })
        })
        .collect()
}

fn parse_status(text: &str) -> Option<Status> {
    Some(match text {
        "creating" => Status::Creating,
        "created" => Status::Created,
        "running" => Status::Running,
        "paused" | "pausing" => Status::Paused,
        "stopped" => Status::Stopped,
        _ => return None,
    })
}

/// A pid as runtimes print it: 0 and -1 mean none.
fn parse_pid(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn states_are_read_from_verbatim_output() {
        let runc = br#"{
  "ociVersion": "1.0.2-dev",
  "id": "abc",
  "pid": 0,
  "status": "stopped",
  "bundle": "/tmp/b",
  "rootfs": "/tmp/b/rootfs",
  "created": "2026-11-24T00:07:35.304Z",
  "owner": ""
}"#;
        let state = parse_state(runc).unwrap();
        assert_eq!((state.status, state.pid), (Status::Stopped, None));
        let runsc = br#"{"ociVersion":"1.0.2-dev","id":"abc","status":"stopped","pid":-1,"bundle":"/tmp/b"}"#;
        assert_eq!(parse_state(runsc).unwrap().pid, None);
    }

    #[test]
    fn garbage_is_an_error_and_not_a_state() {
        for output in
            [&b""[..], b"null", b"{}", b"[]", b"{\"id\":1}", b"{\"id\":\"a\",\"status\":\"x\"}", b"\xff"]
        {
            assert!(parse_state(output).is_err(), "{output:?}");
        }
        for output in [&b""[..], b"{}", b"[{}]", b"[1]", b"[null]"] {
            assert!(parse_list(output).is_err(), "{output:?}");
        }
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(parse_list(b"null\n").unwrap(), []);
        assert_eq!(parse_list(b"[]").unwrap(), []);
        let list = parse_list(br#"[{"ociVersion":"1","id":"x","pid":12,"status":"running","bundle":"/b","created":"2026-11-24T00:07:35.304Z"}]"#);
        let [container] = &list.unwrap()[..] else { panic!("one is there") };
        assert_eq!((container.pid, container.status.as_str()), (Some(12), "running"));
        assert!(container.created.is_some());
    }

    #[test]
    fn process_tables_are_read() {
        // Verbatim from runsc 20240729.
        let table = b"UID       PID       PPID      C         TTY       STIME     TIME      CMD\n\
                      0         1         0         0         ?         00:07     10ms      sleep 5\n";
        let processes = parse_process_table(table).unwrap();
        assert_eq!(processes.len(), 1);
        assert_eq!((processes[0].pid, processes[0].command.as_str()), (1, "sleep 5"));
        assert!(parse_process_table(b"nothing\n").is_err());
        assert!(parse_process_table(b"UID PID PPID TIME CMD\n0 x\n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (parse_state(&bytes), parse_list(&bytes), parse_process_table(&bytes));
        }

        #[test]
        fn a_state_has_a_real_pid_or_none(pid: i64) {
            let text = format!(r#"{{"id":"a","status":"running","pid":{pid},"bundle":"/"}}"#);
            let state = parse_state(text.as_bytes()).unwrap();
            prop_assert!(state.pid.is_none_or(|pid| pid > 0));
        }
    }
}
