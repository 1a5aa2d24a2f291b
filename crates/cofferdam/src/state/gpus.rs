//! Who has which GPU: a link for each, made under a lock.
//!
//! A lease is good as long as its container is: whoever looks takes away those of containers that have ended and been
//! cleared, or that are gone. So a process that dies at any point loses no GPU, and no GPU is given while its last
//! container may still use it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::{Record, StateDir, StateError, lock};
use crate::gpu::{Gpu, Lease};
use crate::id::ContainerId;
use crate::lifecycle::Status;

/// Between the address and the container's id in a link's name: in neither of them.
const SEPARATOR: char = '@';
const EXCLUSIVE: &str = "exclusive";
const SHARED: &str = "shared";

/// The right to give GPUs: nobody else does meanwhile.
#[derive(Debug)]
pub(crate) struct GpuLeases<'a> {
    state: &'a StateDir,
    _guard: lock::FileLock,
}

impl StateDir {
    /// Takes the right to give GPUs. Blocks the thread for as long as others take it for a moment.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub(crate) fn lock_gpus(&self) -> Result<GpuLeases<'_>, StateError> {
        let path = self.gpus().join(".lock");
        let guard = lock::FileLock::wait(&path).map_err(|source| StateError::File {
            path,
            what: "locked",
            source,
        })?;
        Ok(GpuLeases { state: self, _guard: guard })
    }

    /// The leases that are good now.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn gpu_leases(&self) -> Result<Vec<Lease>, StateError> {
        Ok(self.all_leases()?.into_iter().filter(|lease| self.is_good(lease)).collect())
    }

    /// Whether a lease's container has ended, and is about to be written down as such or cleared away. One that ended longer
    /// ago could not be cleared.
    pub(crate) fn is_ending(&self, lease: &Lease, boot_id: &str, limit: Duration) -> bool {
        let container = self.container(&lease.container);
        let has_died = |record: Record| record.process.is_some() && !record.lives(boot_id);
        match container.read_report() {
            Ok(Some(report)) => {
                let ago = Timestamp::now().duration_since(report.ended);
                Duration::try_from(ago).is_ok_and(|ago| ago < limit)
            }
            _ => container.read_record().ok().flatten().is_some_and(has_died),
        }
    }

    /// Takes every GPU from a container.
    ///
    /// # Errors
    /// [`StateError::File`]; the others are still tried.
    pub(crate) fn release_gpus(&self, id: &ContainerId) -> Result<(), StateError> {
        let mut result = Ok(());
        for lease in self.all_leases()?.iter().filter(|lease| lease.container == *id) {
            if let Err(error) = self.remove_lease(lease) {
                result = Err(error);
            }
        }
        result
    }

    fn all_leases(&self) -> Result<Vec<Lease>, StateError> {
        let path = self.gpus();
        let entries =
            std::fs::read_dir(&path).map_err(|source| StateError::File { path, what: "read", source })?;
        let lease = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (gpu, container) = name.split_once(SEPARATOR)?;
            let mode = std::fs::read_link(entry.path()).ok()?;
            let (gpu, container) = (gpu.to_owned(), container.parse().ok()?);
            Some(Lease { gpu, container, exclusive: mode.as_os_str() != SHARED })
        };
        Ok(entries.flatten().filter_map(lease).collect())
    }

    /// Whether a lease's container may still use its GPU. One whose record cannot be read may.
    fn is_good(&self, lease: &Lease) -> bool {
        let container = self.container(&lease.container);
        if !container.path.exists() {
            return false;
        }
        match container.read_record() {
            Ok(Some(record)) => !(record.status == Status::Stopped && record.cleared),
            _ => true,
        }
    }

    fn gpus(&self) -> PathBuf {
        self.path.join("gpus")
    }

    fn lease_link(&self, gpu: &str, id: &ContainerId) -> PathBuf {
        self.gpus().join(format!("{gpu}{SEPARATOR}{id}"))
    }

    fn remove_lease(&self, lease: &Lease) -> Result<(), StateError> {
        let path = self.lease_link(&lease.gpu, &lease.container);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::File { path, what: "removed", source })
            }
            _ => Ok(()),
        }
    }
}

impl GpuLeases<'_> {
    /// The leases that are good; those that are not any more are taken away.
    pub(crate) fn good(&self) -> Result<Vec<Lease>, StateError> {
        let (good, ended): (Vec<_>, Vec<_>) =
            self.state.all_leases()?.into_iter().partition(|lease| self.state.is_good(lease));
        ended.iter().try_for_each(|lease| self.state.remove_lease(lease))?;
        Ok(good)
    }

    /// Gives GPUs to a container, whose folder is there. What was given is taken back where one fails.
    pub(crate) fn give(&self, gpus: &[Gpu], id: &ContainerId, exclusive: bool) -> Result<(), StateError> {
        for gpu in gpus {
            let path = self.state.lease_link(&gpu.bus, id);
            let mode = if exclusive { EXCLUSIVE } else { SHARED };
            if let Err(source) = std::os::unix::fs::symlink(mode, &path) {
                // The first error is the one to tell.
                let _ = self.state.release_gpus(id);
                return Err(StateError::File { path, what: "made", source });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::choice_tests::gpus;

    #[test]
    fn a_lease_is_good_as_long_as_its_container() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(&directory.path().join("state")).unwrap();
        let (id, all) = (ContainerId::generate(), gpus(2));
        let (container, _lock) = state.create_container(&id).unwrap();
        state.lock_gpus().unwrap().give(&all[..1], &id, true).unwrap();
        let expected = Lease { gpu: all[0].bus.clone(), container: id.clone(), exclusive: true };
        assert_eq!(state.gpu_leases().unwrap(), [expected]);
        // Given twice to the same container is a fault, and leaves nothing.
        assert!(state.lock_gpus().unwrap().give(&all[..1], &id, true).is_err());
        state.lock_gpus().unwrap().give(&all, &id, false).unwrap();
        assert_eq!(state.gpu_leases().unwrap().len(), 2);
        state.release_gpus(&id).unwrap();
        assert_eq!(state.gpu_leases().unwrap(), []);
        state.lock_gpus().unwrap().give(&all, &id, true).unwrap();
        state.remove_container(&container).unwrap();
        assert_eq!(state.gpu_leases().unwrap(), [], "its container is gone");
        assert_eq!(state.lock_gpus().unwrap().good().unwrap(), []);
        assert!(state.all_leases().unwrap().is_empty(), "whoever gives takes the old ones away");
    }
}
