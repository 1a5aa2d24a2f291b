//! A file system of its own for what a container writes: ext4 in a file, mounted by a loop device. It limits how much a
//! container writes on any file system, and is one that overlayfs can write to where the data directory's is none: an overlay
//! itself (in a container), a network's.
//!
//! The file is sparse: it takes of the disk what is written, and gives back what is removed (`discard`).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;

use super::overlay::{OverlayError, file, make_directory};
use crate::exit::ProcessEnd;
use crate::process::{Invocation, InvokeError, Streams, run};
use crate::runtime::find_program;

/// Below a container's place: the file, and where it is mounted.
const FILE: &str = "disk.ext4";
const MOUNTED: &str = "disk";
/// The least size: below it, ext4's own tables leave nothing.
pub(crate) const LEAST_BYTES: u64 = 16 << 20;
/// The most that is made up where nobody has said how much: the tables of more take long to write.
const UNASKED_LIMIT_BYTES: u64 = 64 << 30;
/// How long making it may take, and mounting it.
const LIMIT: Duration = Duration::from_secs(60);

/// Where a container's disk is mounted, if it has one.
pub(super) fn mounted_at(place: &Path) -> PathBuf {
    place.join(MOUNTED)
}

/// The size of a disk that nobody has limited: what the file system has left.
pub(super) fn unasked_bytes(place: &Path) -> u64 {
    let free = statvfs(place).map_or(UNASKED_LIMIT_BYTES, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    free.clamp(LEAST_BYTES, UNASKED_LIMIT_BYTES)
}

/// Makes a disk, and mounts it. What was made is taken away with the container's place, also where this fails.
///
/// # Errors
/// [`OverlayError::Disk`]: a program is missing or fails; [`OverlayError::File`].
pub(super) async fn make(place: &Path, bytes: u64) -> Result<(), OverlayError> {
    let (image, at) = (place.join(FILE), mounted_at(place));
    make_directory(&at)?;
    let made = std::fs::File::create(&image).and_then(|file| file.set_len(bytes));
    made.map_err(file(&image, "made"))?;
    // Nothing of it is read after a crash of the machine, so that it needs no journal.
    let features = ["-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode"];
    let extended = ["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"];
    let words = features.iter().chain(&extended).map(OsString::from).chain([image.clone().into()]);
    call("mkfs.ext4", "e2fsprogs", words.collect()).await?;
    let words = ["-t", "ext4", "-o", "loop,discard"].map(OsString::from);
    call("mount", "mount", words.into_iter().chain([image.into(), at.into()]).collect()).await
}

async fn call(program: &'static str, package: &'static str, args: Vec<OsString>) -> Result<(), OverlayError> {
    let failed = |why: io::Error| OverlayError::Disk { program, package, source: why };
    let Some(binary) = find_program(program, std::env::var_os("PATH").as_deref()) else {
        return Err(failed(io::ErrorKind::NotFound.into()));
    };
    let invocation = Invocation { program: &binary, args, streams: Streams::Captured, limit: LIMIT };
    let completed = run(invocation).await.map_err(|error| match error {
        InvokeError::Spawn { source, .. } => failed(source),
        InvokeError::TimedOut { .. } => failed(io::ErrorKind::TimedOut.into()),
    })?;
    if completed.end == ProcessEnd::Exited(0) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&completed.stderr);
    Err(failed(io::Error::other(format!("{}: {}", completed.end, said.trim()))))
}
