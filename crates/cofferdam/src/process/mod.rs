//! Children of this process: started in one file, reaped in one file.
//!
//! Invariant: a child's exit status is taken by the [`Reaper`] and by nothing else in the process. A container's
//! process becomes our child when the runtime that made it exits (we are a child subreaper), which may be before or
//! after it has died; either way its status is kept until it is claimed.

mod invoke;
mod kin;
mod reaper;

pub(crate) use invoke::{
    Completed, Invocation, InvokeError, MonitorProcess, Streams, run, spawn_keeper, spawn_monitor,
};
pub(crate) use reaper::{Claim, ClaimError, Reaper, Seat};
