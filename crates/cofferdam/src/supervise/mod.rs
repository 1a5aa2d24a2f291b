//! Supervision: one task owns a container from the runtime's first call to the last trace of it.
//!
//! ```text
//!  launch ──> Supervisor task ── owns ──> process handle, streams, deadlines, record
//!                ^      │
//!   Command ─────┘      └──> ExitReport, then clean-up in reverse
//!   (control socket, signals, callers in this process)
//! ```
//!
//! Invariant: the end of a container is written down before anything of it is deleted, and nothing that others could
//! use again (its name, its id) is released before its death is certain.
//! Not here: deciding what the end means (`exit`), making the specification (`spec`).

mod activity;
mod adopt;
pub(crate) mod attach;
mod cgroup;
pub(crate) mod console;
pub mod control;
mod end;
mod error;
pub(crate) mod exec;
pub mod frame;
mod held;
mod hub;
mod leftovers;
mod limits;
mod lost;
mod network;
mod peek;
mod plan;
mod probe;
mod probing;
mod remains;
mod requests;
mod runs;
pub(crate) mod session;
mod sink;
pub mod stdio;
mod streams;
mod supervisor;
mod target;
mod tree;
mod update;
mod watch;

pub use attach::{Attached, AttachedInput, AttachedOutput};
pub use error::StartError;
pub(crate) use error::supervision;
pub(crate) use held::Held;
pub(crate) use leftovers::{Marks, end_everything};
pub(crate) use lost::{lost, lost_session};
pub(crate) use peek::Journal;
pub(crate) use remains::{
    Remains, clear_away, complete, discard_rootfs, forget, release_gpus, remove_state_leftovers,
    runtime_words,
};
pub(crate) use sink::SharedLog;
pub use supervisor::Started;
pub(crate) use supervisor::{Launching, Mode, Supervisor};
pub(crate) use target::OwnedTarget;
pub(crate) use update::change_limits;
