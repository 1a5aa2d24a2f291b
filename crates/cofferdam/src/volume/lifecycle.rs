//! Making, finding and removing volumes.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::{VOLUME_VERSION, Volume, VolumeError, VolumeRecord, VolumeStore, file_error};
use crate::id::VolumeName;
use crate::mountinfo::mount_points;
use crate::removal::remove_deep;
use crate::request::VOLUME_DATA;
use crate::state::{FileLock, StateError, read_versioned, remove_tree, write_json};

/// The file that says what a volume is.
const RECORD_FILE: &str = "volume.json";
/// Before the name of a volume that is half made.
const NEW: &str = ".new.";
/// Before the name of one that is half removed.
const GONE: &str = ".gone.";

/// Whether the process still lives that has begun to remove a volume: `.gone.NAME.PID.NUMBER`.
fn has_living_remover(gone: &Path) -> bool {
    let name = gone.file_name().unwrap_or_default().to_string_lossy();
    let pid = name.rsplit('.').nth(1).and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}

impl VolumeStore {
    /// Makes a volume; one that is there already stays as it is, its labels included.
    ///
    /// # Errors
    /// [`VolumeError::Unusable`], [`VolumeError::File`].
    pub fn create(
        &self,
        name: &VolumeName,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, VolumeError> {
        let _guard = self.lock_store()?;
        self.create_locked(VolumeRecord {
            version: VOLUME_VERSION,
            name: name.clone(),
            anonymous: false,
            created: Timestamp::now(),
            labels: labels.clone(),
            goes_with: None,
        })
    }

    /// Makes a volume that has no name yet, as `volume create` does without one.
    ///
    /// # Errors
    /// Like [`VolumeStore::create`].
    pub fn create_anonymous(&self, labels: &BTreeMap<String, String>) -> Result<Volume, VolumeError> {
        let _guard = self.lock_store()?;
        self.create_locked(VolumeRecord {
            version: VOLUME_VERSION,
            name: VolumeName::generate(),
            anonymous: true,
            created: Timestamp::now(),
            labels: labels.clone(),
            goes_with: None,
        })
    }

    /// The same for whoever has the store's lock.
    pub(super) fn create_locked(&self, record: VolumeRecord) -> Result<Volume, VolumeError> {
        let path = self.directory(&record.name);
        if path.exists() {
            return self.find(&record.name);
        }
        let unborn = self.path.join(format!("{NEW}{}", record.name));
        // Whoever left it has died: the lock is ours.
        remove_tree(&unborn).map_err(file_error(&unborn, "removed"))?;
        let make = |path: &Path, mode: u32| {
            std::fs::DirBuilder::new().mode(mode).create(path)?;
            // Whatever the umask is.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        make(&unborn, 0o700)
            .and_then(|()| make(&unborn.join("users"), 0o700))
            .and_then(|()| make(&unborn.join(VOLUME_DATA), 0o755))
            .map_err(file_error(&unborn, "made"))?;
        write_json(&unborn.join(RECORD_FILE), &record).map_err(of_state)?;
        std::fs::rename(&unborn, &path).map_err(file_error(&path, "made"))?;
        Ok(Volume { record, path })
    }

    /// Finds a volume by its name.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchVolume`]; [`VolumeError::Damaged`], [`VolumeError::TooNew`].
    pub fn find(&self, name: &VolumeName) -> Result<Volume, VolumeError> {
        let path = self.directory(name);
        match read_versioned(&path.join(RECORD_FILE), VOLUME_VERSION).map_err(of_state)? {
            Some(record) => Ok(Volume { record, path }),
            None => Err(VolumeError::NoSuchVolume(name.clone())),
        }
    }

    /// All volumes by their names, and what could not be read of others.
    ///
    /// # Errors
    /// [`VolumeError::File`] when the directory cannot be read. One that is not there has no volumes.
    pub fn list(&self) -> Result<(Vec<Volume>, Vec<VolumeError>), VolumeError> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((vec![], vec![])),
            entries => entries.map_err(file_error(&self.path, "read"))?,
        };
        let mut names: Vec<VolumeName> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        let (mut volumes, mut broken) = (Vec::new(), Vec::new());
        for name in names {
            match self.find(&name) {
                Ok(volume) => volumes.push(volume),
                // It went meanwhile.
                Err(VolumeError::NoSuchVolume(_)) => {}
                Err(error) => broken.push(error),
            }
        }
        Ok((volumes, broken))
    }

    /// Removes a volume that nobody uses, also one that is damaged.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchVolume`], [`VolumeError::InUse`], [`VolumeError::MountedUpon`], [`VolumeError::File`].
    pub fn remove(&self, name: &VolumeName) -> Result<(), VolumeError> {
        self.remove_unless_used(name, None)
    }

    /// The same; a container whose folder this is does not count.
    pub(super) fn remove_unless_used(
        &self,
        name: &VolumeName,
        but: Option<&Path>,
    ) -> Result<(), VolumeError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = self.directory(name);
        if !path.exists() {
            return Err(VolumeError::NoSuchVolume(name.clone()));
        }
        let gone = {
            let _guard = self.lock_store()?;
            let users = self.users(name)?;
            let others: Vec<String> = users
                .into_iter()
                .filter(|user| Some(user.folder.as_path()) != but)
                .map(|user| user.title)
                .collect();
            if !others.is_empty() {
                return Err(VolumeError::InUse { name: name.clone(), users: others });
            }
            // What is mounted there would be emptied with it.
            let real = path.canonicalize().map_err(file_error(&path, "looked at"))?;
            if let Some(mount) = mount_points().into_iter().find(|mount| mount.place.starts_with(&real)) {
                return Err(VolumeError::MountedUpon { name: name.clone(), place: mount.place });
            }
            let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
            let gone = self.path.join(format!("{GONE}{name}.{}.{unique}", std::process::id()));
            match std::fs::rename(&path, &gone) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(VolumeError::NoSuchVolume(name.clone()));
                }
                renamed => renamed.map_err(file_error(&path, "removed"))?,
            }
            gone
        };
        remove_deep(&gone).map_err(file_error(&gone, "removed"))
    }

    /// Removes what processes left half made or half removed when they died.
    pub(crate) fn sweep(&self) {
        let entries = || std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let is_left = |entry: &std::fs::DirEntry| {
            entry.file_name().to_str().is_some_and(|name| name.starts_with(NEW) || name.starts_with(GONE))
        };
        if !entries().any(|entry| is_left(&entry)) {
            return;
        }
        let Ok(guard) = self.lock_store() else { return };
        let (new, gone): (Vec<_>, Vec<_>) = entries()
            .filter(is_left)
            .map(|entry| entry.path())
            .partition(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NEW)));
        for path in new {
            // What is left is tried again by the next sweep.
            let _ = remove_deep(&path);
        }
        // Those have names that nobody uses again, and may be large.
        drop(guard);
        for path in gone.into_iter().filter(|path| !has_living_remover(path)) {
            let _ = remove_deep(&path);
        }
    }

    /// Makes the directory of volumes where it is missing, and takes its lock.
    pub(super) fn lock_store(&self) -> Result<FileLock, VolumeError> {
        let unusable = |why: String| VolumeError::Unusable { path: self.path.clone(), why };
        if !self.path.is_absolute() || self.path.to_str().is_none() {
            return Err(unusable("its path is not absolute, or not UTF-8".into()));
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| unusable(error.to_string()))?;
        let metadata = std::fs::symlink_metadata(&self.path).map_err(|error| unusable(error.to_string()))?;
        if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(unusable("it is not a directory of this user's".into()));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(unusable(format!("others may write to it (mode {:04o})", metadata.mode() & 0o7777)));
        }
        let path = self.path.join(".lock");
        FileLock::wait(&path).map_err(file_error(&path, "locked"))
    }
}

impl Volume {
    /// Says whether it goes with a container. The caller has the store's lock, or is the only one that knows of it.
    pub(super) fn set_goes_with(&mut self, folder: Option<PathBuf>) -> Result<(), VolumeError> {
        if self.record.goes_with == folder {
            return Ok(());
        }
        self.record.goes_with = folder;
        write_json(&self.path.join(RECORD_FILE), &self.record).map_err(of_state)
    }
}

/// What went wrong with a file that is read and written as those of the state directory are.
fn of_state(error: StateError) -> VolumeError {
    match error {
        StateError::File { path, what, source } => VolumeError::File { path, what, source },
        StateError::Damaged { path, source } => VolumeError::Damaged { path, source },
        StateError::TooNew { path, found, .. } => VolumeError::TooNew { path, found },
        other => VolumeError::Unusable { path: PathBuf::new(), why: other.to_string() },
    }
}
