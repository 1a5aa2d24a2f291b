//! A disk that is full.

use std::path::Path;

use cofferdam_image::progress::Silent;
use cofferdam_image::store::{Freed, InUse};
use cofferdam_image::{ImageError, Store};

use crate::acquire::{acquire, read};
use crate::layouts::{Made, Pack, local, noise, packed, tar};
use crate::process::worker_on_small_disk;

pub(crate) const WORKER: &str = "disk-worker";

pub(crate) async fn a_full_disk_spoils_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mut made = Made::new(&place.path().join("layout"));
    // Half of it is zeros, so that it is larger when it is unpacked; the first is small, and whole before the others.
    let layers: Vec<Vec<u8>> = (0..3)
        .map(|at| {
            tar(&[
                ("noise", &noise(at, if at == 0 { 5000 } else { 400_000 })),
                ("zeros", &vec![0; 600_000]),
                (&format!("f{at}"), b"x"),
            ])
        })
        .collect();
    assert!(packed(&layers[1], Pack::Gzip).len() < 500_000);
    made.image("t", &layers, Pack::Gzip);
    let mount_point = place.path().join("disk");
    std::fs::create_dir(&mount_point).unwrap();
    let args = [WORKER, mount_point.to_str().unwrap(), made.path.to_str().unwrap()];
    worker_on_small_disk(5 << 20, &mount_point, &args);
}

fn is_full(error: &ImageError) -> bool {
    matches!(error, ImageError::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}

/// Fills the disk but for so many bytes.
fn ballast(place: &Path, free: u64) {
    let path = place.join("ballast");
    let _ = std::fs::remove_file(&path);
    let about = rustix::fs::statvfs(place).unwrap();
    let there = about.f_bavail * about.f_frsize;
    std::fs::write(path, vec![1; usize::try_from(there - free).unwrap()]).unwrap();
}

/// In a mount namespace of its own.
pub(crate) async fn work(place: &Path, layout: &Path) {
    let store = Store::open(&place.join("store")).unwrap();
    let source = local(&store, &format!("oci:{}:t", layout.display())).unwrap();
    let source = crate::layouts::Counting::new(source);
    // Full while blobs come.
    for free in [0, 8 << 10, 500 << 10, 200 << 10] {
        ballast(place, free);
        let error = acquire(&store, &source, "n").await.unwrap_err();
        assert!(is_full(&error), "{error:?}");
        assert!(store.verify().await.unwrap().is_sound());
        assert!(store.images().unwrap().is_empty());
    }
    let whole: Vec<_> = std::fs::read_dir(store.root().join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(whole.len() > 1, "a blob was whole");
    let before = source.count();
    std::fs::remove_file(place.join("ballast")).unwrap();
    let image = acquire(&store, &source, "n").await.unwrap();
    for (digest, _) in &source.asked.lock().unwrap()[before..] {
        assert!(!whole.iter().any(|name| digest.ends_with(name.to_str().unwrap())), "{digest} was whole");
    }
    // Full while layers are unpacked.
    for free in [0, 100 << 10, 1000 << 10] {
        ballast(place, free);
        let error = store.layers(&image, &Silent).await.unwrap_err();
        assert!(is_full(&error), "{error:?}");
        // It waits for the threads that unpack the other layers, and finds nothing that they left.
        assert_eq!(store.gc(&InUse::default()).await.unwrap(), Freed::default());
        assert!(store.verify().await.unwrap().is_sound());
        assert!(store.tag("n", "m").is_ok_and(|image| image.names.contains(&"n".into())) || free == 0);
        assert_eq!(store.find("n").unwrap().id, image.id);
    }
    std::fs::remove_file(place.join("ballast")).unwrap();
    let layers = store.layers(&image, &Silent).await.unwrap();
    assert_eq!(read(layers[2].join("f2")), b"x");
    // What is full can be freed.
    ballast(place, 0);
    store.gc(&InUse::default()).await.unwrap();
}
