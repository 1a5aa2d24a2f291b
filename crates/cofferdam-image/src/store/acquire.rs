//! An image from a source into the store.

use std::pin::pin;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci_spec::image::{Descriptor, Digest};

use super::choose::{Choice, Chosen};
use super::files::write_whole;
use super::{Hold, Image, Store, blocking, index};
use crate::digest;
use crate::error::ImageError;
use crate::manifest::LAYER_BYTES_LIMIT;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::source::{ImageSource, MANIFEST_LIMIT};

/// How many blobs of an image come at once: as many as Docker and containerd take, by which registries are made to last.
const BLOBS_AT_ONCE: usize = 4;

impl Store {
    /// Brings an image into the store, for one platform, and gives it a name; without one it has none, and is found by its id.
    /// What the store has of it is not fetched; what another process fetches just now is waited for.
    ///
    /// Cancel safe: what has come so far stays, and is gone on with by whoever asks for it next. The store is held until no
    /// thread writes any more.
    ///
    /// # Errors
    /// [`ImageError`]; the store's names are then as they were.
    pub async fn acquire(
        &self,
        source: &dyn ImageSource,
        name: Option<&str>,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let hold = self.hold_soon().await?;
        let (root, bytes) = source.root().await?;
        if bytes.len() as u64 > MANIFEST_LIMIT {
            let why = format!("it has {} bytes; the limit is {MANIFEST_LIMIT}", bytes.len());
            return Err(ImageError::invalid(format!("the manifest {}", root.digest()), why));
        }
        digest::check(&bytes, root.digest())?;
        let root_digest = root.digest().clone();
        let reference = name.unwrap_or("this image");
        let choice = Choice { store: self, source, hold: &hold, platform, reference };
        let chosen = Box::pin(choice.make(root, bytes)).await?;
        self.fetch_layers(source, chosen.parts.manifest.layers(), &hold, progress).await?;
        let (store, name) = (self.clone(), name.map(str::to_owned));
        blocking(move || {
            let _hold = hold;
            store.enter(&chosen, name.as_deref(), &root_digest)
        })
        .await
    }

    /// Fetches the layers that are not there, several at once. One that is there several times is fetched once.
    async fn fetch_layers(
        &self,
        source: &dyn ImageSource,
        layers: &[Descriptor],
        hold: &Hold,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let mut distinct: Vec<&Descriptor> = Vec::with_capacity(layers.len());
        for layer in layers {
            if !distinct.iter().any(|other| other.digest() == layer.digest()) {
                distinct.push(layer);
            }
        }
        let fetches: Vec<_> = distinct
            .into_iter()
            .map(|layer| self.ingest(source, layer, LAYER_BYTES_LIMIT, hold, progress))
            .collect();
        let mut fetches = pin!(stream::iter(fetches).buffer_unordered(BLOBS_AT_ONCE));
        while fetches.try_next().await?.is_some() {}
        Ok(())
    }

    /// Writes down an image whose blobs are all there.
    fn enter(&self, chosen: &Chosen, name: Option<&str>, root: &Digest) -> Result<Image, ImageError> {
        self.put_blob(&chosen.bytes, chosen.descriptor.digest())?;
        let mut plain = Descriptor::new(
            chosen.descriptor.media_type().clone(),
            chosen.bytes.len() as u64,
            chosen.descriptor.digest().clone(),
        );
        plain.set_platform(chosen.descriptor.platform().clone());
        self.enter_name(&plain, name, Some(root))
    }

    /// Puts a manifest whose blobs are all there into the index, and reads its image.
    pub(super) fn enter_name(
        &self,
        plain: &Descriptor,
        name: Option<&str>,
        root: Option<&Digest>,
    ) -> Result<Image, ImageError> {
        let entered = self.change_index(|index| {
            index::give_name(index, plain, name, root.map(AsRef::as_ref));
            let same = |other: &&Descriptor| other.digest() == plain.digest();
            Ok(index.manifests().iter().filter(same).cloned().collect::<Vec<_>>())
        })?;
        self.image_of(&entered.iter().collect::<Vec<_>>())
    }

    /// Puts bytes whose digest was made of them, or was checked, into their place. Blocks.
    pub(super) fn put_blob(&self, bytes: &[u8], digest: &Digest) -> Result<(), ImageError> {
        let path = self.blob(digest)?;
        if path.exists() {
            return Ok(());
        }
        self.make_folder_of(&path)?;
        write_whole(&self.partial(), &path, bytes).map_err(ImageError::file(&path, "written"))
    }
}
