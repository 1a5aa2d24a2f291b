//! The changes of a container, compared with what a comparison of its trees finds.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cofferdam_image::pack::{ChangeKind, changes};

use crate::overlay::{Overlay, mount, open, path_of};
use crate::snapshot::{Seen, Snapshot, snapshot};

fn ours(overlay: &Overlay) -> BTreeMap<PathBuf, char> {
    let lowers: Vec<_> = overlay.lowers.iter().map(|lower| open(lower)).collect();
    let lowers: Vec<_> = lowers.iter().map(|lower| lower.as_fd()).collect();
    let list = changes(open(&overlay.upper()).as_fd(), &lowers).unwrap();
    assert!(list.is_sorted_by(|one, other| one.path < other.path));
    let path = |path: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(path));
    list.into_iter().map(|change| (path(&change.path), change.kind.letter())).collect()
}

/// Compares two trees name by name.
fn naive(before: &Snapshot, after: &Snapshot) -> BTreeMap<PathBuf, char> {
    let is_directory = |tree: &Snapshot, path: &Path| tree.get(path).is_some_and(|seen| seen.mark == "/");
    let mut found = BTreeMap::new();
    for (path, seen) in after {
        match before.get(path) {
            None => {
                found.insert(path.clone(), 'A');
            }
            // Which name of a file is the first says nothing of it.
            Some(old) if (Seen { first_name: seen.first_name.clone(), ..old.clone() }) != *seen => {
                found.insert(path.clone(), 'C');
            }
            Some(_) => {}
        }
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        // Of what is gone, the top.
        if is_directory(after, path.parent().unwrap()) {
            found.insert(path.clone(), 'D');
        }
    }
    for path in found.keys().cloned().collect::<Vec<_>>() {
        for parent in path.ancestors().skip(1) {
            found.entry(parent.to_owned()).or_insert('C');
        }
    }
    found.remove(Path::new(""));
    found.into_iter().map(|(path, letter)| (Path::new("/").join(path), letter)).collect()
}

pub(crate) fn changes_are_those_that_a_comparison_finds() {
    for seed in 0..12 {
        let overlay = Overlay::new(seed);
        let layers: Vec<&Path> = overlay.lowers.iter().map(AsRef::as_ref).collect();
        let before = mount(&layers, None);
        overlay.change(seed + 4000);
        let expected = naive(&snapshot(&path_of(before.as_fd())), &snapshot(&overlay.merged()));
        let mut found = ours(&overlay);
        for (path, letter) in &expected {
            assert_eq!(found.remove(path), Some(*letter), "{seed}: {}", path.display());
        }
        // Copied, and the same as before.
        let upper = overlay.upper();
        for (path, letter) in found {
            let path = upper.join(path.strip_prefix("/").unwrap());
            assert!(letter == 'C' && path.symlink_metadata().is_ok(), "{seed}: {letter} {}", path.display());
        }
    }
}

pub(crate) fn changes_are_said_as_docker_says_them() {
    let directory = tempfile::tempdir().unwrap();
    let [base, middle, upper, work, work2] = ["base", "middle", "upper", "work", "work2"].map(|name| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    });
    for path in ["etc/apt", "gone/below", "replaced/deep", "hidden", "kept"] {
        std::fs::create_dir_all(base.join(path)).unwrap();
    }
    for path in ["etc/passwd", "gone/below/f", "replaced/deep/f", "replaced/file", "hidden/f", "plain"] {
        std::fs::write(base.join(path), "x").unwrap();
    }
    {
        let between = mount(&[&base], Some((&middle, &work)));
        std::fs::remove_dir_all(path_of(between.as_fd()).join("hidden")).unwrap();
    }
    let merged = mount(&[&middle, &base], Some((&upper, &work2)));
    let root = path_of(merged.as_fd());
    std::fs::write(root.join("etc/passwd"), "y").unwrap();
    std::fs::write(root.join("etc/apt/new"), "y").unwrap();
    std::fs::remove_dir_all(root.join("gone")).unwrap();
    std::fs::remove_dir_all(root.join("replaced")).unwrap();
    std::fs::create_dir_all(root.join("replaced/deep")).unwrap();
    std::fs::create_dir(root.join("hidden")).unwrap();
    std::fs::write(root.join("hidden/f"), "y").unwrap();
    std::fs::create_dir_all(root.join("made/deep")).unwrap();
    std::fs::remove_file(root.join("plain")).unwrap();
    let files = [&middle, &base].map(|lower| open(lower));
    let list = changes(open(&upper).as_fd(), &[files[0].as_fd(), files[1].as_fd()]).unwrap();
    let said: Vec<String> = list
        .iter()
        .map(|change| format!("{} {}", change.kind.letter(), String::from_utf8_lossy(&change.path)))
        .collect();
    assert_eq!(
        said,
        [
            "C /etc",
            "C /etc/apt",
            "A /etc/apt/new",
            "C /etc/passwd",
            "D /gone",
            "A /hidden",
            "A /hidden/f",
            "A /made",
            "A /made/deep",
            "D /plain",
            "C /replaced",
            "C /replaced/deep",
            "D /replaced/deep/f",
            "D /replaced/file",
        ]
    );
    assert_eq!(list[4].kind, ChangeKind::Deleted);
}
