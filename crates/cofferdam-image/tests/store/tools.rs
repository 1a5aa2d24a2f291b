//! What skopeo and umoci make, and what they make of ours.

use std::path::{Path, PathBuf};

use cofferdam_image::progress::Silent;
use cofferdam_image::store::{ArchiveFormat, InUse};
use cofferdam_image::{Image, ImageError, Store, local};
use serde_json::Value;

use crate::acquire::{acquire, read};
use crate::layouts::{Made, Pack, local as open, noise, tar};
use crate::process::output;

const NAME: &str = "registry.example:5000/team/app:1";

struct Scene {
    place: tempfile::TempDir,
    store: Store,
}

fn scene() -> Scene {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    Scene { place, store }
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A reference to something in the scene, with a transport in front and a name after it.
    fn reference(&self, transport: &str, name: &str, after: &str) -> String {
        format!("{transport}:{}{after}", self.text(name))
    }

    async fn take(&self, store: &Store, reference: &str) -> Result<Image, ImageError> {
        acquire(store, &open(store, reference)?, NAME).await
    }

    fn other_store(&self, name: &str) -> Store {
        Store::open(&self.path(name)).unwrap()
    }

    /// An image of some layers in the store.
    async fn image(&self, layers: u8, pack: Pack) -> Image {
        let mut made = Made::new(&self.path(&format!("made-{pack:?}")));
        let layers: Vec<Vec<u8>> = (0..layers)
            .map(|at| tar(&[(&format!("f{at}"), &noise(at.into(), 5000)), ("f", &[at])]))
            .collect();
        made.image("t", &layers, pack);
        acquire(&self.store, &made.source(&self.store, "t"), NAME).await.unwrap()
    }
}

fn inspect(reference: &str) -> Value {
    serde_json::from_str(&output("skopeo", &["inspect", reference])).unwrap()
}

fn skopeo_copy(from: &str, to: &str, more: &[&str]) {
    output("skopeo", &[&["copy", "--quiet"], more, &[from, to]].concat());
}

fn write_to(path: &Path) -> std::fs::File {
    std::fs::File::create(path).unwrap()
}

pub(crate) async fn what_umoci_makes_is_unpacked_as_umoci_does() {
    let scene = scene();
    let layout = scene.text("layout");
    output("umoci", &["init", "--layout", &layout]);
    output("umoci", &["new", "--image", &format!("{layout}:base")]);
    for layer in 0..20_u8 {
        let root = scene.path(&format!("root{layer}"));
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::write(root.join(format!("d/f{layer}")), noise(layer.into(), 3000)).unwrap();
        std::fs::write(root.join("d/f"), [layer]).unwrap();
        let inserted = root.join("d");
        output("umoci", &["insert", "--image", &format!("{layout}:base"), inserted.to_str().unwrap(), "/d"]);
    }
    output("umoci", &["config", "--image", &format!("{layout}:base"), "--config.cmd", "/bin/x"]);
    let image = scene.take(&scene.store, &scene.reference("oci", "layout", ":base")).await.unwrap();
    let layers = scene.store.layers(&image, &Silent).await.unwrap();
    assert_eq!(layers.len(), 20);
    let bundle = scene.text("bundle");
    output("umoci", &["unpack", "--image", &format!("{layout}:base"), &bundle]);
    let merged = scene.path("merged");
    for layer in &layers {
        output("cp", &["-a", &format!("{}/.", layer.display()), merged.to_str().unwrap()]);
    }
    output("diff", &["-r", merged.to_str().unwrap(), &format!("{bundle}/rootfs")]);
    assert_eq!(read(merged.join("d/f")), [19]);
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap().as_slice(), ["/bin/x"]);
}

pub(crate) async fn the_store_is_a_layout_for_other_tools() {
    let scene = scene();
    let image = scene.image(3, Pack::Zstd).await;
    let told = inspect(&scene.reference("oci", "store", &format!(":{NAME}")));
    assert_eq!(told["Digest"], image.manifest.to_string());
    assert_eq!(told["Layers"].as_array().unwrap().len(), 3);
    let gzip = scene.other_store("gzip");
    let gzip_image = {
        let mut made = Made::new(&scene.path("made"));
        made.image("t", &[tar(&[("a", b"1")])], Pack::Gzip);
        acquire(&gzip, &made.source(&gzip, "t"), "short:1").await.unwrap()
    };
    output("umoci", &["stat", "--image", &format!("{}:short:1", scene.text("gzip"))]);
    let listed = output("umoci", &["ls", "--layout", &scene.text("gzip")]);
    assert!(listed.contains("short:1"), "{listed}");
    // And what they put into it is found in it.
    skopeo_copy(
        &scene.reference("oci", "gzip", ":short:1"),
        &scene.reference("oci", "store", ":copied"),
        &[],
    );
    assert_eq!(scene.store.find("copied").unwrap().id, gzip_image.id);
    assert!(scene.store.verify().await.unwrap().is_sound());
    assert_eq!(scene.store.images().unwrap().len(), 2);
}

pub(crate) async fn skopeos_layers_of_zstd_are_unpacked() {
    let scene = scene();
    scene.image(3, Pack::Gzip).await;
    let zstd = scene.reference("oci", "zstd", ":t");
    skopeo_copy(
        &scene.reference("oci", "store", &format!(":{NAME}")),
        &zstd,
        &["--dest-compress-format", "zstd", "--dest-compress"],
    );
    let store = scene.other_store("other");
    let image = scene.take(&store, &zstd).await.unwrap();
    let layers = store.layers(&image, &Silent).await.unwrap();
    assert_eq!(read(layers[2].join("f")), [2]);
}

pub(crate) async fn archives_go_both_ways() {
    let scene = scene();
    let image = scene.image(20, Pack::Gzip).await;
    let saved =
        || vec![(scene.store.find(NAME).unwrap(), vec![NAME.to_owned(), "other.example/app:2".to_owned()])];
    let archive = scene.path("ours.tar");
    scene.store.save(saved(), ArchiveFormat::Oci, write_to(&archive)).await.unwrap();
    let reference = scene.reference("oci-archive", "ours.tar", &format!(":{NAME}"));
    assert_eq!(inspect(&reference)["Digest"], image.manifest.to_string());
    assert_eq!(scene.take(&scene.other_store("s1"), &reference).await.unwrap().manifest, image.manifest);
    scene.store.save_directory(saved(), &scene.path("dir")).await.unwrap();
    scene.store.save_directory(saved(), &scene.path("dir")).await.unwrap();
    let reference = scene.reference("oci", "dir", &format!(":{NAME}"));
    assert_eq!(inspect(&reference)["Digest"], image.manifest.to_string());
    let all = local::images(&scene.path("dir"), &scene.store).unwrap();
    assert_eq!((all.len(), all[0].names().len()), (1, 2));

    // Docker's, whose layers are not compressed: the id stays.
    scene.store.save(saved(), ArchiveFormat::Docker, write_to(&scene.path("ours-docker.tar"))).await.unwrap();
    let reference = scene.reference("docker-archive", "ours-docker.tar", &format!(":{NAME}"));
    assert_eq!(inspect(&reference)["Layers"].as_array().unwrap().len(), 20);
    skopeo_copy(&reference, &scene.reference("oci", "by-skopeo", ":t"), &[]);
    let store = scene.other_store("s2");
    for reference in [reference, scene.reference("oci", "by-skopeo", ":t")] {
        let taken = scene.take(&store, &reference).await.unwrap();
        assert_eq!((&taken.layers, taken.layers.len()), (&image.layers, 20), "{reference}");
        let layers = store.layers(&taken, &Silent).await.unwrap();
        assert_eq!(read(layers[19].join("f")), [19]);
    }
    let id = |store: &Store, reference: &str| open(store, reference).unwrap().names().to_vec();
    assert_eq!(
        id(&store, &scene.reference("docker-archive", "ours-docker.tar", "")),
        [NAME, "other.example/app:2"]
    );
    let loaded = scene.other_store("s3");
    let from_docker = &local::images(&scene.path("ours-docker.tar"), &loaded).unwrap()[0];
    assert_eq!(acquire(&loaded, from_docker, NAME).await.unwrap().id, image.id);
}

pub(crate) async fn skopeos_archives_are_read_compressed_too() {
    let scene = scene();
    let image = scene.image(4, Pack::Gzip).await;
    let ours = scene.reference("oci", "store", &format!(":{NAME}"));
    skopeo_copy(&ours, &scene.reference("docker-archive", "d.tar", &format!(":{NAME}")), &[]);
    skopeo_copy(&ours, &scene.reference("oci-archive", "o.tar", ":tagged"), &[]);
    output("gzip", &["-k", &scene.text("d.tar")]);
    std::fs::write(
        scene.path("o.tar.zst"),
        zstd::encode_all(read(scene.path("o.tar")).as_slice(), 1).unwrap(),
    )
    .unwrap();
    for (transport, file) in [
        ("docker-archive", "d.tar"),
        ("docker-archive", "d.tar.gz"),
        ("oci-archive", "o.tar"),
        ("oci-archive", "o.tar.zst"),
    ] {
        let store = scene.other_store(&format!("for-{file}"));
        let taken = scene.take(&store, &scene.reference(transport, file, "")).await.unwrap();
        assert_eq!(taken.layers, image.layers, "{file}");
        let layers = store.layers(&taken, &Silent).await.unwrap();
        assert_eq!(read(layers[3].join("f")), [3]);
        assert_eq!(std::fs::read_dir(store.root().join("partial")).unwrap().count(), 0, "{file}");
        store.gc(&InUse::default()).await.unwrap();
    }
    let names = |file: &str| local::images(&scene.path(file), &scene.store).unwrap()[0].names().to_vec();
    assert_eq!((names("d.tar.gz"), names("o.tar")), (vec![NAME.to_owned()], vec!["tagged".to_owned()]));
    let missing =
        scene.take(&scene.store, &scene.reference("oci-archive", "o.tar", ":nothing")).await.unwrap_err();
    assert!(missing.to_string().contains("tagged"), "{missing}");
    for (transport, file) in
        [("docker-archive", "o.tar"), ("oci-archive", "d.tar"), ("oci-archive", "missing.tar")]
    {
        scene.take(&scene.store, &scene.reference(transport, file, "")).await.unwrap_err();
    }
}
