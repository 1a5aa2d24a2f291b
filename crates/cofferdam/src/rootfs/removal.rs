//! Removing what a container has written: a tree of any depth, which nothing in it leads out of.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// How deep directories are walked down. What lies deeper is moved up first: a container can nest directories deeper than
/// there are descriptors, or room on the stack.
const DEPTH: usize = 64;

/// Removes a directory with all that is in it. Links are removed and never followed. What is not there is not missed.
///
/// # Errors
/// The first entry that the kernel does not let go.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open_directory(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut moved = 0;
    while remove_entries(top.as_fd(), top.as_fd(), DEPTH, &mut moved)? {}
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes what is in a directory; says whether something was moved to the top instead.
fn remove_entries(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    depth: usize,
    moved: &mut u64,
) -> Result<bool, Errno> {
    let mut is_left = false;
    for name in names_in(directory)? {
        match unlinkat(directory, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            // Somebody else is at it, too.
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        }
        if depth == 0 {
            *moved += 1;
            renameat(directory, &name, top, format!(".deep-{moved}"))?;
            is_left = true;
            continue;
        }
        match open_directory(directory, &name) {
            Ok(inner) => is_left |= remove_entries(top, inner.as_fd(), depth - 1, moved)?,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        }
        match unlinkat(directory, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(is_left)
}

fn names_in(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let names = Dir::read_from(directory)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    let is_entry = |name: &CString| !matches!(name.to_bytes(), b"." | b"..");
    names.filter(|name| name.as_ref().map_or(true, is_entry)).collect()
}

fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_removed_and_what_they_lead_to_stays() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "here").unwrap();
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path().join("t");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("a/link")).unwrap();
        std::fs::write(root.join("a/b/file"), "x").unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(std::fs::read_to_string(outside.path().join("canary")).unwrap(), "here");
        remove_tree(&root).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path().join("t");
        std::fs::create_dir(&root).unwrap();
        let mut here = open_directory(CWD, root.as_path()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "deeper", Mode::from_raw_mode(0o700)).unwrap();
            here = open_directory(&here, "deeper").unwrap();
        }
        drop(here);
        remove_tree(&root).unwrap();
        assert!(!root.exists());
    }
}
