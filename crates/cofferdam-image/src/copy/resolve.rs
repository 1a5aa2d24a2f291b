//! Finding what a path means, in a container and on the host.
//!
//! Invariant: a path in a container is resolved below its root by the kernel (`RESOLVE_IN_ROOT`): its links lead to places in
//! the container, and those of /proc lead nowhere.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::CopyError;
use super::path::{Given, There, split};
use crate::pack::walk::Found;

/// How often a path is tried again of which the kernel says that somebody renamed a part of it meanwhile.
const TRIES: usize = 128;
/// How many links are followed to a file that is to be made; Linux has the same limit.
const LINKS: usize = 40;

/// What paths in a container lead through.
pub(super) const IN_CONTAINER: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens a path below a directory.
pub(super) fn open_within(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    for _ in 0..TRIES {
        match openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// What is copied: where it is, and by which name it is known.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) found: Found,
    /// Empty for the root of a container.
    pub(super) name: Vec<u8>,
}

/// Finds what is copied out of a container.
pub(super) fn origin_in(root: BorrowedFd<'_>, given: &Given, follows: bool) -> Result<Origin, CopyError> {
    let path = given.in_container();
    let opened = open_within(root, &path, origin_flags(given, follows), IN_CONTAINER);
    let node = opened.map_err(CopyError::file(&given.text, "found in the container"))?;
    Ok(Origin { found: Found::of(node, &given.text)?, name: split(&path).1.to_vec() })
}

/// Finds what is copied into a container.
pub(super) fn origin_on_host(given: &Given, follows: bool) -> Result<Origin, CopyError> {
    let opened =
        openat(CWD, given.text.as_slice(), origin_flags(given, follows) | OFlags::CLOEXEC, Mode::empty());
    let node = opened.map_err(CopyError::file(&given.text, "found on the host"))?;
    let path = Path::new(OsStr::from_bytes(&given.text));
    let name = match path.file_name() {
        Some(name) => name.as_bytes().to_vec(),
        // It ends in `..`, or is the root.
        None => path
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.as_bytes().to_vec()))
            .unwrap_or_default(),
    };
    Ok(Origin { found: Found::of(node, &given.text)?, name })
}

fn origin_flags(given: &Given, follows: bool) -> OFlags {
    // A path that ends in `/` is that of a directory, whatever its last part is.
    if follows || given.is_directory { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW }
}

/// Where something is copied to.
#[derive(Debug)]
pub(super) struct Goal {
    pub(super) there: There,
    /// The destination where it is a directory, and else the directory that it is in.
    pub(super) directory: OwnedFd,
    /// Its name in that directory, where it is none itself.
    pub(super) name: Vec<u8>,
}

/// Finds the destination in a container. A link that leads to a file, or nowhere, is followed in the container, as docker does.
pub(super) fn goal_in(root: BorrowedFd<'_>, given: &Given) -> Result<Goal, CopyError> {
    let not_found = || CopyError::file(&given.text, "found in the container");
    let mut path = given.in_container();
    for _ in 0..LINKS {
        let open = |path: &[u8], flags| open_within(root, path, flags, IN_CONTAINER);
        match open(&path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => return Ok(Goal { there: There::Directory, directory, name: Vec::new() }),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(not_found()(errno)),
        }
        let (above, name) = split(&path);
        if matches!(name, b"" | b"." | b"..") {
            // It was a directory, or nothing, a moment ago; `..` of what is there now may be above the root.
            return Err(not_found()(Errno::NOENT));
        }
        let directory = open(above, OFlags::PATH | OFlags::DIRECTORY).map_err(not_found())?;
        let there = there(directory.as_fd(), name, given)?;
        let Some(link) = there.link else {
            return Ok(Goal { there: there.kind, directory, name: name.to_vec() });
        };
        path = if link.starts_with(b"/") { link } else { [above, &link].join(&b'/') };
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
    }
    Err(not_found()(Errno::LOOP))
}

/// Finds the destination on the host: its directories are those that the host's own links lead to. A link that leads to a file
/// or nowhere is not followed: it is replaced, as an earlier copy may have brought it.
pub(super) fn goal_on_host(given: &Given) -> Result<Goal, CopyError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(CWD, given.text.as_slice(), flags, Mode::empty()) {
        Ok(directory) => return Ok(Goal { there: There::Directory, directory, name: Vec::new() }),
        Err(Errno::NOENT | Errno::NOTDIR) => {}
        Err(errno) => return Err(CopyError::file(&given.text, "found on the host")(errno)),
    }
    let path = Path::new(OsStr::from_bytes(&given.text));
    let Some(name) = path.file_name() else {
        return Err(CopyError::file(&given.text, "found on the host")(Errno::NOENT));
    };
    let above = path.parent().map(|above| above.as_os_str().as_bytes()).filter(|above| !above.is_empty());
    let directory = openat(CWD, above.unwrap_or(b"."), flags, Mode::empty());
    let directory = directory.map_err(CopyError::file(&given.text, "found on the host"))?;
    let kind = there(directory.as_fd(), name.as_bytes(), given)?.kind;
    Ok(Goal { there: kind, directory, name: name.as_bytes().to_vec() })
}

/// What has a name, which is no directory.
struct Named {
    kind: There,
    link: Option<Vec<u8>>,
}

fn there(directory: BorrowedFd<'_>, name: &[u8], given: &Given) -> Result<Named, CopyError> {
    match openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(node) => {
            let found = Found::of(node, &given.text)?;
            let is_link = found.kind() == FileType::Symlink;
            let link = if is_link { Some(found.link(&given.text)?) } else { None };
            Ok(Named { kind: There::File, link })
        }
        Err(Errno::NOENT) => Ok(Named { kind: There::Nothing, link: None }),
        Err(errno) => Err(CopyError::file(&given.text, "looked at")(errno)),
    }
}
