//! An archive as `docker save` writes it: a list of images, each with its configuration and its layers.
//!
//! Such an archive has no manifests. One is made: it names the configuration and the layers by their digests, so all is
//! verified as it is of other sources, and the image has the id that it had.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, ImageManifestBuilder, MediaType};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::archive::Archive;
use super::{Content, LocalImage, Place};
use crate::decompress::Compression;
use crate::digest;
use crate::error::ImageError;
use crate::manifest::{self, LAYERS_LIMIT, MANIFESTS_LIMIT};
use crate::source::MANIFEST_LIMIT;

/// The member that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The blobs of one image of an archive.
#[derive(Debug)]
pub(super) struct Blobs {
    archive: Arc<Archive>,
    manifest: Vec<u8>,
    /// Which member has which digest.
    members: HashMap<Digest, String>,
}

impl Blobs {
    /// The content of a blob, from an offset on.
    pub(super) fn content(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<(PathBuf, Content), ImageError> {
        let path = self.archive.path().to_owned();
        if let Some(member) = self.members.get(descriptor.digest()) {
            return Ok((path, self.archive.content(member, offset)?));
        }
        if descriptor.media_type() == &MediaType::ImageManifest {
            let mut bytes = io::Cursor::new(self.manifest.clone());
            bytes.set_position(offset);
            return Ok((path, Content::Bytes(bytes)));
        }
        Err(ImageError::invalid(self.archive.place(), format!("it has no {}", descriptor.digest())))
    }
}

/// All images of an archive, in their order.
pub(super) fn images(archive: Arc<Archive>) -> Result<Vec<LocalImage>, ImageError> {
    let bytes = archive.small(MANIFEST, MANIFEST_LIMIT)?;
    let listed: Vec<Listed> = manifest::parse(&format!("{MANIFEST} in {}", archive.place()), &bytes)?;
    if listed.len() > MANIFESTS_LIMIT {
        let why = format!("it has {} images; the limit is {MANIFESTS_LIMIT}", listed.len());
        return Err(ImageError::invalid(archive.place(), why));
    }
    // Layers that must be read to know their digest are read once for all images.
    let mut digests = HashMap::new();
    listed.iter().map(|listed| image(&archive, listed, &mut digests)).collect()
}

fn image(
    archive: &Arc<Archive>,
    listed: &Listed,
    digests: &mut HashMap<String, Digest>,
) -> Result<LocalImage, ImageError> {
    let config = archive.small(&listed.config, MANIFEST_LIMIT)?;
    let config_digest = digest::sha256(&config)?;
    let config_blob = Descriptor::new(MediaType::ImageConfig, config.len() as u64, config_digest.clone());
    let (_, diff_ids) = manifest::configuration(&config_blob, &config)?;
    let names = listed.layers.as_deref().unwrap_or_default();
    if names.len() != diff_ids.len() || names.len() > LAYERS_LIMIT {
        let why =
            format!("{} has {} layers, and its configuration {}", listed.config, names.len(), diff_ids.len());
        return Err(ImageError::invalid(archive.place(), why));
    }
    let mut members = HashMap::from([(config_digest, listed.config.clone())]);
    let mut layers = Vec::with_capacity(names.len());
    for (name, diff_id) in names.iter().zip(diff_ids) {
        let layer = layer(archive, name, diff_id, digests)?;
        members.insert(layer.digest().clone(), name.clone());
        layers.push(layer);
    }
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config_blob)
        .layers(layers)
        .build()
        .map_err(|error| ImageError::invalid(archive.place(), error))?;
    let manifest =
        serde_json::to_vec(&manifest).map_err(|error| ImageError::invalid(archive.place(), error))?;
    let root = Descriptor::new(MediaType::ImageManifest, manifest.len() as u64, digest::sha256(&manifest)?);
    let blobs = Blobs { archive: archive.clone(), manifest, members };
    let names = listed.repo_tags.clone().unwrap_or_default();
    Ok(LocalImage { place: Place::Docker(Arc::new(blobs)), names, root })
}

/// A layer has the digest that the configuration says, unless it is compressed: then it must be read.
fn layer(
    archive: &Archive,
    name: &str,
    diff_id: Digest,
    digests: &mut HashMap<String, Digest>,
) -> Result<Descriptor, ImageError> {
    let failed = ImageError::file(archive.path(), "read");
    let size = archive.size(name)?;
    let mut start = Vec::new();
    archive.content(name, 0)?.take(8).read_to_end(&mut start).map_err(&failed)?;
    let media_type = match Compression::of(&start) {
        Compression::None => return Ok(Descriptor::new(MediaType::ImageLayer, size, diff_id)),
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    };
    if let Some(digest) = digests.get(name) {
        return Ok(Descriptor::new(media_type, size, digest.clone()));
    }
    let (mut content, mut hasher) = (archive.content(name, 0)?, Sha256::new());
    io::copy(&mut content, &mut hasher).map_err(&failed)?;
    let digest = digest::finished(hasher)?;
    digests.insert(name.to_owned(), digest.clone());
    Ok(Descriptor::new(media_type, size, digest))
}
