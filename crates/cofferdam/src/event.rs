//! What happens to containers, in one order: the events of a state directory.
//!
//! Not here: where they are kept (`state::events`), and who says that something has happened (`supervise`, `engine`).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cgroup::MemoryWarning;
use crate::exit::{AskedBy, Cause, ExitReport, is_default};
use crate::health::HealthStatus;
use crate::id::{ContainerId, ContainerName};
use crate::request::Limits;
use crate::signal::Signal;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the order: 1, 2, 3 and so on, without a gap.
    pub seq: u64,
    /// When it was written down.
    pub time: Timestamp,
    /// To which container.
    pub id: ContainerId,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ContainerName>,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen to a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// It was made.
    Create {
        /// The runtime's name.
        runtime: String,
        /// The pid of its process, or of its sandbox.
        pid: i32,
    },
    /// Its process was started.
    Start,
    /// Another process was run in it.
    Exec {
        /// The command.
        command: Vec<String>,
        /// The pid that stands for it on the host.
        pid: i32,
    },
    /// That process has ended.
    ExecExit {
        /// The pid that stood for it.
        pid: i32,
        /// Why.
        cause: Cause,
    },
    /// A signal was sent to it.
    Kill {
        /// The signal.
        signal: Signal,
        /// On whose behalf.
        by: AskedBy,
    },
    /// It was frozen.
    Pause,
    /// It was thawed.
    Unpause,
    /// Limits of it were changed.
    Update {
        /// The new ones; what is missing stayed.
        limits: Limits,
    },
    /// The kernel killed a process of it for lack of memory.
    Oom {
        /// How many processes, until its end.
        kills: u64,
    },
    /// Its memory gets short.
    MemoryWarning {
        /// How short.
        #[serde(flatten)]
        warning: MemoryWarning,
    },
    /// A new supervisor has taken it over from one that was killed.
    Adopt {
        /// The pid of its process, or of its sandbox; `None` where it waited to be started again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// It is well now, or is not.
    HealthStatus {
        /// How it is.
        status: HealthStatus,
    },
    /// It is to be started again.
    Restart {
        /// How often it has been then.
        count: u32,
        /// The pause before, in milliseconds.
        pause_ms: u64,
    },
    /// It has ended. Exactly one for each run of a container.
    Exit {
        /// The code that a shell sees.
        code: u8,
        /// Why.
        cause: Cause,
        /// Who of us asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked_by: Option<AskedBy>,
        /// How often it had been started again before.
        #[serde(default, skip_serializing_if = "is_default")]
        restarts: u32,
    },
    /// Its gate has kept it from reaching something.
    NetDenied {
        /// What.
        what: String,
        /// The flag that would allow it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allow: Option<String>,
    },
    /// What it may reach was changed.
    Egress {
        /// To what.
        policy: String,
    },
    /// It was forgotten.
    Remove,
}

impl Happening {
    /// The end of a container, as its report has it.
    #[must_use]
    pub fn end(report: &ExitReport) -> Self {
        Self::Exit {
            code: report.cause.shell_code(),
            cause: report.cause.clone(),
            asked_by: report.asked_by,
            restarts: report.restarts,
        }
    }

    /// A word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Start => "start",
            Self::Exec { .. } => "exec",
            Self::ExecExit { .. } => "exec_exit",
            Self::Kill { .. } => "kill",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Update { .. } => "update",
            Self::Oom { .. } => "oom",
            Self::MemoryWarning { .. } => "memory_warning",
            Self::Adopt { .. } => "adopt",
            Self::HealthStatus { .. } => "health_status",
            Self::Restart { .. } => "restart",
            Self::Exit { .. } => "exit",
            Self::NetDenied { .. } => "net_denied",
            Self::Egress { .. } => "egress",
            Self::Remove => "remove",
        }
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::Create { runtime, pid } => write!(f, " runtime={runtime} pid={pid}"),
            Self::Exec { command, pid } => {
                write!(f, " pid={pid} command={}", command.join(" ").escape_debug())
            }
            Self::ExecExit { pid, cause } => write!(f, " pid={pid} {cause}"),
            Self::Kill { signal, by } => write!(f, " signal={signal} by={by}"),
            Self::Adopt { pid } => pid.iter().try_for_each(|pid| write!(f, " pid={pid}")),
            Self::Oom { kills } => write!(f, " kills={kills}"),
            Self::MemoryWarning { warning } => write!(f, " {warning}"),
            Self::HealthStatus { status } => write!(f, " status={status}"),
            Self::Restart { count, pause_ms } => write!(f, " count={count} pause={pause_ms}ms"),
            Self::Exit { code, cause, .. } => write!(f, " code={code} {cause}"),
            Self::NetDenied { what, allow } => {
                write!(f, " {what}")?;
                allow.iter().try_for_each(|flag| write!(f, " ({flag} would allow it)"))
            }
            Self::Egress { policy } => write!(f, " policy={policy}"),
            Self::Start | Self::Pause | Self::Unpause | Self::Update { .. } | Self::Remove => Ok(()),
        }
    }
}
