//! What is said of an end that nobody saw.

use crate::error::{Code, Failure};
use crate::lifecycle::Status;
use crate::state::{Record, SessionRecord};

/// Why nobody can tell how a container ended: its supervisor had died.
pub(crate) fn lost(record: &Record) -> Failure {
    let supervisor = record.supervisor.pid;
    let what = if record.status == Status::Creating {
        format!("its supervisor (pid {supervisor}) ended while it was being made")
    } else {
        format!(
            "its supervisor (pid {supervisor}) ended without a report of it, so nobody can tell how it ended"
        )
    };
    failure(what)
}

/// Why nobody can tell how a session ended: its supervisor had died.
pub(crate) fn lost_session(record: &SessionRecord) -> Failure {
    let supervisor = record.supervisor.pid;
    failure(format!(
        "its supervisor (pid {supervisor}) ended without a report of it, so nobody can tell how it ended"
    ))
}

/// Why nobody can tell how an adopted container, or a process in one, ended: the kernel did not say.
pub(super) fn unseen(name: &str) -> Failure {
    failure(format!(
        "the supervisor of {name} had been killed, and the kernel does not tell its successor how it ended"
    ))
}

fn failure(what: String) -> Failure {
    Failure {
        code: Code::RuntimeLost,
        what,
        why: vec![],
        next: Some("look for who killed the supervisor: the kernel log, a memory limit around it".into()),
    }
}
