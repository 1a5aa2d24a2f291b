//! Removing what a container has written.
//!
//! Its directories may lie deeper than a process has descriptors or a stack, so none is gone down into: each is moved up to
//! the top, and emptied there. No link is followed, and no mount is entered: what is mounted there stays, and is an error.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;

/// Names that are read at once: a directory may hold any number.
const PORTION: usize = 1024;

/// Removes a directory with all that is in it; one that is not there is removed already. Blocks.
///
/// # Errors
/// The kernel's, for the first entry that it does not let go; the rest stays.
pub fn remove_deep(path: &Path) -> io::Result<()> {
    match empty_deep(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        emptied => emptied?,
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes all that is in a directory. Others may be at it too. Blocks.
///
/// # Errors
/// The kernel's, as for [`remove_deep`].
pub fn empty_deep(path: &Path) -> io::Result<()> {
    let top = openat(CWD, path, directory_flags(), Mode::empty())?;
    let mut moved = 0_u64;
    loop {
        let names = names_in(&top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            remove_entry(&top, &name, &mut moved)?;
        }
    }
}

/// Removes an entry of the top; the directories in it become entries of the top.
fn remove_entry(top: &OwnedFd, name: &CString, moved: &mut u64) -> io::Result<()> {
    if remove_file(top, name)? {
        return Ok(());
    }
    let directory = match open_directory(top, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    loop {
        let names = names_in(&directory)?;
        if names.is_empty() {
            break;
        }
        for child in names {
            if remove_file(&directory, &child)? {
                continue;
            }
            loop {
                *moved += 1;
                let place = format!(".{}.{moved}", std::process::id());
                match renameat(&directory, &child, top, place) {
                    // Another process empties it too.
                    Err(Errno::NOENT) => break,
                    // Something has this name.
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                    renamed => {
                        renamed?;
                        break;
                    }
                }
            }
        }
    }
    match unlinkat(top, name, AtFlags::REMOVEDIR) {
        // What another process has put there is found by the next look.
        Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
        removed => Ok(removed?),
    }
}

/// Removes what is no directory; says whether it was none.
fn remove_file(parent: &OwnedFd, name: &CString) -> io::Result<bool> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The first names in a directory.
fn names_in(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == PORTION {
            break;
        }
    }
    Ok(names)
}

fn open_directory(parent: &OwnedFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat2(parent, name, directory_flags(), Mode::empty(), ResolveFlags::NO_XDEV)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_any_depth_go_and_links_are_not_followed() {
        const DEPTH: usize = 3000;
        let keep = tempfile::tempdir().unwrap();
        let (top, canary) = (keep.path().join("top"), keep.path().join("canary"));
        std::fs::create_dir(&top).unwrap();
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "").unwrap();
        let flags = directory_flags();
        let mut here = openat(CWD, &top, flags, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(canary.as_path(), &here, "link").unwrap();
            here = openat(&here, "d", flags, Mode::empty()).unwrap();
        }
        for number in 0..PORTION + 10 {
            std::fs::write(top.join(number.to_string()), "").unwrap();
        }
        // Names that this would use itself.
        std::fs::write(top.join(format!(".{}.1", std::process::id())), "").unwrap();
        std::fs::create_dir_all(top.join(format!(".{}.2/x", std::process::id()))).unwrap();
        remove_deep(&top).unwrap();
        assert!(!top.exists() && canary.join("file").exists());
        remove_deep(&top).unwrap();
        std::os::unix::fs::symlink(&canary, &top).unwrap();
        assert!(remove_deep(&top).is_err(), "a link in its place is not followed");
        assert!(canary.join("file").exists());
    }
}
