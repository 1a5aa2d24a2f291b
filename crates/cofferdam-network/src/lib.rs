//! Networks of containers: namespaces, CNI networks, published ports, names, and what a container may reach.
//!
//! [`Networks`] is the way in: `attach` gives a container a namespace with an interface, `detach` takes all of it
//! away, `gc` takes away what nobody detached.
//!
//! Invariant: whatever is made on the host is written down before, so that it can be taken away by somebody else.
//! Foreign programs (plugins, iptables) are started by whoever uses this crate, through [`Programs`].

mod attachment;
pub mod bridge;
mod bridge_rules;
pub mod cni;
pub mod egress;
mod error;
mod gc;
mod leases;
mod lock;
mod marks;
pub mod names;
pub mod namespace;
mod netlink;
mod networks;
mod pool;
pub mod ports;
mod programs;
mod record;
mod rules;
mod setup;
mod stragglers;
mod sys;

pub use attachment::{Attached, Attachment};
pub use error::{NetworkError, NetworkErrorKind};
pub use gc::Leftovers;
pub use marks::{Pool, PoolMarks};
pub use networks::{AttachRequest, DEFAULT_INTERFACE, Networks, Places};
pub use pool::Refilled;
pub use programs::{ProgramCall, ProgramEnd, ProgramStatus, Programs};
