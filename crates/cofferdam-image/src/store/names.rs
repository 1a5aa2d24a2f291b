//! Names of images, and the removal of images.

use oci_spec::image::{Descriptor, Digest};

use super::sweep::{Freed, Users};
use super::{Image, Store, blocking, index};
use crate::error::ImageError;

/// What became of an image that was to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names that it lost.
    pub untagged: Vec<String>,
    /// Its id, when it is not an image of the store any more.
    pub deleted: Option<Digest>,
    /// What was freed at once; `None` where others held the store, and the next [`Store::gc`] frees it. What containers use is
    /// freed by the first `gc` after they are gone.
    pub freed: Option<Freed>,
}

impl Store {
    /// Gives an image, found as [`Store::find`] does, one more name; another image that has it loses it. Blocks.
    ///
    /// # Errors
    /// Like [`Store::find`]; [`ImageError::File`].
    pub fn tag(&self, image: &str, name: &str) -> Result<Image, ImageError> {
        let _hold = self.hold()?;
        let image = self.find(image)?;
        self.enter_name(&self.manifest_of(&image)?, Some(name), image.root.as_ref())
    }

    /// Takes a name away. Its image stays, and is found by its id. Blocks.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::File`].
    pub fn untag(&self, name: &str) -> Result<(), ImageError> {
        let _hold = self.hold()?;
        if self.change_index(|index| Ok(index::take_name(index, name)))? {
            Ok(())
        } else {
            Err(ImageError::NotFound { reference: name.into(), place: "in the store".into() })
        }
    }

    /// Removes an image, found as [`Store::find`] does. By one of several names only that name goes. An image with several
    /// names goes by its id only with `force`, as does one that containers use: they keep its content, and it is freed after
    /// them.
    ///
    /// Cancel safe: the image is there as it was, or is none of the store's any more.
    ///
    /// # Errors
    /// Like [`Store::find`]; [`ImageError::InUse`], [`ImageError::File`], and those of [`Users`].
    pub async fn remove(&self, image: &str, force: bool, users: &dyn Users) -> Result<Removed, ImageError> {
        let (store, name) = (self.clone(), image.to_owned());
        let hold = self.hold_soon().await?;
        let image = blocking(move || store.find(&name).map(|image| (image, name))).await?;
        let (image, name) = image;
        if image.names.contains(&name) && image.names.len() > 1 {
            let store = self.clone();
            blocking(move || {
                store.untag(&name).map(|()| Removed { untagged: vec![name], ..Removed::default() })
            })
            .await
        } else {
            if !force {
                let by = |by: String| ImageError::InUse { image: name.clone(), by };
                if image.names.len() > 1 {
                    return Err(by(format!("it has the names {}", image.names.join(", "))));
                }
                if let Some(container) = users.in_use().await?.images.get(image.id.as_ref()) {
                    return Err(by(format!("the container {container} uses it")));
                }
            }
            let store = self.clone();
            let (id, manifest) = (image.id.clone(), image.manifest.clone());
            blocking(move || {
                let _hold = hold;
                store.change_index(|index| {
                    let of_image = |descriptor: &Descriptor| *descriptor.digest() == manifest;
                    let mut manifests = index.manifests().clone();
                    manifests.iter_mut().filter(|other| of_image(other)).for_each(index::mark_removed);
                    index.set_manifests(manifests);
                    Ok(())
                })
            })
            .await?;
            let freed = self.gc_soon(users).await?;
            Ok(Removed { untagged: image.names, deleted: Some(id), freed })
        }
    }
}
