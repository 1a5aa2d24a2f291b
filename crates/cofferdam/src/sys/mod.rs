//! The floor: kernel interfaces that no crate gives in a safe form. The only `unsafe` of the workspace is here.
//!
//! Invariant: everything exported from here is safe to call with any argument; each `unsafe` block says why.
//! Not here: decisions. A function of this module is one system call, or one protocol of the kernel.

mod alarm;
mod descriptors;
mod folder_watch;
mod heap;
mod namespace;
mod pidfd;
mod signal_fd;
mod wait;

pub(crate) use alarm::Alarm;
pub(crate) use descriptors::keep_from_children;
pub(crate) use folder_watch::FolderWatch;
pub(crate) use heap::trim_heap;
pub(crate) use namespace::{NamespaceKind, namespace_kind, with_fresh_network_namespace};
pub(crate) use pidfd::PidFd;
pub(crate) use signal_fd::send_signal;
pub(crate) use wait::{RawExit, from_raw_status, peek_any_child, reap};
