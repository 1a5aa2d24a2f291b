//! An overlay that is mounted nowhere: it is there as long as it is open.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, setxattr, utimensat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

/// Layers, an upper directory, and what they are together.
pub(crate) struct Overlay {
    pub(crate) directory: tempfile::TempDir,
    /// The topmost first.
    pub(crate) lowers: Vec<PathBuf>,
    merged: OwnedFd,
}

impl Overlay {
    /// Two lower layers that a seed makes, of which one hides things of the other.
    pub(crate) fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [base, middle, upper, work] = ["base", "middle", "upper", "work"].map(|name| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        let mut numbers = Numbers(seed);
        grow(&base, &mut numbers, 40);
        {
            let between = mount(&[&base], Some((&middle, &work)));
            change(&path_of(between.as_fd()), &mut numbers, 25);
        }
        let work = directory.path().join("work2");
        std::fs::create_dir(&work).unwrap();
        let merged = mount(&[&middle, &base], Some((&upper, &work)));
        Self { directory, lowers: vec![middle, base], merged }
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.directory.path().join("upper")
    }

    /// The merged directory.
    pub(crate) fn merged(&self) -> PathBuf {
        path_of(self.merged.as_fd())
    }

    pub(crate) fn change(&self, seed: u64) {
        change(&self.merged(), &mut Numbers(seed), 40);
    }
}

/// Mounts layers, the topmost first, and writes into the upper one where there is one.
pub(crate) fn mount(lowers: &[&Path], upper: Option<(&Path, &Path)>) -> OwnedFd {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let lowers: Vec<String> = lowers.iter().map(|lower| lower.display().to_string()).collect();
    let set = |key: &str, value: &str| fsconfig_set_string(overlay.as_fd(), key, value).unwrap();
    set("lowerdir", &lowers.join(":"));
    if let Some((upper, work)) = upper {
        set("upperdir", &upper.display().to_string());
        set("workdir", &work.display().to_string());
        // Nothing need be on the disk.
        fsconfig_set_flag(overlay.as_fd(), "volatile").unwrap();
    }
    for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")] {
        set(key, value);
    }
    fsconfig_create(overlay.as_fd()).unwrap();
    fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

/// A path of what is open, for this process and its children.
pub(crate) fn path_of(open: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()).into()
}

pub(crate) fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

/// Numbers that look random, and are the same each time.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit as u64).unwrap()
    }
}

/// Makes a tree.
pub(crate) fn grow(root: &Path, numbers: &mut Numbers, count: usize) {
    let mut directories = vec![root.to_owned()];
    for number in 0..count {
        let parent = directories[numbers.below(directories.len())].clone();
        let long = "n".repeat(numbers.below(120));
        let path = parent.join(format!("{number}-ü-{long}"));
        match numbers.below(7) {
            0 | 1 => {
                std::fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            2 => symlink(format!("../{long}{long}"), &path).unwrap(),
            3 => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            _ => std::fs::write(&path, vec![7; numbers.below(3000)]).unwrap(),
        }
        describe(&path, numbers);
    }
}

fn describe(path: &Path, numbers: &mut Numbers) {
    let owner = |numbers: &mut Numbers| Some(u32::try_from(numbers.below(70_000)).unwrap());
    lchown(path, owner(numbers), owner(numbers)).unwrap();
    if !path.is_symlink() {
        let mode = [0o755, 0o4755, 0o2750, 0o600, 0o1777, 0o000][numbers.below(6)];
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    if (path.is_file() || path.is_dir()) && !path.is_symlink() && numbers.below(3) == 0 {
        setxattr(path, "user.note", &vec![b'\n'; numbers.below(200)], XattrFlags::empty()).unwrap();
    }
    let time =
        Timespec { tv_sec: i64::try_from(numbers.below(1_700_000_000)).unwrap(), tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything below a directory, and the directory.
fn all(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while at < found.len() {
        let path = found[at].clone();
        if path.is_dir() && (at == 0 || !path.is_symlink()) {
            let mut names: Vec<_> =
                std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            found.extend(names);
        }
        at += 1;
    }
    found
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
}

/// Changes a tree as a container might.
pub(crate) fn change(root: &Path, numbers: &mut Numbers, count: usize) {
    for number in 0..count {
        let paths = all(root);
        let victim = paths[numbers.below(paths.len())].clone();
        let directories: Vec<_> = paths.iter().filter(|path| path.is_dir() && !path.is_symlink()).collect();
        // The root itself is what a descriptor leads to.
        let parent = if numbers.below(3) == 0 {
            root.to_owned()
        } else {
            directories
                .get(numbers.below(directories.len().max(1)))
                .map_or_else(|| root.to_owned(), |path| (*path).clone())
        };
        let long = "y".repeat(numbers.below(110));
        let fresh = parent.join(format!("new-{:x}-{long}", numbers.0));
        let is_root = victim == root;
        match numbers.below(10) {
            0 => grow(&parent, numbers, 0),
            1 if !is_root => remove(&victim),
            2 if !is_root => {
                let was_directory = victim.is_dir() && !victim.is_symlink();
                remove(&victim);
                // The same name for another thing: an opaque directory, or a file in the place of one.
                if was_directory && numbers.below(2) == 0 {
                    std::fs::write(&victim, "was a directory").unwrap();
                } else {
                    std::fs::create_dir(&victim).unwrap();
                    std::fs::write(victim.join("inside"), "x").unwrap();
                }
            }
            3 if victim.is_file() && !victim.is_symlink() => {
                std::fs::write(&victim, format!("changed {number}")).unwrap();
                // Of a new file, so that no hard link is broken by a copy.
                let link = parent.join(format!("link-{:x}", numbers.0));
                std::fs::hard_link(&victim, link).unwrap();
            }
            4 if !is_root => describe(&victim, numbers),
            5 => {
                std::fs::create_dir(&fresh).unwrap();
                grow(&fresh, numbers, 4);
            }
            6 => symlink("x".repeat(numbers.below(200) + 1), &fresh).unwrap(),
            7 if !is_root && victim.is_dir() && !victim.is_symlink() => {
                // Gone and back again, with less in it.
                let names: Vec<_> =
                    std::fs::read_dir(&victim).unwrap().map(|entry| entry.unwrap().path()).collect();
                remove(&victim);
                std::fs::create_dir(&victim).unwrap();
                for path in names.iter().take(2) {
                    std::fs::create_dir(path).unwrap();
                }
            }
            _ => {
                std::fs::write(&fresh, vec![9; numbers.below(5000)]).unwrap();
                describe(&fresh, numbers);
            }
        }
    }
}
