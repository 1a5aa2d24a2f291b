//! Images that are not meant well, and images that are for another machine.

use std::io::Write;

use cofferdam_image::progress::Silent;
use cofferdam_image::unpack::UnpackError;
use cofferdam_image::{ImageError, Platform, Store};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::acquire::{acquire, read};
use crate::layouts::{INDEX, MANIFEST, Made, Pack, digest, for_platform, linux, noise, packed, tar};

struct Scene {
    _place: tempfile::TempDir,
    store: Store,
    made: Made,
}

fn scene() -> Scene {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    let made = Made::new(&place.path().join("layout"));
    Scene { _place: place, store, made }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Scene {
    /// Acquires what has a descriptor; gives the manifest that was chosen.
    async fn take(&mut self, descriptor: &Value, platform: &Platform) -> Result<String, ImageError> {
        self.made.tag(descriptor, &format!("t{}", digest(descriptor.to_string().as_bytes())));
        let tag = format!("t{}", digest(descriptor.to_string().as_bytes()));
        let source = self.made.source(&self.store, &tag);
        let image = self.store.acquire(&source, None, platform, &Silent).await?;
        Ok(image.manifest.to_string())
    }

    /// Sees to it that something is refused with a word, and that no image came of it.
    async fn refused(&mut self, descriptor: &Value, word: &str) {
        let before = self.store.images().unwrap().len();
        let text = chain(&self.take(descriptor, &linux()).await.unwrap_err());
        assert!(text.contains(word), "`{word}` in: {text}");
        assert_eq!(self.store.images().unwrap().len(), before);
    }
}

pub(crate) async fn the_platform_is_chosen() {
    let mut scene = scene();
    let of = |architecture: &str| {
        scene.made.manifest(&[tar(&[("a", architecture.as_bytes())])], Pack::Gzip, architecture)
    };
    let (amd64, arm64, riscv64) = (of("amd64"), of("arm64"), of("riscv64"));
    let attestation = for_platform(of("none"), "unknown/unknown");
    let nested = scene.made.index_of(vec![for_platform(arm64.clone(), "linux/arm64"), riscv64.clone()]);
    let index = scene.made.index_of(vec![attestation, for_platform(amd64.clone(), "linux/amd64"), nested]);
    for (wanted, expected) in
        [("linux/amd64", &amd64), ("linux/arm64/v8", &arm64), ("linux/riscv64", &riscv64)]
    {
        let got = scene.take(&index, &wanted.parse().unwrap()).await.unwrap();
        assert_eq!(got, expected["digest"].as_str().unwrap(), "{wanted}");
    }
    for descriptor in [&index, &amd64] {
        let error = scene.take(descriptor, &"linux/s390x".parse().unwrap()).await.unwrap_err();
        let ImageError::NoPlatform { wanted, offered, .. } = error else { panic!("{error}") };
        assert_eq!(wanted, "linux/s390x");
        assert!(
            offered.contains(&"linux/amd64".to_owned())
                && !offered.iter().any(|text| text.contains("unknown"))
        );
    }
}

pub(crate) async fn indexes_that_lead_nowhere_are_refused() {
    let mut scene = scene();
    let image = scene.made.manifest(&[], Pack::Plain, "amd64");
    let mut deep = image.clone();
    for _ in 0..6 {
        deep = scene.made.index_of(vec![deep]);
    }
    scene.refused(&deep, "too deep").await;
    let inner = scene.made.index_of(vec![for_platform(image.clone(), "linux/s390x")]);
    let twice = scene.made.index_of(vec![inner.clone(), inner]);
    scene.refused(&twice, "a second time").await;
    // An index that has its own digest in it cannot be made; one that says so has another digest.
    let cycle = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": INDEX, "digest": format!("sha256:{:064}", 1), "size": 3}]});
    std::fs::write(scene.made.blob_path(&format!("sha256:{:064}", 1)), "{}x").unwrap();
    let cycle = scene.made.blob(INDEX, cycle.to_string().as_bytes());
    scene.refused(&cycle, "has the digest").await;
    let wide: Vec<Value> = (0..1001).map(|_| image.clone()).collect();
    let wide = scene.made.index_of(wide);
    scene.refused(&wide, "the limit is 1000").await;
    let wide: Vec<Value> = (0..40)
        .map(|at| {
            scene.made.index_of(vec![json!({
        "mediaType": MANIFEST, "digest": format!("sha256:{at:064}"), "size": 1,
        "platform": {"os": "linux", "architecture": "s390x"}})])
        })
        .collect();
    let wide = scene.made.index_of(wide);
    scene.refused(&wide, "too many").await;
}

pub(crate) async fn manifests_that_are_none_are_refused() {
    let mut scene = scene();
    let config = scene
        .made
        .blob("application/vnd.oci.image.config.v1+json", Made::config(&[], "amd64").to_string().as_bytes());
    let manifest = |change: &dyn Fn(&mut Value)| {
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
        change(&mut manifest);
        scene.made.blob(MANIFEST, manifest.to_string().as_bytes())
    };
    let layer =
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(b"x"), "size": 1});
    let with_layer = |key: &str, value: Value| {
        let mut layer = layer.clone();
        layer[key] = value;
        manifest(&move |manifest| manifest["layers"] = json!([layer]))
    };
    let cases = [
        (manifest(&|manifest| manifest["manifests"] = json!([])), "it lists manifests"),
        (manifest(&|manifest| manifest["schemaVersion"] = json!(1)), "schema is not 2"),
        (manifest(&|manifest| manifest["mediaType"] = json!(INDEX)), "calls itself"),
        (manifest(&|manifest| manifest["layers"] = json!(vec![&layer; 501])), "501 layers"),
        (manifest(&|manifest| manifest["layers"] = json!([layer])), "names 0 layers, and the manifest 1"),
        (
            manifest(&|manifest| {
                manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
            }),
            "artifact",
        ),
        (
            with_layer("mediaType", json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")),
            "encrypted",
        ),
        (
            with_layer("mediaType", json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")),
            "foreign",
        ),
        (with_layer("size", json!(1_u64 << 60)), "the limit is"),
        (with_layer("size", json!(-1)), "invalid value"),
        (with_layer("digest", json!("sha256:../../../../etc/passwd")), "Invalid"),
        (with_layer("digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e")), "names 0 layers"),
    ];
    for (descriptor, word) in cases {
        scene.refused(&descriptor, word).await;
    }
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let old = scene.made.blob(schema1, b"{}");
    scene.refused(&old, "schema 1").await;
    let deep =
        scene.made.blob(MANIFEST, format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes());
    scene.refused(&deep, "is not used").await;
    let other = scene.made.blob("application/json", b"{ }");
    scene.refused(&other, "no manifest").await;
    // 100 MB, the second of them claimed to be small.
    let large = scene.made.blob(MANIFEST, &vec![b' '; 100 << 20]);
    scene.refused(&large, "the limit is").await;
    let mut large = scene.made.blob(MANIFEST, &vec![b'\n'; 100 << 20]);
    large["size"] = json!(1000);
    scene.refused(&large, "it has not the 1000 bytes").await;
}

pub(crate) async fn dockers_spelling_is_read() {
    let mut scene = scene();
    let layer = tar(&[("a", b"docker")]);
    let blob =
        scene.made.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &packed(&layer, Pack::Gzip));
    let config = Made::config(&[layer], "amd64");
    let config =
        scene.made.blob("application/vnd.docker.container.image.v1+json", config.to_string().as_bytes());
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [blob]});
    let manifest = scene.made.blob(media_type, manifest.to_string().as_bytes());
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let index = json!({"schemaVersion": 2, "mediaType": list, "manifests": [for_platform(manifest.clone(), "linux/amd64")]});
    let index = scene.made.blob(list, index.to_string().as_bytes());
    let digest = scene.take(&index, &linux()).await.unwrap();
    let image = scene.store.find(&digest).unwrap();
    // It is found by the digest of the list that led to it, too.
    assert_eq!(scene.store.find(index["digest"].as_str().unwrap()).unwrap().id, image.id);
    let layers = scene.store.layers(&image, &Silent).await.unwrap();
    assert_eq!(read(layers[0].join("a")), b"docker");
}

/// A file of 3 GiB of zeros, or the beginning of it.
fn zeros(mebibytes: u64, out: &mut impl Write) {
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(3 << 30);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    out.write_all(header.as_bytes()).unwrap();
    let chunk = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        out.write_all(&chunk).unwrap();
    }
}

pub(crate) async fn bombs_do_not_go_off() {
    let mut scene = scene();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    zeros(64, &mut gzip);
    let gzip = gzip.finish().unwrap();
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zeros(3 << 10, &mut zstd);
    let zstd = zstd.finish().unwrap();
    assert!(zstd.len() < 1 << 20);
    for (media_type, bomb) in [("gzip", gzip), ("zstd", zstd)] {
        let blob = scene.made.blob(&format!("application/vnd.oci.image.layer.v1.tar+{media_type}"), &bomb);
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(media_type.as_bytes())]}});
        let manifest = scene.made.manifest_of(&config, vec![blob]);
        let digest = scene.take(&manifest, &linux()).await.unwrap();
        let image = scene.store.find(&digest).unwrap();
        let error = scene.store.layers(&image, &Silent).await.unwrap_err();
        let is_too_large =
            matches!(error, ImageError::Layer { source: UnpackError::TooLarge { limit: 0x4000_0000 }, .. });
        assert!(is_too_large, "{error:?}");
        let left: Vec<_> = std::fs::read_dir(scene.store.root().join("partial")).unwrap().collect();
        assert!(left.is_empty(), "the disk is free again: {left:?}");
    }
}

pub(crate) async fn content_with_another_digest_is_refused() {
    let mut scene = scene();
    let layers = [tar(&[("a", &noise(5, 300_000))])];
    let manifest = scene.made.image("t", &layers, Pack::Plain);
    let layer = crate::acquire::layer_of(&scene.made, &manifest);
    let whole = read(scene.made.blob_path(&layer));
    let mut other = whole.clone();
    other[1000] ^= 1;
    std::fs::write(scene.made.blob_path(&layer), &other).unwrap();
    let source = scene.made.source(&scene.store, "t");
    let error = acquire(&scene.store, &source, "n").await.unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
    assert_eq!(
        scene.store.verify().await.unwrap().leftovers,
        1,
        "the configuration; of the layer nothing stays"
    );
    // More than was said is not even read.
    let longer = [whole.as_slice(), &[7; 5_000_000]].concat();
    std::fs::write(scene.made.blob_path(&layer), longer).unwrap();
    acquire(&scene.store, &source, "n").await.unwrap();

    // A layer that is not the one of the configuration.
    let mut config = Made::config(&layers, "amd64");
    config["rootfs"]["diff_ids"] = json!([digest(b"another")]);
    let blob = scene.made.blob("application/vnd.oci.image.layer.v1.tar", &whole);
    let manifest = scene.made.manifest_of(&config, vec![blob]);
    let taken = scene.take(&manifest, &linux()).await.unwrap();
    let image = scene.store.find(&taken).unwrap();
    let error = scene.store.layers(&image, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("the configuration says"), "{error}");
    assert_eq!(std::fs::read_dir(scene.store.root().join("layers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(scene.store.root().join("partial")).unwrap().count(), 0);
}

pub(crate) async fn a_layer_that_comes_twice_is_once_on_top() {
    let mut scene = scene();
    let (a, b) = (tar(&[("f", b"a")]), tar(&[("f", b"b")]));
    scene.made.image("t", &[a.clone(), b, a], Pack::Gzip);
    let source = scene.made.source(&scene.store, "t");
    let image = acquire(&scene.store, &source, "n").await.unwrap();
    let layers = scene.store.layers(&image, &Silent).await.unwrap();
    assert_eq!((image.layers.len(), layers.len()), (3, 2));
    assert_eq!((read(layers[0].join("f")), read(layers[1].join("f"))), (b"b".to_vec(), b"a".to_vec()));
}

pub(crate) async fn longer_digests_are_checked_too() {
    let mut scene = scene();
    let layer = tar(&[("a", b"long")]);
    let long: String = sha2::Sha512::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = scene.made.path.join("blobs/sha512");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(&long), &layer).unwrap();
    let blob = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha512:{long}"), "size": layer.len()});
    let mut config = Made::config(&[], "amd64");
    config["rootfs"]["diff_ids"] = json!([format!("sha512:{long}")]);
    let manifest = scene.made.manifest_of(&config, vec![blob]);
    let digest = scene.take(&manifest, &linux()).await.unwrap();
    let layers = scene.store.layers(&scene.store.find(&digest).unwrap(), &Silent).await.unwrap();
    assert_eq!(read(layers[0].join("a")), b"long");
    let verified = scene.store.verify().await.unwrap();
    assert_eq!((verified.is_sound(), verified.blobs, verified.leftovers), (true, 3, 0));
    std::fs::write(folder.join(&long), [layer.as_slice(), b"x"].concat()).unwrap();
    std::fs::write(scene.store.root().join("blobs/sha512").join(&long), &layer[1..]).unwrap();
    assert_eq!(scene.store.verify().await.unwrap().broken.len(), 1);
}
