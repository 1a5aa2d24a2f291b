//! The keeper: one small process of a state directory that holds what a monitor must not take with it when it is killed.
//!
//! ```text
//!   monitor ──Keep: pipes, terminal, pidfd──> keeper
//!   monitor is killed ──end of the stream──> keeper starts a new monitor ──Take──> the same descriptors
//!   keeper is killed ──end of the stream──> its monitors start a new one, and give it theirs
//! ```
//!
//! It is what systemd's file descriptor store is to a service. Without it nothing else changes: the next command finds
//! the container a new monitor, which then has what the container itself still holds.
//! Invariant: it never reads what it holds. Not here: what is done with it (`supervise::adopt`).

mod client;
mod server;
mod wire;

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

pub(crate) use client::{KeeperProgram, Keeping};
pub(crate) use server::{Keeper, Successors};
pub(crate) use wire::receive;

use crate::id::ContainerId;

/// What a monitor has in its charge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Charge {
    Container(ContainerId),
    Session(ContainerId),
}

/// What is kept of one process: its output, its terminal, a handle by which the kernel tells how it ended.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Whose it is. A container that was started again has another one.
    pub(crate) pid: i32,
    pub(crate) process: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// Which descriptor is which, in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Process,
    Stdout,
    Stderr,
    Terminal,
}

/// A monitor's message. Each has an answer before the next, but [`Message::Done`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// These descriptors are to be kept instead of those before.
    Keep { charge: Charge, pid: i32, parts: Vec<Part> },
    /// What is kept is wanted by a new monitor; it is kept on.
    Take { charge: Charge },
    /// It has ended, and its report is written.
    Done,
}

/// The keeper's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Kept,
    /// There are no descriptors left for them.
    Full,
    /// With the descriptors.
    Here {
        pid: i32,
        parts: Vec<Part>,
    },
}

impl Kept {
    fn parts(&self) -> (Vec<Part>, Vec<BorrowedFd<'_>>) {
        use std::os::fd::AsFd;
        let all = [
            (Part::Process, &self.process),
            (Part::Stdout, &self.stdout),
            (Part::Stderr, &self.stderr),
            (Part::Terminal, &self.terminal),
        ];
        all.into_iter().filter_map(|(part, held)| Some((part, held.as_ref()?.as_fd()))).unzip()
    }

    fn of_parts(pid: i32, parts: &[Part], descriptors: Vec<OwnedFd>) -> Self {
        let mut kept = Self { pid, ..Self::default() };
        for (part, descriptor) in parts.iter().zip(descriptors) {
            let place = match part {
                Part::Process => &mut kept.process,
                Part::Stdout => &mut kept.stdout,
                Part::Stderr => &mut kept.stderr,
                Part::Terminal => &mut kept.terminal,
            };
            *place = Some(descriptor);
        }
        kept
    }

    /// Adds what was kept of the same process before, and is missing here.
    fn complete(&mut self, before: &Self) {
        if self.pid != before.pid {
            return;
        }
        let places = [
            (&mut self.process, &before.process),
            (&mut self.stdout, &before.stdout),
            (&mut self.stderr, &before.stderr),
            (&mut self.terminal, &before.terminal),
        ];
        for (place, before) in places {
            if place.is_none() {
                *place = before.as_ref().and_then(|held| held.try_clone().ok());
            }
        }
    }

    /// What is kept of this process; nothing of another one.
    pub(crate) fn of(self, pid: Option<i32>) -> Self {
        if pid == Some(self.pid) { self } else { Self::default() }
    }
}
