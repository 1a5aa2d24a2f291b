//! Names, removal, and what is freed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use async_trait::async_trait;
use cofferdam_image::progress::Silent;
use cofferdam_image::store::{InUse, NewImage, Prune, Users};
use cofferdam_image::{ImageError, Store};
use serde_json::json;

use crate::acquire::{acquire, read};
use crate::layouts::{Made, Pack, noise, tar};

fn nobody() -> InUse {
    InUse::default()
}

/// A store with the images `a` and `b`, which have a layer in common, both unpacked.
async fn two(place: &std::path::Path) -> Store {
    let store = Store::open(&place.join("store")).unwrap();
    let mut made = Made::new(&place.join("layout"));
    let (common, own) = (tar(&[("common", b"1")]), tar(&[("own", &noise(3, 100_000))]));
    made.image("a", std::slice::from_ref(&common), Pack::Gzip);
    made.image("b", &[common, own], Pack::Gzip);
    for name in ["a", "b"] {
        let image = acquire(&store, &made.source(&store, name), name).await.unwrap();
        store.layers(&image, &Silent).await.unwrap();
    }
    store
}

pub(crate) async fn names_come_and_go() {
    let place = tempfile::tempdir().unwrap();
    let store = two(place.path()).await;
    let b = store.find("b").unwrap();
    assert_eq!(store.tag("b", "c").unwrap().names, ["b", "c"]);
    assert_eq!(store.tag(b.id.as_ref(), "a").unwrap().names, ["a", "b", "c"]);
    // What was `a` has no name now, and goes when those without one are removed.
    assert_eq!(store.images().unwrap().iter().filter(|image| image.names.is_empty()).count(), 1);
    let freed = store.prune(&nobody(), Prune::Untagged).await.unwrap();
    assert_eq!((freed.images.len(), freed.blobs, freed.layers), (1, 2, 0), "its layer is b's too: {freed:?}");
    store.untag("c").unwrap();
    assert!(matches!(store.untag("c"), Err(ImageError::NotFound { .. })));
    assert_eq!(store.find("b").unwrap().names, ["a", "b"]);
    assert!(matches!(store.remove(b.id.as_ref(), false, &nobody()).await, Err(ImageError::InUse { .. })));
    let removed = store.remove("a", false, &nobody()).await.unwrap();
    assert_eq!((removed.untagged.as_slice(), removed.deleted), (["a".to_owned()].as_slice(), None));
    let removed = store.remove("b", false, &nobody()).await.unwrap();
    assert_eq!(removed.deleted, Some(b.id));
    let freed = removed.freed.unwrap();
    assert_eq!((freed.blobs, freed.layers), (4, 2));
    assert!(freed.bytes > 200_000, "{freed:?}");
    assert_eq!(store.verify().await.unwrap(), Default::default());
}

pub(crate) async fn what_is_used_stays() {
    let place = tempfile::tempdir().unwrap();
    let store = two(place.path()).await;
    let image = store.find("b").unwrap();
    let layers = store.layers(&image, &Silent).await.unwrap();
    let users = InUse {
        images: BTreeMap::from([(image.id.to_string(), "web".to_owned())]),
        layers: layers.iter().cloned().collect::<BTreeSet<_>>(),
    };
    let error = store.remove("b", false, &users).await.unwrap_err();
    assert!(error.to_string().contains("the container web uses it"), "{error}");
    store.remove("b", true, &users).await.unwrap();
    assert!(store.find("b").is_err() && store.find(image.id.digest()).is_err());
    assert!(layers.iter().all(|layer| layer.is_dir()), "the container's");
    store.gc(&users).await.unwrap();
    store.prune(&users, Prune::Unused).await.unwrap();
    assert!(layers.iter().all(|layer| layer.is_dir()));
    // Its content is there to be used again.
    let mut made = Made::new(&place.path().join("again"));
    made.image("b", &[tar(&[("common", b"1")]), tar(&[("own", &noise(3, 100_000))])], Pack::Gzip);
    let source = made.source(&store, "b");
    acquire(&store, &source, "b").await.unwrap();
    assert_eq!(source.count(), 0);
    assert_eq!(store.find("b").unwrap().names, ["b"]);
    store.remove("b", true, &users).await.unwrap();
    let freed = store.gc(&nobody()).await.unwrap();
    assert_eq!((freed.images.len(), freed.layers), (1, 2));
    assert!(store.verify().await.unwrap().blobs == 0);
}

pub(crate) async fn nothing_is_removed_while_the_store_is_held() {
    let place = tempfile::tempdir().unwrap();
    let store = two(place.path()).await;
    let hold = store.hold().unwrap();
    let image = store.find("b").unwrap();
    let layers = store.layers(&image, &Silent).await.unwrap();
    let removed = store.remove("b", false, &nobody()).await.unwrap();
    assert_eq!((removed.deleted.is_some(), removed.freed), (true, None));
    assert!(layers.iter().all(|layer| layer.is_dir()));
    let (gc, watched) = (store.clone(), layers.clone());
    let gc = async move { gc.gc(&nobody()).await.unwrap() };
    let release = async move {
        tokio::task::yield_now().await;
        assert!(watched.iter().all(|layer| layer.is_dir()));
        drop(hold);
    };
    let (freed, ()) = tokio::join!(gc, release);
    assert_eq!(freed.layers, 1, "that of b alone");
    assert!(!layers[1].exists() && layers[0].exists());
    // And the other way round: whoever waits can be stopped.
    let hold = store.hold().unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(50), store.gc(&nobody())).await;
    assert!(waited.is_err());
    drop(hold);
    store.hold().unwrap();
}

pub(crate) async fn what_is_broken_is_told() {
    let place = tempfile::tempdir().unwrap();
    let store = two(place.path()).await;
    assert!(store.verify().await.unwrap().is_sound());
    let image = store.find("b").unwrap();
    let blob = |digest: &oci_spec::image::Digest| store.root().join("blobs/sha256").join(digest.digest());
    let layer = blob(image.blobs[1].digest());
    let mut content = read(&layer);
    content[50] ^= 1;
    std::fs::write(&layer, content).unwrap();
    std::fs::remove_file(blob(&image.id)).unwrap();
    let unpacked =
        store.layers(&store.find("a").unwrap(), &Silent).await.unwrap()[0].parent().unwrap().join("digest");
    std::fs::write(unpacked, "sha256:0").unwrap();
    let verified = store.verify().await.unwrap();
    let told = format!("{:?}", verified.broken);
    assert_eq!(verified.broken.len(), 4, "the blob, the configuration, its image, the layer: {told}");
    for text in [image.blobs[1].digest().digest(), image.id.digest(), "b (sha256:", "layers/"] {
        assert!(told.contains(text), "{text} in {told}");
    }
    // The rest can be used, and an image that cannot be read can be got again.
    assert_eq!(store.images().unwrap().len(), 1);
    store.prune(&nobody(), Prune::Unused).await.unwrap();
    assert!(store.verify().await.unwrap().is_sound());
}

pub(crate) async fn a_new_image_has_a_layer_more() {
    let place = tempfile::tempdir().unwrap();
    let store = two(place.path()).await;
    let base = store.find("b").unwrap();
    let mut configuration = store.configuration(&base).unwrap();
    assert!(
        configuration["config"].as_object().unwrap().contains_key("OnBuild"),
        "what we do not know stays"
    );
    configuration["config"]["Cmd"] = json!(["/own"]);
    let layer = tar(&[("new", b"content")]);
    let write = move |out: &mut dyn Write| {
        out.write_all(&layer).map_err(|error| ImageError::File {
            path: "layer".into(),
            what: "written",
            source: error,
        })
    };
    let new = NewImage {
        base: Some(base.clone()),
        layer: Some(Box::new(write)),
        configuration: configuration.clone(),
    };
    let image = store.put_image(new, Some("committed")).await.unwrap();
    assert_eq!((image.layers.len(), &image.layers[..2]), (3, &base.layers[..]));
    assert_eq!(
        image.config.config().as_ref().unwrap().cmd().as_deref(),
        Some(["/own".to_owned()].as_slice())
    );
    let paths = store.layers(&image, &Silent).await.unwrap();
    assert_eq!(read(paths[2].join("new")), b"content");
    assert!(store.find("committed").unwrap().size > base.size);

    // Another configuration alone, and a layer that fails.
    let new = NewImage { base: Some(base.clone()), layer: None, configuration: configuration.clone() };
    assert_eq!(store.put_image(new, None).await.unwrap().layers, base.layers);
    let fails =
        |_: &mut dyn Write| Err(ImageError::NotFound { reference: "x".into(), place: "there".into() });
    let new = NewImage { base: None, layer: Some(Box::new(fails)), configuration };
    assert!(matches!(store.put_image(new, Some("n")).await, Err(ImageError::NotFound { .. })));
    let new = NewImage { base: None, layer: None, configuration: json!([]) };
    store.put_image(new, Some("n")).await.unwrap_err();
    assert!(store.find("n").is_err());
    let verified = store.verify().await.unwrap();
    assert!(verified.is_sound() && verified.leftovers == 0, "{verified:?}");
}

pub(crate) async fn an_image_that_names_another_as_its_layer_does_not_harm_it() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    let mut made = Made::new(&place.path().join("layout"));
    let victim = made.manifest(&[tar(&[("own", b"1")])], Pack::Gzip, "amd64");
    let bytes = read(made.blob_path(victim["digest"].as_str().unwrap()));
    let mut layer = victim.clone();
    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    let hostile = made.manifest_of(&Made::config(&[bytes], "amd64"), vec![layer]);
    made.tag(&hostile, "hostile");
    made.tag(&victim, "victim");
    for name in ["hostile", "victim"] {
        acquire(&store, &made.source(&store, name), name).await.unwrap();
    }
    let image = store.find("victim").unwrap();
    store.layers(&image, &Silent).await.unwrap();
    let freed = store.gc(&nobody()).await.unwrap();
    assert_eq!((freed.blobs, freed.layers), (0, 0));
    let verified = store.verify().await.unwrap();
    assert!(verified.is_sound() && verified.leftovers == 0, "{verified:?}");
}

pub(crate) async fn a_directory_has_a_name_once() {
    let place = tempfile::tempdir().unwrap();
    let store = two(place.path()).await;
    let directory = place.path().join("saved");
    let saved = |image: &str, name: &str| vec![(store.find(image).unwrap(), vec![name.to_owned()])];
    store.save_directory(saved("a", "n"), &directory).await.unwrap();
    // As another tool has it, which says more than the name.
    let index_file = directory.join("index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&read(&index_file)).unwrap();
    index["manifests"][0]["annotations"]["org.opencontainers.image.created"] = json!("2024-01-02T03:04:05Z");
    std::fs::write(&index_file, index.to_string()).unwrap();
    store.save_directory(saved("a", "other"), &directory).await.unwrap();
    store.save_directory(saved("b", "n"), &directory).await.unwrap();
    let index: serde_json::Value = serde_json::from_slice(&read(&index_file)).unwrap();
    let names: Vec<(&str, &str)> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let name = &entry["annotations"]["org.opencontainers.image.ref.name"];
            (name.as_str().unwrap(), entry["digest"].as_str().unwrap())
        })
        .collect();
    let (a, b) = (store.find("a").unwrap().manifest, store.find("b").unwrap().manifest);
    assert_eq!(names, [("other", a.as_ref()), ("n", b.as_ref())]);
}

/// One who takes longer to say it than others are waited for, by the clock of the event loop.
struct Slow;

#[async_trait]
impl Users for Slow {
    async fn in_use(&self) -> Result<InUse, ImageError> {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
        Ok(nobody())
    }
}

pub(crate) async fn only_the_wait_for_others_is_limited() {
    let place = tempfile::tempdir().unwrap();
    let store = two(place.path()).await;
    let freed = store.remove("b", true, &Slow).await.unwrap().freed.unwrap();
    assert_eq!((freed.images.len(), freed.layers), (1, 1));
}
