//! From what an image's name leads to, to the manifest for one platform.

use std::collections::HashSet;

use oci_spec::image::Descriptor;

use super::image::Parts;
use super::{Hold, Store};
use crate::error::ImageError;
use crate::manifest;
use crate::media::{self, Root};
use crate::platform::Platform;
use crate::source::{ImageSource, MANIFEST_LIMIT};

/// How deep indexes lie in indexes. Tools make one level, or two.
const INDEX_DEPTH: usize = 4;
/// How many indexes are read for one image.
const INDEX_COUNT: usize = 32;
/// How many manifests that do not say what they are for are read for one image.
const UNSAID_COUNT: usize = 32;

/// The manifest that was chosen.
pub(super) struct Chosen {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
    pub(super) parts: Parts,
}

/// A search through the indexes of one image.
pub(super) struct Choice<'a> {
    pub(super) store: &'a Store,
    pub(super) source: &'a dyn ImageSource,
    /// Goes with what is written.
    pub(super) hold: &'a Hold,
    pub(super) platform: &'a Platform,
    /// For errors: what the image is called.
    pub(super) reference: &'a str,
}

/// What indexes offer.
#[derive(Default)]
struct Offers {
    /// Those that suit, with how well, less being better.
    suiting: Vec<(usize, Descriptor)>,
    /// Those that do not say what they are for.
    unsaid: Vec<Descriptor>,
    /// For errors: all that there is.
    all: Vec<String>,
}

impl Choice<'_> {
    /// Chooses from what the name leads to.
    pub(super) async fn make(&self, root: Descriptor, bytes: Vec<u8>) -> Result<Chosen, ImageError> {
        if media::root(root.media_type())? == Root::Manifest {
            let chosen = self.chosen(root, bytes).await?;
            let actual = Platform::of_config(&chosen.parts.config);
            return match self.platform.suits(&actual) {
                Some(_) => Ok(chosen),
                None => Err(self.nothing(vec![actual.to_string()])),
            };
        }
        let mut offers = self.offers(root, bytes).await?;
        // The first of those that suit best: the order of an index is that of its maker's preference.
        if let Some((_, descriptor)) = offers.suiting.iter().min_by_key(|(rank, _)| *rank).cloned() {
            let bytes = self.fetch(&descriptor).await?;
            return self.chosen(descriptor, bytes).await;
        }
        for descriptor in std::mem::take(&mut offers.unsaid) {
            let bytes = self.fetch(&descriptor).await?;
            let chosen = self.chosen(descriptor, bytes).await?;
            let actual = Platform::of_config(&chosen.parts.config);
            if self.platform.suits(&actual).is_some() {
                return Ok(chosen);
            }
            offers.all.push(actual.to_string());
        }
        offers.all.dedup();
        Err(self.nothing(offers.all))
    }

    fn nothing(&self, offered: Vec<String>) -> ImageError {
        let offered = if offered.is_empty() { vec!["no image at all".into()] } else { offered };
        ImageError::NoPlatform {
            reference: self.reference.into(),
            wanted: self.platform.to_string(),
            offered,
        }
    }

    /// Reads the index, and those that lie in it.
    async fn offers(&self, root: Descriptor, bytes: Vec<u8>) -> Result<Offers, ImageError> {
        let mut offers = Offers::default();
        let mut seen = HashSet::from([root.digest().clone()]);
        let mut to_read = vec![(root, Some(bytes), 1)];
        while let Some((descriptor, bytes, depth)) = to_read.pop() {
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => self.fetch(&descriptor).await?,
            };
            let index = manifest::index(descriptor.digest(), descriptor.media_type(), &bytes)?;
            for entry in index.manifests() {
                let Ok(kind) = media::root(entry.media_type()) else {
                    // An artifact that belongs to the image, such as a signature.
                    continue;
                };
                if kind == Root::Manifest {
                    offers.add(entry, self.platform);
                    continue;
                }
                let refused =
                    |why: &str| Err(ImageError::invalid(format!("the index {}", entry.digest()), why));
                if !seen.insert(entry.digest().clone()) {
                    return refused("it is in its own index a second time");
                }
                if depth == INDEX_DEPTH || seen.len() > INDEX_COUNT {
                    return refused("indexes lie in indexes too deep, or there are too many of them");
                }
                to_read.push((entry.clone(), None, depth + 1));
            }
        }
        Ok(offers)
    }

    /// Reads a manifest or an index, into the store where it is not there.
    async fn fetch(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        self.store.fetch_small(self.source, descriptor, self.hold).await
    }

    async fn chosen(&self, descriptor: Descriptor, bytes: Vec<u8>) -> Result<Chosen, ImageError> {
        let manifest = manifest::manifest(descriptor.digest(), descriptor.media_type(), &bytes)?;
        let config = self.fetch(manifest.config()).await?;
        let parts = Parts::new(manifest, &config)?;
        Ok(Chosen { descriptor, bytes, parts })
    }
}

impl Offers {
    fn add(&mut self, entry: &Descriptor, wanted: &Platform) {
        let Some(platform) = entry.platform() else {
            if self.unsaid.len() < UNSAID_COUNT {
                self.unsaid.push(entry.clone());
            }
            return;
        };
        let platform = Platform::of_descriptor(platform);
        if platform.os == "unknown" {
            // Where it was built, and of what: an attestation.
            return;
        }
        self.all.push(platform.to_string());
        if let Some(rank) = wanted.suits(&platform) {
            self.suiting.push((rank, entry.clone()));
        }
    }
}

impl Store {
    /// Reads a manifest, an index or a configuration from the store, or else into it.
    pub(super) async fn fetch_small(
        &self,
        source: &dyn ImageSource,
        descriptor: &Descriptor,
        hold: &Hold,
    ) -> Result<Vec<u8>, ImageError> {
        self.ingest(source, descriptor, MANIFEST_LIMIT, hold, &crate::progress::Silent).await?;
        let (store, descriptor) = (self.clone(), descriptor.clone());
        super::blocking(move || store.read_small(&descriptor)).await
    }
}
