//! Checking a prepared network namespace before a runtime is asked to join it.
//!
//! runc fails at create; runsc takes a path that is missing, or no namespace at all, and starts.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};

use crate::error::{Code, Diagnose};
use crate::sys::{NamespaceKind, namespace_kind};

/// A network namespace that cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is nothing at the path, or it cannot be opened.
    #[error("the network namespace {} cannot be opened", .path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a network namespace", .0.display())]
    NotOne(PathBuf),
    /// It is the host's own.
    #[error("{} is the host's own network namespace", .0.display())]
    Host(PathBuf),
}

impl Diagnose for NetworkError {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } | Self::NotOne(_) => Code::NetworkNamespace,
            Self::Host(_) => Code::HostNetwork,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Missing { .. } | Self::NotOne(_) => {
                "make one with `ip netns add NAME` and give --network ns:/run/netns/NAME".into()
            }
            Self::Host(_) => "use --network host if you mean the host's network".into(),
        })
    }
}

/// Makes sure that a path is a network namespace, and not the host's own.
///
/// # Errors
/// [`NetworkError`].
pub fn check_namespace(path: &Path) -> Result<(), NetworkError> {
    // Without NONBLOCK a FIFO would block; a namespace opens either way.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let missing =
        |errno: rustix::io::Errno| NetworkError::Missing { path: path.to_owned(), source: errno.into() };
    let file = openat(CWD, path, flags, Mode::empty()).map_err(missing)?;
    if namespace_kind(file.as_fd()) != Some(NamespaceKind::Network) {
        return Err(NetworkError::NotOne(path.to_owned()));
    }
    let this = fstat(&file).map_err(missing)?;
    let own = stat("/proc/self/ns/net").map_err(missing)?;
    if (this.st_dev, this.st_ino) == (own.st_dev, own.st_ino) {
        return Err(NetworkError::Host(path.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_of_another_is_refused() {
        let code = |path: &str| check_namespace(Path::new(path)).unwrap_err().code();
        assert_eq!(code("/nonexistent/netns"), Code::NetworkNamespace);
        assert_eq!(code("/etc/passwd"), Code::NetworkNamespace);
        assert_eq!(code("/proc/self/ns/pid"), Code::NetworkNamespace);
        assert_eq!(code("/proc/self/ns/net"), Code::HostNetwork);
    }
}
