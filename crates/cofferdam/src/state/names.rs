//! Names of containers: links to ids, and finding a container by what a user calls it.

use std::io;
use std::path::PathBuf;

use super::{ContainerDir, StateDir, StateError, lock};
use crate::id::{ContainerId, ContainerName};

impl StateDir {
    /// Gives a name to a container.
    ///
    /// # Errors
    /// [`StateError::NameTaken`] when another container has it.
    pub fn claim_name(&self, name: &ContainerName, id: &ContainerId) -> Result<(), StateError> {
        let _guard = self.lock_names()?;
        let link = self.name_link(name);
        if let Ok(owner) = std::fs::read_link(&link) {
            let owner = owner.to_string_lossy().into_owned();
            let alive = owner.parse::<ContainerId>().is_ok_and(|owner| self.container(&owner).path.exists());
            if alive {
                let owner = owner.chars().take(crate::id::SHORT_ID_LENGTH).collect();
                return Err(StateError::NameTaken { name: name.clone(), owner });
            }
            // Left by a process that died between two steps.
            std::fs::remove_file(&link).map_err(|source| self.name_error(name, "removed", source))?;
        }
        std::os::unix::fs::symlink(id.as_str(), &link).map_err(|source| self.name_error(name, "made", source))
    }

    /// Takes a name from a container, if it is that container's.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn release_name(&self, name: &ContainerName, id: &ContainerId) -> Result<(), StateError> {
        let _guard = self.lock_names()?;
        let link = self.name_link(name);
        match std::fs::read_link(&link) {
            Ok(owner) if owner.as_os_str() == id.as_str() => {
                std::fs::remove_file(&link).map_err(|source| self.name_error(name, "removed", source))
            }
            _ => Ok(()),
        }
    }

    /// Finds a container by its id, its name, or the beginning of its id, in this order.
    ///
    /// # Errors
    /// [`StateError::NoSuchContainer`], [`StateError::Ambiguous`].
    pub fn find(&self, text: &str) -> Result<ContainerDir, StateError> {
        let missing = || StateError::NoSuchContainer(text.to_owned());
        if let Ok(id) = text.parse::<ContainerId>() {
            let container = self.container(&id);
            return if container.path.exists() { Ok(container) } else { Err(missing()) };
        }
        let name: ContainerName = text.parse().map_err(|_| missing())?;
        if let Ok(owner) = std::fs::read_link(self.name_link(&name))
            && let Some(id) = owner.to_str().and_then(|owner| owner.parse().ok())
        {
            let container = self.container(&id);
            return if container.path.exists() { Ok(container) } else { Err(missing()) };
        }
        let mut fitting: Vec<_> = self
            .containers()?
            .into_iter()
            .filter(|container| container.id.as_str().starts_with(text))
            .collect();
        match (fitting.pop(), fitting.len()) {
            (Some(container), 0) => Ok(container),
            (Some(_), others) => Err(StateError::Ambiguous { text: text.to_owned(), count: others + 1 }),
            (None, _) => Err(missing()),
        }
    }

    /// Takes every name from a container, for one whose record cannot be read.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn release_all_names(&self, id: &ContainerId) -> Result<(), StateError> {
        let path = self.path.join("names");
        let entries =
            std::fs::read_dir(&path).map_err(|source| StateError::File { path, what: "read", source })?;
        for name in
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<ContainerName>().ok())
        {
            self.release_name(&name, id)?;
        }
        Ok(())
    }

    fn name_link(&self, name: &ContainerName) -> PathBuf {
        self.path.join("names").join(name.as_str())
    }

    fn name_error(&self, name: &ContainerName, what: &'static str, source: io::Error) -> StateError {
        StateError::File { path: self.name_link(name), what, source }
    }

    fn lock_names(&self) -> Result<lock::FileLock, StateError> {
        let path = self.path.join("names").join(".lock");
        lock::FileLock::wait(&path).map_err(|source| StateError::File { path, what: "locked", source })
    }
}
