//! Network namespaces without a process in them: files in one directory, each with a namespace mounted on it.
//!
//! The directory is a shared mount of itself while it has any, as with `ip netns`: so a namespace's file goes from other
//! mount namespaces too when it is removed here, and the namespace with it.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cni::config::check_name;
use crate::error::NetworkError;
use crate::lock::{Hold, Lock};
use crate::{netlink, sys};

/// How often a file is unmounted before it counts as stuck. Nobody mounts on it twice on purpose.
const UNMOUNTS_LIMIT: usize = 16;

/// A directory of namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces {
    directory: PathBuf,
}

impl Namespaces {
    /// Namespaces in this directory, which need not be there.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The file of a namespace, whether it is there or not.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a namespace with its loopback up. Blocks for some milliseconds.
    ///
    /// # Errors
    /// There is one with the name, or the kernel refuses.
    pub fn create(&self, name: &str) -> Result<PathBuf, NetworkError> {
        let path = self.path(name);
        let failed = |source| NetworkError::Namespace { path: path.clone(), what: "made", source };
        check_name(name).map_err(|reason| failed(io::Error::new(io::ErrorKind::InvalidInput, reason)))?;
        let _lock = self.prepare().map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(CWD, &path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let target = path.clone();
        let made = on_thread(move || {
            sys::unshare_network()?;
            netlink::loopback_up()?;
            Ok(mount_bind("/proc/thread-self/ns/net", &target)?)
        });
        made.map_err(|error| {
            // The mount is the last step, so that there is but the file.
            let _ = std::fs::remove_file(&path);
            failed(error)
        })?;
        Ok(path)
    }

    /// Removes a namespace's file. The namespace itself, with its links, goes with the last process in it.
    ///
    /// # Errors
    /// The kernel refuses. That there is none is no error.
    pub fn destroy(&self, name: &str) -> Result<(), NetworkError> {
        let path = self.path(name);
        let failed = |source| NetworkError::Namespace { path: path.clone(), what: "removed", source };
        if !self.directory.exists() {
            return Ok(());
        }
        let _lock = Lock::file(&self.lock_path(), Hold::Alone).map_err(failed)?;
        detach_mounts(&path).map_err(failed)?;
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if self.names().map_err(failed)?.is_empty() {
            detach_mounts(&self.directory).map_err(failed)?;
        }
        Ok(())
    }

    /// Names of all namespaces, also of files of which the mount is not there yet, or no more.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<String>, NetworkError> {
        let failed =
            |source| NetworkError::Namespace { path: self.directory.clone(), what: "listed", source };
        self.names().map_err(failed)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.with_extension("lock")
    }

    /// Makes the directory, and makes it a shared mount. Two processes must not do it at once: it would be mounted twice.
    fn prepare(&self) -> io::Result<Lock> {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
        let lock = Lock::file(&self.lock_path(), Hold::Alone)?;
        let share =
            || mount_change(&self.directory, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
        match share() {
            // It is not a mount.
            Err(Errno::INVAL) => {
                mount_bind_recursive(&self.directory, &self.directory)?;
                share()?;
            }
            result => result?,
        }
        Ok(lock)
    }
}

/// Whether a file is a namespace of some kind, and not what is left of one.
pub(crate) fn is_namespace(path: &Path) -> bool {
    /// linux/magic.h: NSFS_MAGIC.
    const NSFS: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(NSFS))
}

/// Runs something on a thread of its own inside of a network namespace, and waits for it.
///
/// # Errors
/// The file is no network namespace; [`io::Error`]s of `act` as they are.
pub fn enter<T: Send + 'static>(
    path: &Path,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let namespace = openat(CWD, path, flags, Mode::empty())?;
    on_thread(move || {
        use std::os::fd::AsFd;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    })
}

/// A thread that goes to another namespace must never be used again, so it is not one of a pool.
fn on_thread<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("network".into()).spawn(act)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

fn detach_mounts(path: &Path) -> io::Result<()> {
    for _ in 0..UNMOUNTS_LIMIT {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted on it, or there is nothing.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("something is mounted on it again and again"))
}
