//! Manifests, indexes and configurations, read with what they must and must not have.

use oci_spec::image::{Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::ImageError;
use crate::media;

/// The layers of an image: overlayfs stacks no more (`OVL_MAX_STACK` in `fs/overlayfs/params.h`).
pub(crate) const LAYERS_LIMIT: usize = 500;
/// The largest layer, compressed, in bytes: no more is unpacked from one either.
pub(crate) const LAYER_BYTES_LIMIT: u64 = 256 << 30;
/// The largest index.json of a layout, in bytes: some 100 000 names.
pub(crate) const INDEX_LIMIT: u64 = 64 << 20;
/// The manifests of one index. The largest indexes have some dozen.
pub(crate) const MANIFESTS_LIMIT: usize = 1000;

/// What manifests say of themselves; one that can be read as an index too would be two different images to two readers
/// (CVE-2021-41190).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marks {
    schema_version: u32,
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default, rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest.
pub(crate) fn manifest(
    digest: &Digest,
    media_type: &MediaType,
    bytes: &[u8],
) -> Result<ImageManifest, ImageError> {
    let what = || format!("the manifest {digest}");
    let marks: Marks = parse(&what(), bytes)?;
    check_marks(&what(), &marks, media_type)?;
    if marks.manifests.is_some() {
        return Err(ImageError::invalid(what(), "it lists manifests, as an index does"));
    }
    let manifest: ImageManifest = parse(&what(), bytes)?;
    media::check_config(manifest.config().media_type())?;
    if manifest.layers().len() > LAYERS_LIMIT {
        let count = manifest.layers().len();
        return Err(ImageError::invalid(
            what(),
            format!("it has {count} layers; the limit is {LAYERS_LIMIT}"),
        ));
    }
    for layer in manifest.layers() {
        media::check_layer(layer.media_type())?;
        if layer.size() > LAYER_BYTES_LIMIT {
            let why = format!("it has {} bytes; the limit is {LAYER_BYTES_LIMIT}", layer.size());
            return Err(ImageError::invalid(format!("the layer {}", layer.digest()), why));
        }
    }
    Ok(manifest)
}

/// Reads an index of manifests.
pub(crate) fn index(digest: &Digest, media_type: &MediaType, bytes: &[u8]) -> Result<ImageIndex, ImageError> {
    let what = || format!("the index {digest}");
    let marks: Marks = parse(&what(), bytes)?;
    check_marks(&what(), &marks, media_type)?;
    if marks.layers.is_some() || marks.config.is_some() {
        return Err(ImageError::invalid(what(), "it lists layers, as a manifest does"));
    }
    let index: ImageIndex = parse(&what(), bytes)?;
    if index.manifests().len() > MANIFESTS_LIMIT {
        let count = index.manifests().len();
        return Err(ImageError::invalid(
            what(),
            format!("it has {count} manifests; the limit is {MANIFESTS_LIMIT}"),
        ));
    }
    Ok(index)
}

fn check_marks(what: &str, marks: &Marks, media_type: &MediaType) -> Result<(), ImageError> {
    if marks.schema_version != 2 || marks.fs_layers.is_some() {
        return Err(ImageError::invalid(what, "its schema is not 2"));
    }
    match &marks.media_type {
        Some(own) if own != media_type.as_ref() => {
            Err(ImageError::invalid(what, format!("it calls itself {own}, and was called {media_type}")))
        }
        _ => Ok(()),
    }
}

/// Reads a configuration, with the digests of its layers when they are unpacked, the lowest first.
pub(crate) fn configuration(
    descriptor: &Descriptor,
    bytes: &[u8],
) -> Result<(ImageConfiguration, Vec<Digest>), ImageError> {
    let what = format!("the configuration {}", descriptor.digest());
    let config: ImageConfiguration = parse(&what, bytes)?;
    let digests: Result<Vec<Digest>, _> =
        config.rootfs().diff_ids().iter().map(|text| Digest::try_from(text.as_str())).collect();
    let digests = digests.map_err(|error| ImageError::invalid(&what, error))?;
    Ok((config, digests))
}

/// Reads JSON; the parser has a limit of its own to how deep it goes.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::invalid(what, error))
}
