//! An image of the store, and how it is found.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, Digest, ImageConfiguration, ImageManifest, MediaType};

use super::files::read_bounded;
use super::{Store, index};
use crate::digest;
use crate::error::ImageError;
use crate::manifest;
use crate::media::{self, Root};
use crate::platform::Platform;
use crate::source::MANIFEST_LIMIT;

/// An image that the store has.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration: the same wherever the image is, however its layers are compressed.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest that its name led to where it came from, which is an index's where it is there for several platforms.
    pub root: Option<Digest>,
    /// Its names, sorted; none where another image has got them.
    pub names: Vec<String>,
    /// What it is for.
    pub platform: Platform,
    /// How containers of it are run.
    pub config: ImageConfiguration,
    /// The digests of its layers when they are unpacked, the lowest first.
    pub layers: Vec<Digest>,
    /// The blobs of its layers, the lowest first.
    pub blobs: Vec<Descriptor>,
    /// Its manifest, its configuration and the blobs of its layers together, in bytes.
    pub size: u64,
    /// The type of its manifest.
    pub media_type: MediaType,
    /// Its configuration's blob.
    pub config_blob: Descriptor,
}

impl Image {
    /// When it was made, as its configuration says it (RFC 3339).
    #[must_use]
    pub fn created(&self) -> Option<&str> {
        self.config.created().as_deref()
    }

    /// The descriptor of its manifest.
    pub(super) fn descriptor(&self, size: u64) -> Descriptor {
        Descriptor::new(self.media_type.clone(), size, self.manifest.clone())
    }
}

/// A manifest with its configuration, which belong together.
pub(super) struct Parts {
    pub(super) manifest: ImageManifest,
    pub(super) config: ImageConfiguration,
    pub(super) layers: Vec<Digest>,
}

impl Parts {
    /// Sees to it that a configuration is that of the manifest.
    pub(super) fn new(manifest: ImageManifest, config: &[u8]) -> Result<Self, ImageError> {
        let (config, layers) = manifest::configuration(manifest.config(), config)?;
        if layers.len() != manifest.layers().len() {
            let (there, here) = (layers.len(), manifest.layers().len());
            let why = format!("it names {there} layers, and the manifest {here}");
            return Err(ImageError::invalid(
                format!("the configuration {}", manifest.config().digest()),
                why,
            ));
        }
        Ok(Self { manifest, config, layers })
    }
}

impl Store {
    /// All images, the last that came last. One whose manifest or configuration is damaged is left out; [`Store::verify`]
    /// tells of it. Blocks.
    ///
    /// # Errors
    /// [`ImageError::File`] and [`ImageError::Invalid`] when index.json cannot be read.
    pub fn images(&self) -> Result<Vec<Image>, ImageError> {
        let index = self.index()?;
        let mut images = Vec::new();
        for (_, descriptors) in by_manifest(index.manifests()) {
            match self.image_of(&descriptors) {
                Ok(image) => images.push(image),
                Err(error) => {
                    let digest = descriptors[0].digest();
                    tracing::warn!(%digest, %error, "an image of the store cannot be read");
                }
            }
        }
        Ok(images)
    }

    /// Finds an image by its name as it was given to [`Store::acquire`], by its id or the beginning of it with or without
    /// `sha256:`, or by the digest of its manifest or of the index that led to it. Blocks.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::BadReference`] when several images have such an id.
    pub fn find(&self, name: &str) -> Result<Image, ImageError> {
        let index = self.index()?;
        let images = by_manifest(index.manifests());
        let has_name = |descriptor: &&Descriptor| index::record(descriptor).name == Some(name);
        let whole = Digest::try_from(name).ok();
        let is_it = |descriptor: &&Descriptor| {
            has_name(descriptor) || whole.as_ref().is_some_and(|digest| index::leads_to(descriptor, digest))
        };
        if let Some((_, descriptors)) = images.iter().find(|(_, descriptors)| descriptors.iter().any(is_it)) {
            return self.image_of(descriptors);
        }
        let not_found = || ImageError::NotFound { reference: name.into(), place: "in the store".into() };
        let start = name.strip_prefix("sha256:").unwrap_or(name);
        if start.is_empty() || !start.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(not_found());
        }
        let mut found: BTreeMap<String, Image> = BTreeMap::new();
        for image in self.images()?.into_iter().filter(|image| image.id.digest().starts_with(start)) {
            found.insert(image.id.to_string(), image);
        }
        match found.len() {
            0 => Err(not_found()),
            1 => found.into_values().next().ok_or_else(not_found),
            count => Err(ImageError::BadReference {
                reference: name.into(),
                why: format!("{count} images have an id that begins so"),
            }),
        }
    }

    /// Finds an image by its id, also one that was removed while a container uses it. Blocks.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::File`], [`ImageError::Invalid`].
    pub fn find_kept(&self, id: &str) -> Result<Image, ImageError> {
        match self.find(id) {
            Err(ImageError::NotFound { reference, place }) => {
                let index = self.index()?;
                // Others, which cannot be read, are not asked for.
                let images =
                    index.manifests().iter().filter_map(|descriptor| self.image_of(&[descriptor]).ok());
                let is_it = |image: &Image| image.id.to_string() == id;
                images.into_iter().find(is_it).ok_or(ImageError::NotFound { reference, place })
            }
            found => found,
        }
    }

    /// Reads the image that descriptors with the same manifest lead to.
    pub(super) fn image_of(&self, descriptors: &[&Descriptor]) -> Result<Image, ImageError> {
        let plain = descriptors[0];
        let bytes = self.read_small(plain)?;
        if media::root(plain.media_type())? == Root::Index {
            return Err(ImageError::invalid(
                plain.digest(),
                "it is an index, and not the image of one platform",
            ));
        }
        let manifest = manifest::manifest(plain.digest(), plain.media_type(), &bytes)?;
        let config = self.read_small(manifest.config())?;
        let Parts { manifest, config, layers } = Parts::new(manifest, &config)?;
        let mut names: Vec<String> = descriptors
            .iter()
            .filter_map(|descriptor| index::record(descriptor).name.map(str::to_owned))
            .collect();
        names.sort_unstable();
        let root = descriptors.iter().rev().find_map(|descriptor| index::record(descriptor).root);
        let sizes = manifest.layers().iter().map(Descriptor::size);
        Ok(Image {
            id: manifest.config().digest().clone(),
            manifest: plain.digest().clone(),
            root: root.and_then(|root| Digest::try_from(root).ok()),
            names,
            platform: Platform::of_config(&config),
            config,
            layers,
            size: sizes.fold(bytes.len() as u64 + manifest.config().size(), u64::saturating_add),
            blobs: manifest.layers().clone(),
            media_type: plain.media_type().clone(),
            config_blob: manifest.config().clone(),
        })
    }

    /// Reads a manifest, an index or a configuration, and verifies it.
    pub(super) fn read_small(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(descriptor.digest())?;
        let bytes = read_bounded(&path, MANIFEST_LIMIT).map_err(ImageError::file(&path, "read"))?;
        digest::check(&bytes, descriptor.digest())?;
        Ok(bytes)
    }
}

/// Groups the descriptors of images by their manifest, in the order of the index. What is removed is passed over.
fn by_manifest(descriptors: &[Descriptor]) -> Vec<(&Digest, Vec<&Descriptor>)> {
    let mut groups: Vec<(&Digest, Vec<&Descriptor>)> = Vec::new();
    let mut places: std::collections::HashMap<&Digest, usize> = std::collections::HashMap::new();
    for descriptor in descriptors.iter().filter(|descriptor| !index::record(descriptor).is_removed) {
        let place = *places.entry(descriptor.digest()).or_insert_with(|| {
            groups.push((descriptor.digest(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(descriptor);
    }
    groups
}
