//! Processes that are killed at any moment, and processes that want the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_image::Store;
use cofferdam_image::progress::Silent;
use cofferdam_image::store::InUse;

use crate::acquire::{acquire, read};
use crate::layouts::{Made, Pack, noise, tar};
use crate::process::worker;

/// How often a process is killed.
const KILLS: u32 = 16;

fn made(place: &Path) -> (Made, String) {
    let mut made = Made::new(&place.join("layout"));
    let layers: Vec<Vec<u8>> =
        (0..6).map(|at: u8| tar(&[(&format!("f{at}"), &noise(at.into(), 1 << 19)), ("f", &[at])])).collect();
    made.image("t", &layers, Pack::Gzip);
    let reference = format!("oci:{}:t", made.path.display());
    (made, reference)
}

/// How many bytes all files below a folder have, which may be written and moved meanwhile.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_in(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// All that is whole in the store, each with what changes when it is made anew.
fn whole(store: &Store) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for folder in ["blobs/sha256", "layers"] {
        for entry in std::fs::read_dir(store.root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            found.insert(entry.path(), entry.metadata().unwrap().ino());
        }
    }
    found
}

pub(crate) async fn whoever_is_killed_leaves_a_store_that_is_whole() {
    let place = tempfile::tempdir().unwrap();
    let (made, reference) = made(place.path());
    let notes = place.path().join("notes");
    let complete = place.path().join("complete");
    assert!(worker(&complete, &reference, &notes).wait().unwrap().success());
    let whole_bytes = bytes_in(&complete);
    let (mut left, mut kinds) = (0, [0; 3]);
    for kill in 0..KILLS {
        let path = place.path().join(format!("store{kill}"));
        let mut child = worker(&path, &reference, &notes);
        // When it has done a part of the whole, in an order that has none.
        let part_bytes = whole_bytes * u64::from((kill * 11) % KILLS + 1) / u64::from(KILLS);
        while child.try_wait().unwrap().is_none() && bytes_in(&path) < part_bytes {
            std::thread::yield_now();
        }
        // One that has ended is killed no more.
        let _ = child.kill();
        child.wait().unwrap();
        let store = Store::open(&path).unwrap();
        let verified = store.verify().await.unwrap();
        assert!(verified.is_sound(), "after {kill}: {verified:?}");
        let before = whole(&store);
        kinds[usize::from(verified.blobs > 0) + usize::from(verified.layers > 0)] += 1;
        left += std::fs::read_dir(path.join("partial")).unwrap().count();

        let source = made.source(&store, "t");
        let image = acquire(&store, &source, "n").await.unwrap();
        for (digest, _) in source.asked.lock().unwrap().iter() {
            let blob = path.join("blobs").join(digest.replace(':', "/"));
            assert!(!before.contains_key(&blob), "{digest} was whole and is fetched again");
        }
        let layers = store.layers(&image, &Silent).await.unwrap();
        assert_eq!(read(layers[5].join("f")), [5]);
        let after = whole(&store);
        assert!(
            before.iter().all(|(path, inode)| after.get(path) == Some(inode)),
            "nothing whole is made again"
        );
        store.gc(&InUse::default()).await.unwrap();
        let verified = store.verify().await.unwrap();
        assert!(verified.is_sound() && verified.leftovers == 0, "{verified:?}");
        assert_eq!((verified.blobs, verified.layers), (8, 6));
        std::fs::remove_dir_all(path).unwrap();
    }
    assert!(left > 0 && kinds[1] + kinds[2] > 0, "some were killed in the middle: {left} {kinds:?}");
}

pub(crate) async fn eight_that_want_the_same_do_the_work_once() {
    let place = tempfile::tempdir().unwrap();
    let (made, reference) = made(place.path());
    let (path, notes) = (place.path().join("store"), place.path().join("notes"));
    let mut workers: Vec<_> = (0..8).map(|_| worker(&path, &reference, &notes)).collect();
    // And two tasks of this process, one of which is stopped.
    let store = Store::open(&path).unwrap();
    let source = made.source(&store, "t");
    let stopped = tokio::time::timeout(Duration::from_millis(20), acquire(&store, &source, "n"));
    let (_, image) = tokio::join!(stopped, acquire(&store, &source, "n"));
    store.layers(&image.unwrap(), &Silent).await.unwrap();
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }
    let text = String::from_utf8(read(&notes)).unwrap();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    text.lines().for_each(|line| *counts.entry(line).or_default() += 1);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    let verified = store.verify().await.unwrap();
    assert_eq!((verified.blobs, verified.layers, verified.leftovers), (8, 6, 0));
    assert!(verified.is_sound());
}
