//! Reading a bundle that was given, and writing the one that the runtime gets.
//!
//! A given config.json is foreign bytes: it is opened without following a link or blocking, must be a regular file of
//! limited size, and is parsed by us (runc hangs on a FIFO and panics on `null`). The runtime only ever sees a bundle
//! of ours, in a directory that the workload can neither read nor write.

use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde_json::Value;

use crate::error::{Code, Diagnose};
use crate::request::Refused;
use crate::spec::PreparedSpec;
use crate::state::write_atomically;

/// The largest config.json that is read, in bytes. 10,000 environment entries fit; runc takes seconds for 50 MB.
pub const CONFIG_LIMIT_BYTES: u64 = 4 << 20;
/// The file in a bundle that holds the specification.
pub const CONFIG_FILE: &str = "config.json";

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not there, or no directory.
    #[error("the bundle {} cannot be opened as a directory", .path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// config.json cannot be opened as a regular file.
    #[error("{} cannot be read: {why}", .path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// config.json is too large.
    #[error("{} is too large: {size} bytes, the limit is {CONFIG_LIMIT_BYTES}", .path.display())]
    TooLarge {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// config.json is not JSON.
    #[error("{} is not valid JSON", .path.display())]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// config.json is JSON, and no object.
    #[error("{} holds {what} where an object is needed", .path.display())]
    NoObject {
        /// Its path.
        path: PathBuf,
        /// What it holds.
        what: &'static str,
    },
    /// The root filesystem is named in a way that cannot be right.
    #[error("{}: {refused}", .path.display())]
    Root {
        /// The path of config.json.
        path: PathBuf,
        /// What is wrong.
        refused: Refused,
    },
    /// The bundle for the runtime could not be written.
    #[error("the bundle in {} could not be written", .path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for BundleError {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::BundleMissing,
            Self::Unreadable { .. } => Code::ConfigUnreadable,
            Self::TooLarge { .. } => Code::ConfigTooLarge,
            Self::Syntax { .. } | Self::NoObject { .. } => Code::ConfigInvalid,
            Self::Root { .. } => Code::SpecRefused,
            Self::Write { .. } => Code::StateWrite,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Missing { .. } => "give the directory that holds config.json".into(),
            Self::Unreadable { .. } => {
                "config.json must be a regular file in the bundle itself, no link".into()
            }
            Self::TooLarge { .. } => "move what is large out of it, into files that are mounted".into(),
            Self::Syntax { .. } | Self::NoObject { .. } => {
                "`runc spec` writes a config.json to begin with".into()
            }
            Self::Root { .. } => return None,
            Self::Write { .. } => "see whether the state directory is full".into(),
        })
    }
}

/// Reads the specification of a bundle: any JSON object.
///
/// # Errors
/// [`BundleError`] says what is wrong with the directory or with config.json.
pub fn read_config(bundle: &Path) -> Result<Value, BundleError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, bundle, flags, Mode::empty())
        .map_err(|errno| BundleError::Missing { path: bundle.to_owned(), source: errno.into() })?;
    let path = bundle.join(CONFIG_FILE);
    let unreadable = |why: String| BundleError::Unreadable { path: path.clone(), why };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(&directory, CONFIG_FILE, flags, Mode::empty()).map_err(|errno| {
        unreadable(if errno == rustix::io::Errno::LOOP {
            "it is a symbolic link".to_owned()
        } else {
            io::Error::from(errno).to_string()
        })
    })?;
    let stat = fstat(&file).map_err(|errno| unreadable(io::Error::from(errno).to_string()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unreadable("it is not a regular file".into()));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > CONFIG_LIMIT_BYTES {
        return Err(BundleError::TooLarge { path, size });
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read: the limit holds all the same.
    std::fs::File::from(file)
        .take(CONFIG_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if u64::try_from(bytes.len()).is_ok_and(|size| size > CONFIG_LIMIT_BYTES) {
        return Err(BundleError::TooLarge { path, size: CONFIG_LIMIT_BYTES + 1 });
    }
    parse_config(&bytes).map_err(|error| match error {
        ConfigSyntax::Json(source) => BundleError::Syntax { path, source },
        ConfigSyntax::NoObject(what) => BundleError::NoObject { path, what },
    })
}

/// Bytes that are no specification.
#[derive(Debug)]
pub enum ConfigSyntax {
    /// They are not JSON.
    Json(serde_json::Error),
    /// They are JSON, and no object but this.
    NoObject(&'static str),
}

/// Parses the bytes of a config.json.
///
/// # Errors
/// [`ConfigSyntax`] when they are not a JSON object.
pub fn parse_config(bytes: &[u8]) -> Result<Value, ConfigSyntax> {
    let value: Value = serde_json::from_slice(bytes).map_err(ConfigSyntax::Json)?;
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Err(ConfigSyntax::NoObject("null")),
        Value::Array(_) => Err(ConfigSyntax::NoObject("an array")),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(ConfigSyntax::NoObject("a single value")),
    }
}

/// The root filesystem that a bundle's specification names, as a path of the host.
///
/// # Errors
/// [`BundleError::Root`] when none is named, or one outside the bundle.
pub fn root_of(bundle: &Path, config: &Value) -> Result<PathBuf, BundleError> {
    crate::spec::check::root_path(config)
        .map(|root| bundle.join(root))
        .map_err(|refused| BundleError::Root { path: bundle.join(CONFIG_FILE), refused })
}

/// Writes the bundle that the runtime gets: a directory with nothing but config.json.
///
/// # Errors
/// [`BundleError::Write`], with nothing left behind that the caller does not remove with the container's folder.
pub fn write(directory: &Path, spec: &PreparedSpec) -> Result<(), BundleError> {
    let result = std::fs::DirBuilder::new().mode(0o700).create(directory).and_then(|()| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(directory.join(CONFIG_FILE))?;
        let text = serde_json::to_vec(&spec.value).map_err(io::Error::other)?;
        file.write_all(&text)
    });
    result.map_err(|source| BundleError::Write { path: directory.to_owned(), source })
}

/// Says in a bundle of ours which network namespace is to be joined, now that it is known.
///
/// # Errors
/// [`BundleError::Write`] where the file cannot be read, or not be written.
pub(crate) fn join_network(directory: &Path, namespace: &Path) -> Result<(), BundleError> {
    let failed = |source: io::Error| BundleError::Write { path: directory.to_owned(), source };
    let path = directory.join(CONFIG_FILE);
    let text = std::fs::read(&path).map_err(failed)?;
    let mut spec: Value = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    let namespaces = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    let network = namespaces.into_iter().flatten().find(|entry| entry["type"] == "network");
    let network = network.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    network["path"] = namespace.to_string_lossy().into();
    let text = serde_json::to_vec(&spec).map_err(|error| failed(error.into()))?;
    write_atomically(&path, |out| out.write_all(&text)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &[u8]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(CONFIG_FILE), config).unwrap();
        directory
    }

    fn code(config: &[u8]) -> Code {
        read_config(bundle(config).path()).unwrap_err().code()
    }

    #[test]
    fn broken_json_is_refused_with_its_place() {
        for bytes in [&b""[..], b"{", b"{\"a\":}", b"\xff\xfe", b"{\"a\": \"\xc3\x28\"}"] {
            assert_eq!(code(bytes), Code::ConfigInvalid, "{bytes:?}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(code(deep.as_bytes()), Code::ConfigInvalid);
        let error = read_config(bundle(b"{\n  \"a\" 1\n}").path()).unwrap_err();
        assert!(Failure::of(&error).to_string().contains("line 2"), "{error:?}");
    }

    #[test]
    fn other_json_than_an_object_is_refused() {
        for bytes in [&b"null"[..], b"[]", b"1", b"\"x\"", b"true"] {
            assert_eq!(code(bytes), Code::ConfigInvalid, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONFIG_FILE);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(read_config(directory.path()).unwrap_err().code(), Code::ConfigUnreadable);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = read_config(directory.path()).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read_config(directory.path()).unwrap_err().code(), Code::ConfigUnreadable);
    }

    #[test]
    fn a_large_file_is_refused_unread() {
        let directory = bundle(b"{}");
        let file = std::fs::OpenOptions::new().write(true).open(directory.path().join(CONFIG_FILE)).unwrap();
        file.set_len(100 << 20).unwrap();
        let error = read_config(directory.path()).unwrap_err();
        assert_eq!(error.code(), Code::ConfigTooLarge);
        assert!(error.to_string().contains("104857600"), "{error}");
    }

    #[test]
    fn a_missing_bundle_is_told_from_a_missing_file() {
        assert_eq!(read_config(Path::new("/nonexistent")).unwrap_err().code(), Code::BundleMissing);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(read_config(empty.path()).unwrap_err().code(), Code::ConfigUnreadable);
    }

    #[test]
    fn roots_stay_in_the_bundle_unless_they_are_absolute() {
        let root = |path: &str| root_of(Path::new("/b"), &serde_json::json!({ "root": { "path": path } }));
        assert_eq!(root("rootfs").unwrap(), Path::new("/b/rootfs"));
        assert_eq!(root("/srv/x").unwrap(), Path::new("/srv/x"));
        for path in ["", "../x", "a/../../b", "a\0b"] {
            assert_eq!(root(path).unwrap_err().code(), Code::SpecRefused, "{path:?}");
        }
        assert!(root_of(Path::new("/b"), &serde_json::json!({})).is_err());
    }

    use crate::error::Failure;
}
