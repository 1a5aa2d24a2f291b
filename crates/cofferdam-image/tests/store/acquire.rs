//! Images from layouts into the store, good ones and bad ones.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cofferdam_image::progress::Silent;
use cofferdam_image::source::ImageSource;
use cofferdam_image::store::{Freed, InUse};
use cofferdam_image::{Image, ImageError, Store};

use crate::layouts::{Made, Pack, linux, noise, tar};

pub(crate) async fn acquire(
    store: &Store,
    source: &dyn ImageSource,
    name: &str,
) -> Result<Image, ImageError> {
    store.acquire(source, Some(name), &linux(), &Silent).await
}

pub(crate) fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

pub(crate) async fn an_image_comes_is_found_and_is_unpacked() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    for pack in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
        let mut made = Made::new(&place.path().join(format!("{pack:?}")));
        let layers = [tar(&[("a", b"one"), ("d/b", b"two")]), tar(&[("a", b"three")])];
        let manifest = made.image("t", &layers, pack);
        let source = made.source(&store, "t");
        let name = format!("registry.example/team/{pack:?}:1");
        let image = acquire(&store, &source, &name).await.unwrap();
        assert_eq!(image.manifest.as_ref(), manifest["digest"].as_str().unwrap());
        assert_eq!((image.names.as_slice(), image.layers.len()), ([name.clone()].as_slice(), 2));
        assert_eq!(image.created(), Some("2024-01-02T03:04:05Z"));
        // Two layers, and the configuration, which is the same for all three.
        let count = if pack == Pack::Plain { 3 } else { 2 };
        assert_eq!(source.count(), count);
        acquire(&store, &source, &name).await.unwrap();
        assert_eq!(source.count(), count, "nothing is fetched twice");

        for name in [name.as_str(), image.manifest.as_ref()] {
            assert_eq!(store.find(name).unwrap().manifest, image.manifest, "{name}");
        }
        let paths = store.layers(&image, &Silent).await.unwrap();
        assert_eq!(paths.len(), 2);
        assert_eq!(read(paths[0].join("a")), b"one");
        assert_eq!(read(paths[0].join("d/b")), b"two");
        assert_eq!(read(paths[1].join("a")), b"three");
        let name = paths[0].parent().unwrap().file_name().unwrap();
        assert_eq!(name.len(), 32);
    }
    // The three have one configuration, so one id, and three manifests.
    let images = store.images().unwrap();
    assert_eq!(images.len(), 3);
    let id = images[0].id.digest().to_owned();
    assert!(images.iter().all(|image| image.id.digest() == id));
    assert_eq!(store.find(&id[..12]).unwrap().id, images[0].id);
    for nothing in ["nothing:1", "sha256:", "", "ffffffffffffffffffffffff"] {
        assert!(matches!(store.find(nothing), Err(ImageError::NotFound { .. })), "{nothing}");
    }
    let reopened = Store::open(store.root()).unwrap();
    assert_eq!(reopened.images().unwrap().len(), 3);
}

pub(crate) async fn what_ended_in_the_middle_goes_on_there() {
    let place = tempfile::tempdir().unwrap();
    let mut made = Made::new(&place.path().join("layout"));
    let manifest = made.image("t", &[tar(&[("noise", &noise(1, 3 << 20))])], Pack::Plain);
    let store = Store::open(&place.path().join("store")).unwrap();
    let mut source = made.source(&store, "t");
    source.cut_after = (1 << 20).into();
    acquire(&store, &source, "n").await.unwrap();
    let offsets: Vec<u64> = source.asked.lock().unwrap().iter().skip(1).map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [0, 1 << 20, 2 << 20, 3 << 20]);

    // From another process that was killed, and with bytes that a crash has damaged.
    for (damaged, cannot_resume, wanted) in
        [(false, false, vec![700_000]), (false, true, vec![700_000]), (true, false, vec![700_000, 0])]
    {
        let store = Store::open(&place.path().join(format!("{damaged}{cannot_resume}"))).unwrap();
        let mut source = made.source(&store, "t");
        source.cannot_resume = cannot_resume;
        let layer = layer_of(&made, &manifest);
        let mut start = read(made.blob_path(&layer))[..700_000].to_vec();
        if damaged {
            start[3000] ^= 1;
        }
        std::fs::write(store.root().join("partial").join(layer.replace(':', "-")), start).unwrap();
        acquire(&store, &source, "n").await.unwrap();
        let asked = source.asked.lock().unwrap();
        let offsets: Vec<u64> =
            asked.iter().filter(|(digest, _)| *digest == layer).map(|(_, offset)| *offset).collect();
        assert_eq!(offsets, wanted);
    }

    let store = Store::open(&place.path().join("poor")).unwrap();
    let source = made.source(&store, "t");
    source.cut_after.store(1000, Ordering::Relaxed);
    let error = acquire(&store, &source, "n").await.unwrap_err();
    assert!(matches!(error, ImageError::Transfer { .. }), "{error}");
    assert!(store.images().unwrap().is_empty());
}

pub(crate) fn layer_of(made: &Made, manifest: &serde_json::Value) -> String {
    let bytes = read(made.blob_path(manifest["digest"].as_str().unwrap()));
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

pub(crate) async fn whoever_stops_waiting_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let mut made = Made::new(&place.path().join("layout"));
    let layers: Vec<Vec<u8>> = (0..4).map(|at| tar(&[("noise", &noise(at, 8 << 20))])).collect();
    made.image("t", &layers, Pack::Gzip);
    let store = Store::open(&place.path().join("store")).unwrap();
    let image = acquire(&store, &made.source(&store, "t"), "n").await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_millis(10), store.layers(&image, &Silent)).await;
    assert!(stopped.is_err(), "it takes longer");
    // It waits for the threads, which have removed what they had made.
    assert_eq!(store.gc(&InUse::default()).await.unwrap(), Freed::default());
    assert_eq!(store.layers(&image, &Silent).await.unwrap().len(), 4);
}
