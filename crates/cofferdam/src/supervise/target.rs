//! A container as a runtime is told of it, owned.

use std::path::PathBuf;

use crate::id::ContainerId;
use crate::runtime::{RuntimeFlags, Target};
use crate::state::{ContainerDir, Record};

/// What a runtime is told of a container, owned.
#[derive(Debug, Clone)]
pub(crate) struct OwnedTarget {
    id: ContainerId,
    flags: RuntimeFlags,
    log: PathBuf,
}

impl OwnedTarget {
    pub(crate) fn of(container: &ContainerDir, record: &Record) -> Self {
        Self { id: container.id.clone(), flags: record.flags.clone(), log: container.runtime_log() }
    }

    /// For a container of which nothing but the id is known.
    pub(crate) fn bare(container: &ContainerDir) -> Self {
        // A runtime that cannot open its log does nothing else.
        let log =
            if container.path().exists() { container.runtime_log() } else { PathBuf::from("/dev/null") };
        Self { id: container.id.clone(), flags: RuntimeFlags::default(), log }
    }

    pub(crate) fn target(&self) -> Target<'_> {
        Target { id: &self.id, flags: &self.flags, log: &self.log }
    }
}
