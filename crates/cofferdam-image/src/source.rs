//! Where images come from: what a registry, a layout and an archive have in common.

use std::pin::Pin;

use async_trait::async_trait;
use oci_spec::image::Descriptor;
use tokio::io::AsyncRead;

use crate::error::ImageError;

/// The largest manifest, index or configuration that is read, in bytes; containerd's limit for manifests is the same.
pub const MANIFEST_LIMIT: u64 = 8 << 20;

/// A place that has an image.
#[async_trait]
pub trait ImageSource: Send + Sync + std::fmt::Debug {
    /// The manifest, or the index of manifests, that the image's name leads to, with its descriptor. The bytes are as long as
    /// the descriptor says and have its digest; a digest in the name is that one.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ImageError`].
    async fn root(&self) -> Result<(Descriptor, Vec<u8>), ImageError>;

    /// The content of a blob or manifest, from a byte on. It is not verified: whoever reads it does that, and takes no more of
    /// it than the descriptor says.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ImageError`].
    async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, ImageError>;
}

/// The content of a blob.
pub struct BlobStream {
    /// Where it begins: at the byte that was asked for, or at 0 where the source cannot begin in the middle.
    pub offset: u64,
    /// The bytes from there on.
    pub bytes: Pin<Box<dyn AsyncRead + Send>>,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream").field("offset", &self.offset).finish_non_exhaustive()
    }
}
