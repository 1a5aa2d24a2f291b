//! One container lifecycle over runc-compatible runtimes and gVisor that tells the truth about how a container ended.
//!
//! Three layers; imports only go down:
//!
//! - `launch`: the one place where the steps are put together, and unmade in reverse.
//! - effects: `runtime`, `process`, `supervise`, `state`, `bundle`, `rootfs`, `volume`, `cgroup`, `network`,
//!   `inventory`, `host`, `keeper`.
//! - decisions, pure: `id`, `request`, `lifecycle`, `exit`, `spec`, `gpu`, `signal`; and `error`, which all use.
//!
//! `sys` is the floor: the only unsafe code.

pub mod bundle;
pub mod cdi;
pub mod cgroup;
pub mod doctor;
mod elf;
pub mod engine;
pub mod error;
pub mod event;
pub mod exit;
pub mod fault;
pub mod gpu;
pub mod health;
pub mod host;
pub mod id;
mod keeper;
pub mod launch;
pub mod lifecycle;
pub mod logs;
mod mountinfo;
pub mod network;
pub mod nvidia;
mod proc;
mod process;
pub mod removal;
pub mod request;
pub mod rootfs;
pub mod runtime;
pub mod signal;
pub mod spec;
pub mod state;
pub mod supervise;
mod sys;
pub mod volume;
