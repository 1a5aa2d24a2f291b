//! What is in an image layout, be it a directory or an archive.

use std::path::Path;

use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex};

use super::{LocalImage, Place};
use crate::error::ImageError;
use crate::manifest::{self, INDEX_LIMIT};
use crate::store::files::read_bounded;

/// Reads the index of a directory.
pub(super) fn index_of_directory(root: &Path) -> Result<ImageIndex, ImageError> {
    let path = root.join("index.json");
    let bytes = read_bounded(&path, INDEX_LIMIT).map_err(ImageError::file(&path, "read"))?;
    manifest::parse(&path.display().to_string(), &bytes)
}

/// The images of an index, each with all its names, in their order.
pub(super) fn images(place: &Place, index: &ImageIndex) -> Vec<LocalImage> {
    let mut images: Vec<LocalImage> = Vec::new();
    for descriptor in index.manifests() {
        let name = name_of(descriptor).map(str::to_owned);
        match images.iter_mut().find(|image| image.root.digest() == descriptor.digest()) {
            Some(image) => image.names.extend(name),
            None => images.push(LocalImage {
                place: place.clone(),
                names: name.into_iter().collect(),
                root: descriptor.clone(),
            }),
        }
    }
    images
}

fn name_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(ANNOTATION_REF_NAME).map(String::as_str)
}
