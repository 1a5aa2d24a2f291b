//! A new image of what was changed in a container.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image::{Descriptor, Digest, ImageManifestBuilder, MediaType};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::files::{sync_folder_of, unique};
use super::image::Parts;
use super::{Image, Store, blocking};
use crate::digest;
use crate::error::ImageError;
use crate::manifest::{self, LAYERS_LIMIT};
use crate::media;
use crate::source::MANIFEST_LIMIT;

/// Writes a layer, a tar that is not compressed.
pub type WriteLayer = Box<dyn FnOnce(&mut dyn Write) -> Result<(), ImageError> + Send>;

/// An image that is to be made.
pub struct NewImage {
    /// The image whose layers it has; none for one from nothing.
    pub base: Option<Image>,
    /// Writes the layer above them; it blocks, on a thread of its own. None when only the configuration is another.
    pub layer: Option<WriteLayer>,
    /// Its configuration, such as [`Store::configuration`] gives it of the base, changed. The field `rootfs` is made anew. It is
    /// JSON as it is, so that what only other tools know stays in it.
    pub configuration: Value,
}

impl std::fmt::Debug for NewImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layer = self.layer.as_ref().map(|_| "a layer");
        f.debug_struct("NewImage").field("base", &self.base).field("layer", &layer).finish_non_exhaustive()
    }
}

impl Store {
    /// The configuration of an image, with all that is in it. Blocks.
    ///
    /// # Errors
    /// [`ImageError::File`], [`ImageError::Invalid`].
    pub fn configuration(&self, image: &Image) -> Result<Value, ImageError> {
        manifest::parse(&format!("the configuration {}", image.id), &self.read_small(&image.config_blob)?)
    }

    /// Makes an image, compresses its layer with gzip, and gives it a name.
    ///
    /// Cancel safe: the image is there or not; the thread goes on until its layer is written.
    ///
    /// # Errors
    /// [`ImageError::File`], [`ImageError::Invalid`] when the configuration is none, and what the writer of the layer says.
    pub async fn put_image(&self, new: NewImage, name: Option<&str>) -> Result<Image, ImageError> {
        let hold = self.hold_soon().await?;
        let (store, name) = (self.clone(), name.map(str::to_owned));
        blocking(move || {
            let _hold = hold;
            store.put(new, name.as_deref())
        })
        .await
    }

    fn put(&self, new: NewImage, name: Option<&str>) -> Result<Image, ImageError> {
        let (mut layers, mut blobs) = match new.base {
            Some(base) => (base.layers, base.blobs),
            None => (Vec::new(), Vec::new()),
        };
        for blob in &mut blobs {
            blob.set_media_type(media::as_oci(blob.media_type()));
        }
        if let Some(write) = new.layer {
            let (layer, blob) = self.put_layer(write)?;
            layers.push(layer);
            blobs.push(blob);
        }
        if layers.len() > LAYERS_LIMIT {
            let why = format!("it would have {} layers; the limit is {LAYERS_LIMIT}", layers.len());
            return Err(ImageError::invalid("the new image", why));
        }
        let Value::Object(mut configuration) = new.configuration else {
            return Err(ImageError::invalid("the new configuration", "it is no object of JSON"));
        };
        let digests: Vec<&str> = layers.iter().map(AsRef::as_ref).collect();
        configuration.insert("rootfs".into(), json!({"type": "layers", "diff_ids": digests}));
        let config = self.put_json(MediaType::ImageConfig, &configuration)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .config(config.0)
            .layers(blobs)
            .build()
            .map_err(|error| ImageError::invalid("the new manifest", error))?;
        Parts::new(manifest.clone(), &config.1)?;
        let manifest = self.put_json(MediaType::ImageManifest, &manifest)?;
        self.enter_name(&manifest.0, name, None)
    }

    fn put_json(
        &self,
        media_type: MediaType,
        value: &impl serde::Serialize,
    ) -> Result<(Descriptor, Vec<u8>), ImageError> {
        let bytes = serde_json::to_vec(value).map_err(|error| ImageError::invalid(&media_type, error))?;
        if bytes.len() as u64 > MANIFEST_LIMIT {
            let why = format!("it would have {} bytes; the limit is {MANIFEST_LIMIT}", bytes.len());
            return Err(ImageError::invalid(&media_type, why));
        }
        let digest = digest::sha256(&bytes)?;
        self.put_blob(&bytes, &digest)?;
        Ok((Descriptor::new(media_type, bytes.len() as u64, digest), bytes))
    }

    /// Writes a layer to a blob; gives its digest as it is, and the blob's descriptor.
    fn put_layer(&self, write: WriteLayer) -> Result<(Digest, Descriptor), ImageError> {
        let path = self.partial().join(unique("layer"));
        let put = self.put_layer_at(&path, write);
        if put.is_err() {
            // It may not have been made at all.
            let _ = std::fs::remove_file(&path);
        }
        put
    }

    fn put_layer_at(&self, path: &Path, write: WriteLayer) -> Result<(Digest, Descriptor), ImageError> {
        let failed = ImageError::file(path, "written");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(&failed)?;
        let blob = Hashing { inner: file, hasher: Sha256::new(), bytes: 0 };
        let mut layer =
            Hashing { inner: GzEncoder::new(blob, Compression::default()), hasher: Sha256::new(), bytes: 0 };
        write(&mut layer)?;
        let diff_id = digest::finished(layer.hasher)?;
        let blob = layer.inner.finish().map_err(&failed)?;
        let file: File = blob.inner;
        file.sync_all().map_err(&failed)?;
        let digest = digest::finished(blob.hasher)?;
        let place = self.blob(&digest)?;
        std::fs::rename(path, &place).and_then(|()| sync_folder_of(&place)).map_err(failed)?;
        Ok((diff_id, Descriptor::new(MediaType::ImageLayerGzip, blob.bytes, digest)))
    }
}

/// A writer that hashes and counts what goes through it.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
