//! Images of busybox in an OCI layout, made by hand: good ones, and ones that no tool would make.
#![expect(clippy::unwrap_used, reason = "this is a part of tests: a panic is their failure")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::fixture;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The user of [`layers`] that is not root: its name, and its number.
pub const USER: (&str, u32) = ("app", 1200);

/// A layout under construction.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Makes an empty one.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { directory: directory.to_owned(), manifests: vec![] }
    }

    /// Adds an image of layers, which are archives, with the `config` of its configuration; `DIR:TAG`.
    pub fn add(&mut self, tag: &str, layers: &[Vec<u8>], config: &Value) -> String {
        let blobs: Vec<Value> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        let diff_ids: Vec<&Value> = blobs.iter().map(|blob| &blob["digest"]).collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "created": "2024-01-02T03:04:05Z", "architecture": architecture, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs });
        let mut manifest = self.blob(MANIFEST, manifest.to_string().as_bytes());
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        self.manifests.push(manifest);
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        std::fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
        format!("{}:{tag}", self.directory.display())
    }

    /// Writes a blob; its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        use std::fmt::Write as _;
        let mut digest = String::new();
        for byte in sha2::Sha256::digest(bytes) {
            write!(digest, "{byte:02x}").unwrap();
        }
        std::fs::write(self.directory.join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }
}

/// A file of a layer.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Its path, as it stands in the archive, whatever that leads to.
    pub path: &'a str,
    /// Its content; a directory has none.
    pub content: Option<&'a str>,
    /// Its mode.
    pub mode: u32,
    /// Its owner and group.
    pub owner: u32,
}

impl<'a> File<'a> {
    /// A file of root's that everybody may read.
    #[must_use]
    pub const fn new(path: &'a str, content: &'a str) -> Self {
        Self { path, content: Some(content), mode: 0o644, owner: 0 }
    }
}

/// A layer of files.
#[must_use]
pub fn layer(files: &[File<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let content = file.content.unwrap_or_default();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(match file.content {
            Some(_) => tar::EntryType::Regular,
            None => tar::EntryType::Directory,
        });
        header.set_size(content.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(file.owner.into());
        header.set_gid(file.owner.into());
        header.set_mtime(1_000_000_000);
        // By hand: it would refuse what leads out of the archive.
        header.as_gnu_mut().unwrap().name[..file.path.len()].copy_from_slice(file.path.as_bytes());
        header.set_cksum();
        archive.append(&header, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Two layers. The lower one has [`fixture::rootfs`], `/data/gone` and `/data/kept`; the upper one takes `/data/gone`
/// away and adds [`USER`] with a home.
#[must_use]
pub fn layers() -> Vec<Vec<u8>> {
    let place = tempfile::Builder::new().prefix("cfi").tempdir_in("/tmp").unwrap();
    let root = fixture::rootfs(place.path());
    fixture::file(&root, "data/gone", "of the lower layer\n", 0o644);
    fixture::file(&root, "data/kept", "of the lower layer\n", 0o644);
    let mut lower = tar::Builder::new(Vec::new());
    lower.follow_symlinks(false);
    lower.append_dir_all(".", &root).unwrap();
    let (name, id) = USER;
    let passwd = format!("root:x:0:0:root:/root:/bin/sh\n{name}:x:{id}:{id}::/home/{name}:/bin/sh\n");
    let group = format!("root:x:0:\n{name}:x:{id}:\nextra:x:1300:{name}\n");
    let home = format!("home/{name}/");
    let upper = layer(&[
        File::new("data/.wh.gone", ""),
        File::new("etc/passwd", &passwd),
        File::new("etc/group", &group),
        File { content: None, mode: 0o755, ..File::new("home/", "") },
        File { content: None, mode: 0o700, owner: id, ..File::new(&home, "") },
    ]);
    vec![lower.into_inner().unwrap(), upper]
}
