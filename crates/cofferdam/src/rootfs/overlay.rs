//! The root filesystem of a container of an image: its layers, and over them a directory of its own (overlayfs).
//!
//! ```text
//!   ROOTFS/ID/
//!     owner      the state directory whose container it is, written first
//!     image.json which image it is made of; while it is there, the layers are in use
//!     upper      what the container has written
//!     work       overlayfs's own
//!     merged     what the container sees: mounted from its making to `rm`
//!     disk*      with a limit, or where overlayfs cannot write to the data directory: a file system that has upper and work
//! ```
//!
//! Invariant: what is here and has no container is found by [`leftovers`]: the folder is made before it is mounted, and goes
//! after it.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::disk;
use crate::error::{Code, Diagnose};
use crate::exit::format_bytes;
use crate::id::ContainerId;
use crate::removal::remove_deep;
use crate::request::ImageUse;

/// The options of a mount must fit into a page.
const OPTIONS_LIMIT: usize = 4095;
/// What is as it is with docker: a rename of an image's directory is a copy (no `redirect`), and files are copied up whole.
const OPTIONS: &str = "redirect_dir=nofollow,metacopy=off,index=off";
/// From this age on a directory without an owner is nobody's: the owner is written at once.
const UNOWNED_AGE: Duration = Duration::from_secs(60);
/// The prefix of the places at which layers are mounted for a moment, to look into them.
const LOOK: &str = ".look-";

/// A root filesystem that could not be put together, or taken apart.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A layer is missing.
    #[error("the layer {} of the image cannot be opened", .path.display())]
    Layer {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not mount them over each other.
    #[error("the {layers} layers cannot be mounted over each other at {}", .at.display())]
    Mount {
        /// How many there are.
        layers: usize,
        /// Where.
        at: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file system of its own cannot be made for it.
    #[error("a file system for what the container writes cannot be made: {program} fails")]
    Disk {
        /// The program that makes or mounts it.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory or file of it cannot be made, or removed.
    #[error("{} cannot be {what}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, as a participle.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for OverlayError {
    fn code(&self) -> Code {
        Code::RootfsFailed
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Layer { .. } => "pull the image again: its layers were removed meanwhile".into(),
            Self::Mount { source, .. } if source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
                "the kernel has no overlayfs: `modprobe overlay`".into()
            }
            Self::Mount { .. } => "the kernel's log says what overlayfs does not like".into(),
            Self::Disk { package, source, .. } if source.kind() == io::ErrorKind::NotFound => {
                format!("apt-get install {package}")
            }
            Self::Disk { .. } => {
                "it needs loop devices (/dev/loop-control); without them, leave --storage-opt size away, and have the data \
                 directory on ext4, xfs or btrfs with --data-dir"
                    .into()
            }
            Self::File { .. } => {
                "see whether the file system of the data directory is full or read-only".into()
            }
        })
    }
}

/// Opens the layers of an image put together, to look into; nothing of it stays on the machine when it is closed.
///
/// # Errors
/// [`OverlayError`].
pub(crate) fn look(image: &ImageUse) -> Result<OwnedFd, OverlayError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    if let [layer] = &image.layers[..] {
        return open_layer(layer);
    }
    make_directory(&image.rootfs_dir)?;
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let place = image.rootfs_dir.join(format!("{LOOK}{}-{unique}", std::process::id()));
    make_directory(&place)?;
    let options = Options::of_layers(&image.layers)?;
    let looked = options.mount_at(&place, MountFlags::RDONLY).and_then(|()| {
        let opened = open_layer(&place);
        // It stays open below the descriptor, and for nobody else.
        detach(&place).and(opened)
    });
    let removed = std::fs::remove_dir(&place).map_err(file(&place, "removed"));
    looked.and_then(|directory| removed.map(|()| directory))
}

/// The root filesystem that a container of an image has, or will have.
pub(crate) fn root_of(image: &ImageUse, id: &ContainerId) -> PathBuf {
    image.rootfs_dir.join(id.as_str()).join("merged")
}

/// Where what a container of an image writes lies.
pub(crate) fn upper_of(image: &ImageUse, id: &ContainerId) -> PathBuf {
    written_in(&image.rootfs_dir.join(id.as_str())).join("upper")
}

/// The directory that has `upper` and `work`.
fn written_in(place: &Path) -> PathBuf {
    let disk = disk::mounted_at(place);
    if disk.exists() { disk } else { place.to_owned() }
}

/// Makes a container's root filesystem, and gives `None`; or the size of the disk that [`assemble_on_disk`] is to make it with,
/// in bytes: `limit`, or what is left where overlayfs cannot write to the data directory. What was made is taken away by
/// [`discard`], also where this fails.
///
/// # Errors
/// [`OverlayError`].
pub(crate) fn assemble(
    image: &ImageUse,
    id: &ContainerId,
    owner: &Path,
    limit: Option<u64>,
) -> Result<Option<u64>, OverlayError> {
    let _held = hold(image)?;
    let place = image.rootfs_dir.join(id.as_str());
    make_directory(&place)?;
    let write = |name: &str, text: &[u8]| {
        let path = place.join(name);
        std::fs::write(&path, text).map_err(file(&path, "written"))
    };
    write("owner", owner.as_os_str().as_bytes())?;
    write("image.json", &serde_json::to_vec(image).unwrap_or_default())?;
    if limit.is_some() {
        return Ok(limit);
    }
    match lay(image, &place, &place) {
        // What overlayfs says of a file system that it cannot write to.
        Err(OverlayError::Mount { source, .. })
            if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
        {
            let bytes = disk::unasked_bytes(&place);
            tracing::warn!(
                "overlayfs cannot write to {}: what the container writes lies in a disk of {} there",
                image.rootfs_dir.display(),
                format_bytes(bytes)
            );
            Ok(Some(bytes))
        }
        laid => laid.map(|()| None),
    }
}

/// Makes a container's root filesystem with a disk of this size, in bytes, after [`assemble`]. Not cancel safe: what is half
/// made stays until [`discard`].
///
/// # Errors
/// [`OverlayError`].
pub(crate) async fn assemble_on_disk(
    image: &ImageUse,
    id: &ContainerId,
    bytes: u64,
) -> Result<(), OverlayError> {
    let _held = hold(image)?;
    let place = image.rootfs_dir.join(id.as_str());
    disk::make(&place, bytes).await?;
    lay(image, &place, &written_in(&place))
}

/// Mounts the layers at `place`, with what is written in `own`.
fn lay(image: &ImageUse, place: &Path, own: &Path) -> Result<(), OverlayError> {
    let (upper, work, merged) = (own.join("upper"), own.join("work"), place.join("merged"));
    for directory in [&upper, &work, &merged] {
        make_directory(directory)?;
    }
    // The container's own `/`, which its users enter.
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o755))
        .map_err(file(&upper, "changed"))?;
    let mut options = Options::of_layers(&image.layers)?;
    options.add("upperdir", &upper);
    options.add("workdir", &work);
    options.mount_at(&merged, MountFlags::empty())
}

/// Takes a container's root filesystem away; what is not there is not missed.
///
/// # Errors
/// [`OverlayError::File`].
pub(crate) fn discard(rootfs_dir: &Path, id: &ContainerId) -> Result<(), OverlayError> {
    let place = rootfs_dir.join(id.as_str());
    detach(&place.join("merged"))?;
    detach(&disk::mounted_at(&place))?;
    remove_deep(&place).map_err(file(&place, "removed"))
}

/// Root filesystems of a state directory whose containers are gone: after a kill -9, or a reboot.
pub(crate) fn leftovers(
    rootfs_dir: &Path,
    owner: &Path,
    is_known: impl Fn(&ContainerId) -> bool,
) -> Vec<ContainerId> {
    let entries = std::fs::read_dir(rootfs_dir).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<ContainerId>().ok());
    let is_ours = |id: &ContainerId| {
        let text = std::fs::read(rootfs_dir.join(id.as_str()).join("owner"));
        // One without an owner is in its making, or was never mounted.
        text.is_ok_and(|text| text == owner.as_os_str().as_bytes())
    };
    ids.filter(|id| is_ours(id) && !is_known(id)).collect()
}

/// Takes directories away whose makers died before they had written whose they are. Nothing is mounted in one, and what has
/// anything in it is left alone.
pub(crate) fn remove_unowned(rootfs_dir: &Path) {
    let is_old = |metadata: &std::fs::Metadata| {
        metadata.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNOWNED_AGE))
    };
    for entry in std::fs::read_dir(rootfs_dir).into_iter().flatten().flatten() {
        let is_id = entry.file_name().to_str().is_some_and(|name| name.parse::<ContainerId>().is_ok());
        if is_id && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && is_old(&metadata)) {
            // One that is in use has something in it.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// Places at which somebody looked into layers who was killed meanwhile.
pub(crate) fn abandoned_looks(rootfs_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(rootfs_dir).into_iter().flatten().flatten();
    let is_abandoned = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()?.strip_prefix(LOOK));
        let pid = name.and_then(|name| name.split_once('-')?.0.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    entries.map(|entry| entry.path()).filter(is_abandoned).collect()
}

/// Takes such a place away.
///
/// # Errors
/// [`OverlayError::File`].
pub(crate) fn end_look(place: &Path) -> Result<(), OverlayError> {
    detach(place)?;
    match std::fs::remove_dir(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(file(place, "removed")),
    }
}

/// The images of the root filesystems that are there, each with the container that has one.
#[must_use]
pub fn images_in_use(rootfs_dir: &Path) -> Vec<(ContainerId, ImageUse)> {
    let entries = std::fs::read_dir(rootfs_dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse::<ContainerId>().ok()?;
        let text = std::fs::read(entry.path().join("image.json")).ok()?;
        Some((id, serde_json::from_slice(&text).ok()?))
    };
    entries.filter_map(of).collect()
}

/// Keeps the image's layers from being removed, until it is closed.
fn hold(image: &ImageUse) -> Result<OwnedFd, OverlayError> {
    let failed =
        |errno: Errno| OverlayError::File { path: image.hold.clone(), what: "locked", source: errno.into() };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(CWD, &image.hold, flags, Mode::empty()).map_err(failed)?;
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockShared)).map_err(failed)?;
    Ok(file)
}

/// The options of a mount, and the layers that they name by descriptor where their paths are too long for a page.
struct Options {
    text: String,
    layers: Vec<OwnedFd>,
}

impl Options {
    fn of_layers(layers: &[PathBuf]) -> Result<Self, OverlayError> {
        let opened = layers.iter().map(|layer| open_layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let is_plain = |path: &PathBuf| path.to_str().is_some_and(|path| !path.contains([',', ':', '\\']));
        let by_path: usize = layers.iter().map(|layer| layer.as_os_str().len() + 1).sum();
        // Half of the page is left for the other directories.
        let names: Vec<String> = if layers.iter().all(is_plain) && by_path < OPTIONS_LIMIT / 2 {
            layers.iter().map(|layer| layer.display().to_string()).collect()
        } else {
            opened.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect()
        };
        // overlayfs has the highest first.
        let names: Vec<&str> = names.iter().rev().map(String::as_str).collect();
        Ok(Self { text: format!("{OPTIONS},lowerdir={}", names.join(":")), layers: opened })
    }

    /// Adds a directory; what means something among the options is escaped.
    fn add(&mut self, key: &str, directory: &Path) {
        let escaped = directory.display().to_string().replace('\\', "\\\\").replace(',', "\\,");
        // Writing into a text does not fail.
        let _ = write!(self.text, ",{key}={escaped}");
    }

    fn mount_at(&self, at: &Path, flags: MountFlags) -> Result<(), OverlayError> {
        let failed =
            |source: io::Error| OverlayError::Mount { layers: self.layers.len(), at: at.to_owned(), source };
        if self.text.len() > OPTIONS_LIMIT {
            return Err(failed(Errno::TOOBIG.into()));
        }
        let options = CString::new(self.text.as_str()).map_err(|error| failed(error.into()))?;
        mount("overlay", at, "overlay", flags, Some(options.as_c_str())).map_err(|errno| failed(errno.into()))
    }
}

fn open_layer(path: &Path) -> Result<OwnedFd, OverlayError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| OverlayError::Layer { path: path.to_owned(), source: errno.into() })
}

pub(super) fn make_directory(path: &Path) -> Result<(), OverlayError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file(path, "made"))
}

/// Unmounts a place for everybody but those who have it open; one that is not mounted, or not there, is left alone.
fn detach(place: &Path) -> Result<(), OverlayError> {
    match unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(file(place, "unmounted")(errno.into())),
    }
}

pub(super) fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> OverlayError {
    move |source| OverlayError::File { path: path.to_owned(), what, source }
}
