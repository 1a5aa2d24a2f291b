//! Writing files whole, and removing directories whole.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StateError;

/// Removes a directory with all that is in it; others may be at it too.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    loop {
        match std::fs::remove_dir_all(path) {
            // Something in it went first, or all of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}

pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), StateError> {
    let failed = |source| StateError::File { path: path.to_owned(), what: "written", source };
    let text = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    write_atomically(path, |out| out.write_all(&text)).map_err(failed)
}

/// Writes a file so that a reader sees the old content or the new, whole, also after a crash.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> io::Result<()>,
) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.{unique}", std::process::id()));
    let result = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            write(&mut file)?;
            file.sync_data()
        })
        .and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        // It may not have been made at all.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}
