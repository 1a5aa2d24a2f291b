//! Image layouts made by hand, good and bad, and a source that counts what is read of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use cofferdam_image::local::{LocalImage, LocalReference};
use cofferdam_image::source::{BlobStream, ImageSource};
use cofferdam_image::{ImageError, Platform, Store};
use oci_spec::image::Descriptor;
use serde_json::{Value, json};
use sha2::Digest as _;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// A layout under construction.
pub(crate) struct Made {
    pub(crate) path: PathBuf,
    manifests: Vec<Value>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = sha2::Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub(crate) fn linux() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// A layer with these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn packed(bytes: &[u8], pack: Pack) -> Vec<u8> {
    match pack {
        Pack::Plain => bytes.to_vec(),
        Pack::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Pack::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// Bytes that cannot be compressed, the same each time.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

impl Made {
    pub(crate) fn new(path: &Path) -> Self {
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let made = Self { path: path.to_owned(), manifests: Vec::new() };
        made.write_index();
        made
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        std::fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest.replace(':', "/"))
    }

    /// Writes a blob; gives its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        std::fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// The configuration for layers, as they are unpacked.
    pub(crate) fn config(layers: &[Vec<u8>], architecture: &str) -> Value {
        let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        json!({
            "created": "2024-01-02T03:04:05Z", "architecture": architecture, "os": "linux",
            "config": {"Env": ["A=b"], "Cmd": ["/bin/sh"], "Volumes": null, "OnBuild": null},
            "rootfs": {"type": "layers", "diff_ids": digests},
        })
    }

    /// Writes an image with these layers; gives the descriptor of its manifest.
    pub(crate) fn manifest(&self, layers: &[Vec<u8>], pack: Pack, architecture: &str) -> Value {
        let ending = match pack {
            Pack::Plain => "",
            Pack::Gzip => "+gzip",
            Pack::Zstd => "+zstd",
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{ending}");
        let blobs: Vec<Value> =
            layers.iter().map(|layer| self.blob(&media_type, &packed(layer, pack))).collect();
        self.manifest_of(&Self::config(layers, architecture), blobs)
    }

    pub(crate) fn manifest_of(&self, config: &Value, layers: Vec<Value>) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    pub(crate) fn index_of(&self, manifests: Vec<Value>) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.blob(INDEX, index.to_string().as_bytes())
    }

    /// Gives what a descriptor leads to a tag.
    pub(crate) fn tag(&mut self, descriptor: &Value, tag: &str) {
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(descriptor);
        self.write_index();
    }

    /// Writes an image of layers with a tag.
    pub(crate) fn image(&mut self, tag: &str, layers: &[Vec<u8>], pack: Pack) -> Value {
        let manifest = self.manifest(layers, pack, "amd64");
        self.tag(&manifest, tag);
        manifest
    }

    pub(crate) fn source(&self, store: &Store, tag: &str) -> Counting {
        Counting::new(local(store, &format!("oci:{}:{tag}", self.path.display())).unwrap())
    }
}

/// Says what a descriptor is for.
pub(crate) fn for_platform(mut descriptor: Value, platform: &str) -> Value {
    let parts: Vec<&str> = platform.split('/').collect();
    descriptor["platform"] = json!({"os": parts[0], "architecture": parts[1]});
    if let Some(variant) = parts.get(2) {
        descriptor["platform"]["variant"] = json!(variant);
    }
    descriptor
}

/// Opens what a reference to a directory or an archive means.
pub(crate) fn local(store: &Store, reference: &str) -> Result<LocalImage, ImageError> {
    LocalReference::parse(reference).unwrap().unwrap().open(store)
}

/// A source that counts what is asked of it, and can fail as networks do.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) inner: LocalImage,
    /// How many blobs were asked for, and from which byte on.
    pub(crate) asked: Mutex<Vec<(String, u64)>>,
    /// How many bytes a stream has before it ends; 0 is all.
    pub(crate) cut_after: AtomicU64,
    /// Whether it begins at 0 whatever is asked.
    pub(crate) cannot_resume: bool,
}

impl Counting {
    pub(crate) fn new(inner: LocalImage) -> Self {
        Self { inner, asked: Mutex::default(), cut_after: AtomicU64::new(0), cannot_resume: false }
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl ImageSource for Counting {
    async fn root(&self) -> Result<(Descriptor, Vec<u8>), ImageError> {
        self.inner.root().await
    }

    async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, ImageError> {
        use tokio::io::AsyncReadExt;
        self.asked.lock().unwrap().push((descriptor.digest().to_string(), offset));
        let offset = if self.cannot_resume { 0 } else { offset };
        let stream = self.inner.blob(descriptor, offset).await?;
        match self.cut_after.load(Ordering::Relaxed) {
            0 => Ok(stream),
            limit => Ok(BlobStream { offset: stream.offset, bytes: Box::pin(stream.bytes.take(limit)) }),
        }
    }
}
