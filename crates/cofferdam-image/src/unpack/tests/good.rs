//! Layers that are meant well: each becomes what GNU tar makes of it, and what overlayfs reads.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cofferdam_testkit::lab::{finish, new_command};

use super::super::*;
use super::{Layer, Scene, chain, seen};

#[test]
fn whiteouts_are_those_of_overlayfs() {
    let scene = Scene::new();
    let layer = Layer::default()
        .file(".wh.gone", "")
        .directory("anew")
        .file("anew/.wh..wh..opq", "")
        .file("back", "x")
        .file(".wh.back", "")
        .file(".wh.dir", "")
        .directory("dir")
        .file(".wh..wh.plnk", "")
        .file("below/.wh.gone", "");
    let _done = scene.unpack(&layer.end()).unwrap();
    assert_eq!(scene.names(), ["anew/", "back", "below/", "below/gone!", "dir/", "gone!"]);
    let opaque = |name: &str| {
        let mut value = [0; 8];
        let directory = File::open(scene.target().join(name)).unwrap();
        rustix::fs::fgetxattr(directory, c"trusted.overlay.opaque", &mut value)
            .is_ok_and(|length| &value[..length] == b"y")
    };
    assert_eq!(["anew", "dir", "below"].map(opaque), [true, true, false]);
}

#[test]
fn attributes_are_those_that_a_program_may_have() {
    let scene = Scene::new();
    let layer = Layer::default()
        .pax(&[
            ("SCHILY.xattr.user.note", "a\nb"),
            ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.security.selinux", "x"),
            ("uid", "1000"),
            ("mtime", "1.25"),
        ])
        .file("f", "x");
    let _done = scene.unpack(&layer.end()).unwrap();
    let path = scene.target().join("f");
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(&path, &mut names).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(!names.contains("trusted") && !names.contains("selinux"), "{names:?}");
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(&path, c"user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"a\nb");
    let about = path.metadata().unwrap();
    assert_eq!((about.uid(), about.mtime(), about.mtime_nsec()), (1000, 1, 250_000_000));
}

/// Numbers that look random, and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A tree of files, links and directories.
fn grow(root: &Path, seed: u64) {
    let mut numbers = Numbers(seed);
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..40 {
        let parent = directories[usize::try_from(numbers.below(directories.len() as u64)).unwrap()].clone();
        let long = "n".repeat(usize::try_from(numbers.below(120)).unwrap());
        let path = parent.join(format!("{number}-ü-{long}"));
        match numbers.below(8) {
            0 | 1 => {
                std::fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            2 => std::os::unix::fs::symlink(format!("../{long}{long}"), &path).unwrap(),
            3 if !files.is_empty() => {
                let target = &files[usize::try_from(numbers.below(files.len() as u64)).unwrap()];
                std::fs::hard_link(target, &path).unwrap();
            }
            4 => rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap(),
            _ => {
                let size = usize::try_from(numbers.below(3000)).unwrap();
                std::fs::write(&path, vec![u8::try_from(number).unwrap(); size]).unwrap();
                files.push(path.clone());
            }
        }
        let (uid, gid) =
            (u32::try_from(numbers.below(100_000)).unwrap(), u32::try_from(numbers.below(10)).unwrap());
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).unwrap();
        if !path.is_symlink() {
            let mode = [0o755, 0o4755, 0o2750, 0o600, 0o1777][usize::try_from(numbers.below(5)).unwrap()];
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

#[test]
fn what_is_meant_well_becomes_what_gnu_tar_makes_of_it() {
    for seed in 0..51_u64 {
        let directory = tempfile::tempdir().unwrap();
        let [source, theirs, ours] = ["source", "theirs", "ours"].map(|name| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        grow(&source, seed);
        let format = ["gnu", "pax", "posix"][usize::try_from(seed % 3).unwrap()];
        let archive = directory.path().join("layer.tar");
        let mut pack = new_command("tar");
        pack.args(["--format", format, "--create", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&source)
            .arg(".");
        drop(finish(pack).expect_code(0));
        let mut extract = new_command("tar");
        extract.args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--file"]);
        extract.arg(&archive).arg("--directory").arg(&theirs);
        drop(finish(extract).expect_code(0));
        let mut layer = Vec::new();
        File::open(&archive).unwrap().read_to_end(&mut layer).unwrap();
        let done = unpack(layer.as_slice(), File::open(&ours).unwrap().as_fd(), &UnpackLimits::default());
        let done = done.unwrap_or_else(|error| panic!("{seed}: {}", chain(&error)));
        assert_eq!(seen(&ours, false), seen(&theirs, false), "{seed}, {format}");
        assert!(done.entries > 40, "{done:?}");
    }
}
