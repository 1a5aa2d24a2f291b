//! Following a path through a root filesystem step by step, aware of the mounts that will cover parts of it.
//!
//! The kernel's own resolution cannot be used for this: the mounts are not there yet, so a link into one of them
//! would look dangling.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Stat, fstat, readlinkat};

use super::Rootfs;

/// Symbolic links that one path may hold: the kernel's own limit.
const LINK_LIMIT: usize = 40;

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Found {
    /// To this file, by a path without links.
    File {
        /// The path inside the container.
        path: PathBuf,
        /// Its metadata.
        stat: Stat,
    },
    /// Nowhere.
    Missing,
    /// Into a place that a mount will cover: what is there cannot be known before the container runs.
    Covered,
    /// Through something that is no directory, or through too many links.
    Broken(&'static str),
}

impl Rootfs {
    /// Follows an absolute path of the container; `covered` lists where mounts will be.
    pub(crate) fn walk(&self, path: &Path, covered: &[PathBuf]) -> io::Result<Found> {
        let mut ahead: VecDeque<OsString> = VecDeque::new();
        push_front(&mut ahead, path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        let mut stat = fstat(&self.directory)?;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            if covered.iter().any(|mount| next.starts_with(mount)) {
                return Ok(Found::Covered);
            }
            let file = match self.look(&next) {
                Ok(file) => file,
                Err(error) => {
                    return match error.raw_os_error() {
                        Some(libc::ENOENT) => Ok(Found::Missing),
                        Some(libc::ENOTDIR) => Ok(Found::Broken("a part of its path is not a directory")),
                        Some(libc::ENAMETOOLONG) => Ok(Found::Missing),
                        _ => Err(error),
                    };
                }
            };
            stat = fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                here = next;
                continue;
            }
            links += 1;
            if links > LINK_LIMIT {
                return Ok(Found::Broken("its path holds too many symbolic links"));
            }
            let target = readlinkat(file.as_fd(), "", Vec::new())?.into_bytes();
            let target = PathBuf::from(OsString::from_vec(target));
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            push_front(&mut ahead, &target);
        }
        Ok(Found::File { path: here, stat })
    }
}

/// Puts the parts of a path before what is ahead.
fn push_front(ahead: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => ahead.push_front(name.to_owned()),
            Component::ParentDir => ahead.push_front(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn rootfs() -> (tempfile::TempDir, Rootfs) {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir_all(at("usr/bin")).unwrap();
        std::fs::write(at("usr/bin/tool"), "x").unwrap();
        symlink("usr/bin", at("bin")).unwrap();
        symlink("/usr/bin/tool", at("absolute")).unwrap();
        symlink("../../../../../../usr/bin/tool", at("climbing")).unwrap();
        symlink("/etc/passwd", at("out")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/data/x", at("into-mount")).unwrap();
        let rootfs = Rootfs::open(directory.path()).unwrap();
        (directory, rootfs)
    }

    fn walk(rootfs: &Rootfs, path: &str) -> Found {
        rootfs.walk(Path::new(path), &["/data".into()]).unwrap()
    }

    #[test]
    fn links_stay_inside() {
        let (_keep, rootfs) = rootfs();
        for path in ["/usr/bin/tool", "/bin/tool", "/absolute", "/climbing", "/../../usr/bin/./tool"] {
            match walk(&rootfs, path) {
                Found::File { path: found, .. } => assert_eq!(found, Path::new("/usr/bin/tool"), "{path}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        assert!(matches!(walk(&rootfs, "/out"), Found::Missing), "the host's /etc/passwd is not seen");
    }

    #[test]
    fn broken_paths_are_told_apart() {
        let (_keep, rootfs) = rootfs();
        assert!(matches!(walk(&rootfs, "/nowhere"), Found::Missing));
        assert!(matches!(walk(&rootfs, "/usr/bin/tool/x"), Found::Broken(_)));
        assert!(matches!(walk(&rootfs, "/loop"), Found::Broken(_)));
        let long = format!("/{}", "a".repeat(300));
        assert!(matches!(walk(&rootfs, &long), Found::Missing));
    }

    #[test]
    fn what_a_mount_covers_is_unknown() {
        let (_keep, rootfs) = rootfs();
        assert!(matches!(walk(&rootfs, "/data/x"), Found::Covered));
        assert!(matches!(walk(&rootfs, "/into-mount"), Found::Covered));
    }
}
