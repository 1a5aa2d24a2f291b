//! Which containers use a volume: taking it, filling it, and letting go of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{VOLUME_VERSION, Volume, VolumeError, VolumeRecord, VolumeStore, file_error, populate};
use crate::id::VolumeName;
use crate::removal::empty_deep;
use crate::request::{MountKind, MountRecord, MountRequest, VOLUME_DATA};
use crate::rootfs::Rootfs;
use crate::state::{ContainerDir, FileLock, Record};

/// How long a container waits for another one that fills a volume: as long as a large image takes on a slow disk.
const FILL_PATIENCE: Duration = Duration::from_secs(600);
/// How often it looks meanwhile whether it should stop.
const FILL_PAUSE: Duration = Duration::from_millis(200);

/// A container that uses a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUser {
    /// Its folder in its state directory.
    pub folder: PathBuf,
    /// Its name, or its short id.
    pub title: String,
    /// Whether its process was ever started, as far as is known.
    pub has_started: bool,
}

impl VolumeStore {
    /// The containers that use a volume. Links of containers that are gone do not count.
    ///
    /// # Errors
    /// [`VolumeError::File`] when the directory cannot be read.
    pub fn users(&self, name: &VolumeName) -> Result<Vec<VolumeUser>, VolumeError> {
        let path = self.directory(name).join("users");
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.map_err(file_error(&path, "read"))?,
        };
        let user = |entry: std::fs::DirEntry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let folder = std::fs::read_link(entry.path()).ok().filter(|folder| folder.exists())?;
            let container = ContainerDir::found_at(id, folder.clone());
            // A record that cannot be read says nothing against it.
            let has_started = container
                .read_record()
                .map_or(true, |record| record.is_some_and(|record| record.started.is_some()));
            Some(VolumeUser { folder, title: container.title(), has_started })
        };
        let mut users: Vec<VolumeUser> = entries.flatten().filter_map(user).collect();
        users.sort_by(|a, b| a.title.cmp(&b.title));
        Ok(users)
    }

    /// Takes the volumes of a container, whose folder is there, and makes those that are not there. Until
    /// [`VolumeStore::settle`], those without a name go with the container.
    ///
    /// # Errors
    /// [`VolumeError`]. What was made is left to [`VolumeStore::let_go`].
    pub(crate) fn take(&self, mounts: &[MountRequest], container: &ContainerDir) -> Result<(), VolumeError> {
        let wanted: Vec<_> = mounts.iter().filter_map(VolumeWish::of).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let _guard = self.lock_store()?;
        for VolumeWish { name, record } in wanted {
            let goes_with = record.anonymous.then(|| container.path().to_owned());
            let volume = self.create_locked(VolumeRecord { goes_with, ..record })?;
            let users = volume.path.join("users");
            sweep_users(&users);
            let link = users.join(container.id.as_str());
            match std::os::unix::fs::symlink(container.path(), &link) {
                // It is mounted at two places.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(file_error(&link, "made"))?,
            }
            tracing::debug!(volume = %name, container = %container.id, "the volume is taken");
        }
        Ok(())
    }

    /// Fills the new volumes of a container with what its root filesystem has at their places; those that are filled by
    /// another container are waited for. `stop` ends it early, with an error.
    ///
    /// # Errors
    /// [`VolumeError::Fill`], [`VolumeError::Busy`]. The volume is empty then, as before.
    pub(crate) fn fill(
        &self,
        mounts: &[MountRequest],
        container: &ContainerDir,
        rootfs: &Rootfs,
        stop: &AtomicBool,
    ) -> Result<(), VolumeError> {
        for mount in mounts {
            let MountKind::Volume { name, copy, .. } = &mount.kind else { continue };
            let place = Path::new(&mount.destination);
            let filling = Filling { store: self, name, container, place, stop };
            filling.run(|data| if *copy { populate(data, rootfs, place, stop) } else { Ok(()) })?;
        }
        Ok(())
    }

    /// Says that a container is there: its volumes without a name stay when it goes, unless it is one with `--rm`.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub(crate) fn settle(&self, mounts: &[MountRecord]) -> Result<(), VolumeError> {
        for name in mounts.iter().filter(|mount| mount.anonymous).filter_map(|mount| mount.volume.as_ref()) {
            self.find(name)?.set_goes_with(None)?;
        }
        Ok(())
    }

    /// Says that a volume goes with a container, which is about to go.
    fn doom(&self, name: &VolumeName, container: &ContainerDir) -> Result<(), VolumeError> {
        let _guard = self.lock_store()?;
        match self.find(name) {
            Ok(mut volume) => volume.set_goes_with(Some(container.path().to_owned())),
            Err(VolumeError::NoSuchVolume(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a volume without a name with its container. One that another container uses, or that is gone, is let be.
    ///
    /// # Errors
    /// [`VolumeError::MountedUpon`], [`VolumeError::File`].
    pub(crate) fn let_go(&self, name: &VolumeName, container: &ContainerDir) -> Result<(), VolumeError> {
        self.remove_or_keep(name, Some(container.path()))
    }

    /// Removes a volume that was to go with a container. Where another uses it, it stays from now on; the other's end does not
    /// take it away.
    ///
    /// # Errors
    /// [`VolumeError::MountedUpon`], [`VolumeError::File`].
    pub(crate) fn remove_or_keep(&self, name: &VolumeName, but: Option<&Path>) -> Result<(), VolumeError> {
        match self.remove_unless_used(name, but) {
            Err(VolumeError::NoSuchVolume(_)) => Ok(()),
            Err(VolumeError::InUse { .. }) => {
                let _guard = self.lock_store()?;
                match self.find(name) {
                    Err(VolumeError::NoSuchVolume(_)) => Ok(()),
                    found => found?.set_goes_with(None),
                }
            }
            removed => removed,
        }
    }

    /// The volumes that went with containers of this state directory which are gone.
    pub(crate) fn orphans(&self, state_dir: &Path) -> Vec<Volume> {
        let (mut volumes, _) = self.list().unwrap_or_default();
        let is_orphan = |folder: &PathBuf| folder.starts_with(state_dir) && !folder.exists();
        volumes.retain(|volume| volume.record.goes_with.as_ref().is_some_and(is_orphan));
        volumes
    }
}

/// Says of the volumes without a name that they go with a container, which is about to go.
///
/// # Errors
/// The first [`VolumeError`].
pub(crate) fn doom_volumes(container: &ContainerDir, record: &Record) -> Result<(), VolumeError> {
    anonymous(record).try_for_each(|(store, name)| store.doom(name, container))
}

/// Removes the volumes without a name of a container that goes. All are tried.
///
/// # Errors
/// The first [`VolumeError`].
pub(crate) fn remove_volumes(container: &ContainerDir, record: &Record) -> Result<(), VolumeError> {
    let removed = anonymous(record).map(|(store, name)| store.let_go(name, container));
    removed.fold(Ok(()), Result::and)
}

fn anonymous(record: &Record) -> impl Iterator<Item = (VolumeStore, &VolumeName)> {
    let mounts = record.mounts.iter().filter(|mount| mount.anonymous);
    mounts.filter_map(|mount| Some((VolumeStore::at(mount.volumes()?), mount.volume.as_ref()?)))
}

/// A volume that a mount needs.
struct VolumeWish<'a> {
    name: &'a VolumeName,
    record: VolumeRecord,
}

impl<'a> VolumeWish<'a> {
    fn of(mount: &'a MountRequest) -> Option<Self> {
        let MountKind::Volume { name, anonymous, labels, .. } = &mount.kind else { return None };
        let record = VolumeRecord {
            version: VOLUME_VERSION,
            name: name.clone(),
            anonymous: *anonymous,
            created: Timestamp::now(),
            labels: labels.clone(),
            goes_with: None,
        };
        Some(Self { name, record })
    }
}

/// A volume that may have to be filled.
struct Filling<'a> {
    store: &'a VolumeStore,
    name: &'a VolumeName,
    container: &'a ContainerDir,
    place: &'a Path,
    stop: &'a AtomicBool,
}

impl Filling<'_> {
    /// Fills an empty volume. A file beside it says that this is under way, so that one whose filler was killed is not
    /// taken for a full one.
    fn run(&self, fill: impl FnOnce(&Path) -> Result<(), super::CopyError>) -> Result<(), VolumeError> {
        let directory = self.store.directory(self.name);
        let _guard = self.lock(&directory.join("lock"))?;
        let (data, mark) = (directory.join(VOLUME_DATA), directory.join("filling"));
        if mark.exists() {
            self.empty_again(&data, &mark)?;
        }
        if !is_empty(&data)? {
            return Ok(());
        }
        std::fs::write(&mark, "").map_err(file_error(&mark, "written"))?;
        if let Err(source) = fill(&data) {
            self.empty_again(&data, &mark)?;
            let (name, destination) = (self.name.clone(), self.place.to_owned());
            return Err(VolumeError::Fill { name, destination, source });
        }
        std::fs::remove_file(&mark).map_err(file_error(&mark, "removed"))
    }

    fn lock(&self, path: &Path) -> Result<FileLock, VolumeError> {
        let begun = Instant::now();
        loop {
            if let Some(lock) = FileLock::within(path, FILL_PAUSE).map_err(file_error(path, "locked"))? {
                return Ok(lock);
            }
            if self.stop.load(Ordering::Relaxed) || begun.elapsed() >= FILL_PATIENCE {
                return Err(VolumeError::Busy(self.name.clone()));
            }
        }
    }

    /// Takes away what was copied, unless another container may have written there by now. One that was never started has
    /// not: it waits for this, or died while it copied.
    fn empty_again(&self, data: &Path, mark: &Path) -> Result<(), VolumeError> {
        let users = self.store.users(self.name)?;
        let may_have_written = |user: &VolumeUser| user.folder != self.container.path() && user.has_started;
        if !users.iter().any(may_have_written) {
            empty_deep(data).map_err(file_error(data, "emptied"))?;
        }
        match std::fs::remove_file(mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(file_error(mark, "removed")),
        }
    }
}

fn is_empty(data: &Path) -> Result<bool, VolumeError> {
    Ok(std::fs::read_dir(data).map_err(file_error(data, "read"))?.next().is_none())
}

/// Takes links away whose containers are gone, so that they do not pile up.
fn sweep_users(users: &Path) {
    for entry in std::fs::read_dir(users).into_iter().flatten().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|folder| !folder.exists()) {
            // Another process may have done it.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
