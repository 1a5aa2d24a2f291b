//! Finding a runtime's binary by the name that a user gives.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Diagnose};
use crate::id::quote;

/// Where runtimes are installed, beside PATH: a user's own PATH often lacks the sbin directories.
const USUAL_PLACES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The runtimes that cofferdam knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// The reference runtime.
    Runc,
    /// The runtime in C.
    Crun,
    /// The runtime in Rust.
    Youki,
    /// gVisor.
    Runsc,
}

impl RuntimeKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Runc, Self::Crun, Self::Youki, Self::Runsc];

    /// The name of its binary.
    #[must_use]
    pub fn binary_name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Youki => "youki",
            Self::Runsc => "runsc",
        }
    }

    /// The runtime of a name; `gvisor` is runsc.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gvisor" => Some(Self::Runsc),
            _ => Self::ALL.into_iter().find(|kind| kind.binary_name() == name),
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.binary_name())
    }
}

/// A runtime that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The name is not one of a runtime.
    #[error("{} is not a runtime: use runc, crun, youki, runsc, gvisor or the absolute path of a binary", quote(.0))]
    Unknown(String),
    /// The runtime is not installed.
    #[error("the runtime {0} is not installed: there is no executable `{0}` along PATH")]
    Missing(RuntimeKind),
    /// There is no such file, or it cannot be executed.
    #[error("the runtime {} cannot be executed: {why}", .path.display())]
    NotExecutable {
        /// The path that was given.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Diagnose for LocateError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::InvalidValue,
            Self::Missing(_) | Self::NotExecutable { .. } => Code::RuntimeMissing,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Unknown(_) => return None,
            Self::Missing(RuntimeKind::Runsc) => {
                "install gVisor: `apt install runsc` (Debian), or https://gvisor.dev/docs/user_guide/install/"
                    .into()
            }
            Self::Missing(RuntimeKind::Youki) => {
                "install it from https://github.com/youki-dev/youki/releases".into()
            }
            Self::Missing(kind) => {
                format!("install it: `apt install {kind}`, or your system's package of {kind}")
            }
            Self::NotExecutable { .. } => "give the path of a runtime's binary".into(),
        })
    }
}

/// Finds the binary of a runtime that is named, or given as an absolute path.
///
/// Returns the runtime's name, as `runc` or `runsc`, and the binary. A binary given by path is named after its file.
///
/// # Errors
/// [`LocateError`] when there is none.
pub fn locate(choice: &str, path: Option<&OsStr>) -> Result<(String, PathBuf), LocateError> {
    if choice.starts_with('/') {
        let binary = PathBuf::from(choice);
        let why = match std::fs::metadata(&binary) {
            Err(error) => error.to_string(),
            Ok(metadata) if !metadata.is_file() => "it is not a regular file".into(),
            Ok(_) => match access(&binary, Access::EXEC_OK) {
                Ok(()) => {
                    let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Ok((name, binary));
                }
                Err(errno) => std::io::Error::from(errno).to_string(),
            },
        };
        return Err(LocateError::NotExecutable { path: binary, why });
    }
    let kind = RuntimeKind::from_name(choice).ok_or_else(|| LocateError::Unknown(choice.to_owned()))?;
    find_program(kind.binary_name(), path)
        .map(|binary| (kind.binary_name().to_owned(), binary))
        .ok_or(LocateError::Missing(kind))
}

/// Finds a program along PATH, and in the places where programs of root usually are.
pub(crate) fn find_program(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let from_path = path.map(std::env::split_paths).into_iter().flatten();
    from_path
        .chain(USUAL_PLACES.iter().map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|binary| is_executable(binary))
}

fn is_executable(binary: &Path) -> bool {
    std::fs::metadata(binary).is_ok_and(|metadata| metadata.is_file())
        && access(binary, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gvisor_is_runsc_and_other_words_are_refused() {
        assert_eq!(RuntimeKind::from_name("gvisor"), Some(RuntimeKind::Runsc));
        for choice in ["", "docker", "../runc", "runc ", "RUNC"] {
            assert!(matches!(locate(choice, None), Err(LocateError::Unknown(_))), "{choice:?}");
        }
    }

    #[test]
    fn a_path_must_be_an_executable_file() {
        for choice in ["/nonexistent/runc", "/tmp", "/etc/passwd"] {
            assert!(matches!(locate(choice, None), Err(LocateError::NotExecutable { .. })), "{choice}");
        }
        let (name, _) = locate("/bin/sh", None).unwrap();
        assert_eq!(name, "sh");
    }
}
