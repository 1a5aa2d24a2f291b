//! An image layout in a directory: `oci:DIR`.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, Digest, DigestAlgorithm, ImageIndex};
use tokio::io::AsyncSeekExt;

use crate::error::ImageError;
use crate::manifest;
use crate::source::{BlobStream, ImageSource, MANIFEST_LIMIT};
use crate::store::blocking;
use crate::store::files::{open_regular, read_bounded};

/// The largest index.json of a layout, in bytes.
pub(super) const INDEX_LIMIT: u64 = 64 << 20;

/// An image of a layout in a directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    descriptor: Descriptor,
}

impl Layout {
    /// Opens the image of a layout that a tag or a digest names, or the only one. Blocks.
    ///
    /// # Errors
    /// [`ImageError::File`] when there is no layout, [`ImageError::NotFound`], [`ImageError::Invalid`].
    pub fn open(root: &Path, which: Option<&str>) -> Result<Self, ImageError> {
        let index = Self::index(root)?;
        let descriptor = pick(&root.display().to_string(), &index, which)?;
        Ok(Self { root: root.to_owned(), descriptor })
    }

    /// The names of the images in a layout, and the digests of those without one: each can be given to [`Layout::open`].
    /// Blocks.
    ///
    /// # Errors
    /// [`ImageError::File`] when there is no layout, [`ImageError::Invalid`].
    pub fn images(root: &Path) -> Result<Vec<String>, ImageError> {
        Ok(listed(&Self::index(root)?))
    }

    fn index(root: &Path) -> Result<ImageIndex, ImageError> {
        let path = root.join("index.json");
        let bytes = read_bounded(&path, INDEX_LIMIT).map_err(ImageError::file(&path, "read"))?;
        manifest::parse(&path.display().to_string(), &bytes)
    }

    fn blob_path(&self, digest: &Digest) -> Result<PathBuf, ImageError> {
        Ok(self.root.join(blob_name(digest)?))
    }
}

/// What a blob is called in a layout.
pub(super) fn blob_name(digest: &Digest) -> Result<String, ImageError> {
    match digest.algorithm() {
        DigestAlgorithm::Sha256 | DigestAlgorithm::Sha512 => {
            Ok(format!("blobs/{}/{}", digest.algorithm(), digest.digest()))
        }
        other => Err(ImageError::invalid(digest, format!("digests of {other} are not verified here"))),
    }
}

pub(super) fn name_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(ANNOTATION_REF_NAME).map(String::as_str)
}

pub(super) fn listed(index: &ImageIndex) -> Vec<String> {
    let called = |descriptor: &Descriptor| match name_of(descriptor) {
        Some(name) => name.to_owned(),
        None => format!("@{}", descriptor.digest()),
    };
    let mut names: Vec<String> = index.manifests().iter().map(called).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Finds the descriptor that is named, by a tag or by `@` and a digest, or is the only one.
pub(super) fn pick(place: &str, index: &ImageIndex, which: Option<&str>) -> Result<Descriptor, ImageError> {
    let manifests = index.manifests();
    let mut fitting = manifests.iter().filter(|descriptor| match which {
        None => true,
        Some(which) => {
            name_of(descriptor) == Some(which)
                || which.strip_prefix('@') == Some(descriptor.digest().as_ref())
        }
    });
    let first = fitting.next().ok_or_else(|| ImageError::NotFound {
        reference: which.unwrap_or("at all").into(),
        place: format!("in {place}; it has {}", listed(index).join(", ")),
    })?;
    if fitting.any(|other| other.digest() != first.digest()) {
        let why = format!("there are several images: name one of {}", listed(index).join(", "));
        return Err(ImageError::BadReference { reference: place.into(), why });
    }
    Ok(first.clone())
}

#[async_trait]
impl ImageSource for Layout {
    async fn root(&self) -> Result<(Descriptor, Vec<u8>), ImageError> {
        let path = self.blob_path(self.descriptor.digest())?;
        let bytes =
            blocking(move || read_bounded(&path, MANIFEST_LIMIT).map_err(ImageError::file(&path, "read")))
                .await?;
        if bytes.len() as u64 != self.descriptor.size() {
            let why = format!("it has {} bytes, and not {}", bytes.len(), self.descriptor.size());
            return Err(ImageError::invalid(format!("the manifest {}", self.descriptor.digest()), why));
        }
        crate::digest::check(&bytes, self.descriptor.digest())?;
        Ok((self.descriptor.clone(), bytes))
    }

    async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, ImageError> {
        let path = self.blob_path(descriptor.digest())?;
        let failed = ImageError::file(&path, "read");
        let mut file = tokio::fs::File::from_std(open_regular(&path).map_err(&failed)?);
        file.seek(SeekFrom::Start(offset)).await.map_err(&failed)?;
        Ok(BlobStream { offset, bytes: Box::pin(file) })
    }
}
