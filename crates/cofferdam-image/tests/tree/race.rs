//! A container that renames directories and swaps links while its files are copied.

use std::fs::{create_dir, create_dir_all, remove_dir_all, write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cofferdam_image::copy::{CopyOptions, Source, into};
use cofferdam_image::pack::{TreeOptions, layer, tree};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::copy::Sides;
use crate::hostile::{Canary, sings};
use crate::overlay::open;

/// How long each way of copying is raced with.
const WHILE: Duration = Duration::from_millis(700);

/// Swaps directories for links, and files for links and pipes, as quickly as it can.
fn swap(sides: &Sides, stop: &AtomicBool, swaps: &AtomicU64) {
    let pairs = [("d/a", "links/a"), ("d/a/b", "links/b"), ("d/f", "links/f"), ("d/g", "links/pipe")]
        .map(|(one, other)| (sides.root(one), sides.root(other)));
    while !stop.load(Ordering::Relaxed) {
        for (one, other) in &pairs {
            // Where one is below another that is swapped now, there is nothing to be swapped.
            if renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok() {
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

pub(crate) fn a_tree_that_changes_leads_nowhere_else() {
    let canary = Canary::new();
    let sides = Sides::new();
    create_dir_all(sides.root("d/a/b/below")).unwrap();
    create_dir(sides.root("links")).unwrap();
    for name in ["d/a/secret", "d/a/b/secret", "d/a/b/below/secret", "d/f", "d/g"] {
        write(sides.root(name), "of the container").unwrap();
    }
    symlink(canary.path(), sides.root("links/a")).unwrap();
    symlink(canary.path(), sides.root("links/b")).unwrap();
    symlink(canary.path().join("secret"), sides.root("links/f")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, sides.root("links/pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    create_dir_all(sides.host("source/a/b/below")).unwrap();
    for name in ["source/a/secret", "source/a/b/secret", "source/a/b/below/secret", "source/f"] {
        write(sides.host(name), "of the host").unwrap();
    }
    let mut archive = Vec::new();
    let source = open(&sides.host("source"));
    let _done = tree(source.as_fd(), &mut archive, &TreeOptions::default()).unwrap();

    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let root = open(&sides.root(""));
    let keep = CopyOptions { keeps_owners: true, ..CopyOptions::default() };
    let follow = CopyOptions { follows_link: true, ..keep };
    let ways: [&dyn Fn() -> bool; 7] = [
        &|| {
            let done = sides.copy_out_with("d", "copy", &keep);
            if sides.host("copy").exists() {
                assert!(!sings(&sides.host("copy")));
                remove_dir_all(sides.host("copy")).unwrap();
            }
            done.is_ok()
        },
        &|| sides.copy_out_with("d/a/b/secret", "one", &follow).is_ok(),
        &|| sides.copy_out_with("d/f", "one", &follow).is_ok(),
        &|| sides.copy_in_with("source/.", "d", &keep).is_ok(),
        &|| sides.copy_in_with("source/f", "d/a/b", &keep).is_ok(),
        &|| into(root.as_fd(), Path::new("/d"), Source::Archive(&mut archive.as_slice()), &keep).is_ok(),
        &|| {
            let mut bytes = Vec::new();
            let done = tree(root.as_fd(), &mut bytes, &TreeOptions::default());
            assert!(!bytes.windows(5).any(|window| window == b"sings"));
            done.is_ok() & layer(root.as_fd(), std::io::sink()).is_ok()
        },
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&sides, &stop, &swaps));
        for (number, way) in ways.iter().enumerate() {
            let (begun, before) = (Instant::now(), swaps.load(Ordering::Relaxed));
            let (mut tries, mut done) = (0_u32, 0_u32);
            while begun.elapsed() < WHILE || done == 0 || swaps.load(Ordering::Relaxed) - before < 100 {
                tries += 1;
                done += u32::from(way());
                assert!(begun.elapsed() < WHILE * 20, "way {number}: {done} of {tries} were copied");
            }
            canary.expect_untouched();
        }
        stop.store(true, Ordering::Relaxed);
    });
    if sides.host("one").exists() {
        assert_ne!(std::fs::read(sides.host("one")).unwrap(), b"sings");
    }
    canary.expect_untouched();
}
