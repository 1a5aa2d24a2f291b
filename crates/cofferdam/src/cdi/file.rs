//! The files of a directory, each read with suspicion.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use container_device_interface::specs::config;
use rustix::fs::OFlags;

use super::CdiError;

/// The largest file that is read, in bytes. That of a host with 8 GPUs has 30 KB.
const LIMIT_BYTES: u64 = 4 << 20;
/// Who may write besides the owner.
const OTHERS_WRITE: u32 = 0o022;

/// The files of a directory that may be descriptions, in the order of their names. A directory that is missing has none.
pub(super) fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_description = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| matches!(extension, "json" | "yaml")) && !path.is_dir()
    };
    let mut files: Vec<PathBuf> = entries.filter(is_description).collect();
    files.sort();
    files
}

/// Reads one.
pub(super) fn read(directory: &Path, path: &Path) -> Result<config::Spec, CdiError> {
    let name = || path.display().to_string();
    let unreadable = |source| CdiError::Unreadable { path: name(), source };
    let invalid = |why: String| CdiError::Invalid { path: name(), why };
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let file = std::fs::File::options().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(invalid("it is no regular file".into()));
    }
    check_owner(path, &metadata)?;
    // Whoever can put another file in its place is as good as its writer.
    let resolved = path.canonicalize().map_err(unreadable)?;
    let directory = directory.canonicalize().map_err(unreadable)?;
    for above in resolved.ancestors().skip(1).chain(directory.ancestors()) {
        check_owner(above, &std::fs::metadata(above).map_err(unreadable)?)?;
    }
    let mut text = String::new();
    let read = file.take(LIMIT_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(read).is_ok_and(|read| read > LIMIT_BYTES) {
        return Err(invalid(format!("it is larger than {LIMIT_BYTES} bytes")));
    }
    parse(&text).map_err(invalid)
}

fn check_owner(path: &Path, metadata: &std::fs::Metadata) -> Result<(), CdiError> {
    /// In a directory with it, nobody can move what is not his own.
    const STICKY: u32 = 0o1000;
    let own = rustix::process::geteuid().as_raw();
    let is_open =
        metadata.mode() & OTHERS_WRITE != 0 && !(metadata.is_dir() && metadata.mode() & STICKY != 0);
    if ![0, own].contains(&metadata.uid()) || is_open {
        return Err(CdiError::Untrusted { path: path.display().to_string() });
    }
    Ok(())
}

/// Parses a description: YAML, of which JSON is a part.
///
/// # Errors
/// Where it is none, and why.
pub fn parse(text: &str) -> Result<config::Spec, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
