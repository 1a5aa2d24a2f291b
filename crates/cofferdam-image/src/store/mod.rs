//! The store of images: an OCI image layout, with the layers of its images unpacked beside it.
//!
//! Invariant: what has its place in the store is whole and has the digest that its name says, whenever and however processes
//! that use it end. Nothing that is whole is fetched or unpacked a second time.
//!
//! ```text
//! oci-layout, index.json         the layout; umoci and skopeo read it
//! blobs/ALGORITHM/HEX            blobs, whole
//! layers/HEX/fs                  layers, unpacked; HEX is the beginning of the digest of the tar, which is in layers/HEX/digest
//! partial/                       what is under way, and what processes left that were killed
//! store.lock, index.lock         see `lock`
//! ```
//!
//! A blob: `partial` (locked by whoever fetches it, goes on where it ended) → verified → synced → renamed to its place.
//! A layer: `partial` (locked by whoever unpacks it, begun anew if that one dies) → verified → synced → renamed to its place.

mod acquire;
mod choose;
mod extract;
pub(crate) mod files;
mod image;
mod index;
mod ingest;
mod lock;
mod names;
mod put;
mod save;
mod sweep;
mod verify;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Digest;

pub use image::Image;
pub use names::Removed;
pub use put::{NewImage, WriteLayer};
pub use save::{ArchiveFormat, Saved};
pub use sweep::{Freed, InUse, Prune, Users};
pub use verify::{Broken, Verified};

use crate::digest;
use crate::error::ImageError;
use files::{keep_private, make_directory, read_bounded, write_whole};

/// What oci-layout has in it.
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// How much of a layer's digest names its folder, in hexadecimal digits: the names of all layers of an image must fit in the
/// options of a mount, which are limited to a page. The whole digest is in the folder.
const LAYER_NAME_LENGTH: usize = 32;

/// The store. Clones are the same store; processes share one.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<PathBuf>,
}

/// Keeps content in the store from being removed, as long as it lives. Held by whoever resolves an image into a container,
/// until that is written down as using it.
#[derive(Debug)]
pub struct Hold(File);

impl Hold {
    /// The same hold once more: it ends with the last of them.
    pub(crate) fn share(&self) -> Result<Self, ImageError> {
        self.0.try_clone().map(Self).map_err(ImageError::file(Path::new("store.lock"), "locked"))
    }
}

impl Store {
    /// Opens the store in a directory, and makes it where it is not there. Blocks.
    ///
    /// # Errors
    /// [`ImageError::File`]; [`ImageError::Invalid`] where the layout has a version that is not known.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let store =
            Self { root: Arc::new(std::path::absolute(root).map_err(ImageError::file(root, "opened"))?) };
        let folders = [store.root().join("blobs/sha256"), store.partial(), store.root().join("layers")];
        for folder in [store.root().to_owned()].iter().chain(&folders) {
            make_directory(folder).map_err(ImageError::file(folder, "made"))?;
        }
        // What is in layers belongs to other users, and may run as root: nobody else gets that far.
        for folder in [store.partial(), store.root().join("layers")] {
            keep_private(&folder).map_err(ImageError::file(&folder, "made private"))?;
        }
        // Whoever frees space takes what lies in `partial` for something that nobody writes any more.
        let _hold = store.hold()?;
        let path = store.root().join("oci-layout");
        if path.exists() {
            let text = read_bounded(&path, 4096).map_err(ImageError::file(&path, "read"))?;
            let layout: oci_spec::image::OciLayout = crate::manifest::parse("oci-layout", &text)?;
            if !layout.image_layout_version().starts_with("1.") {
                let why = format!("version {} of layouts is not known", layout.image_layout_version());
                return Err(ImageError::invalid(path.display(), why));
            }
        } else {
            write_whole(&store.partial(), &path, LAYOUT.as_bytes())
                .map_err(ImageError::file(&path, "written"))?;
        }
        if !store.index_file().exists() {
            store.change_index(|_| Ok(()))?;
        }
        Ok(store)
    }

    /// Keeps all content from being removed until the guard is dropped. Blocks while some is being removed, which takes some
    /// calls of the file system.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn hold(&self) -> Result<Hold, ImageError> {
        let path = self.lock_file();
        let file = lock::open(&path).map_err(ImageError::file(&path, "opened"))?;
        lock::within(&file, lock::How::Shared, lock::SHORT_LIMIT)
            .map_err(ImageError::file(&path, "locked"))?;
        Ok(Hold(file))
    }

    /// Like [`Store::hold`], for tasks. Cancel safe.
    pub(crate) async fn hold_soon(&self) -> Result<Hold, ImageError> {
        let path = self.lock_file();
        let file = lock::open(&path).map_err(ImageError::file(&path, "opened"))?;
        lock::wait(&file, lock::How::Shared).await.map_err(ImageError::file(&path, "locked"))?;
        Ok(Hold(file))
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn index_file(&self) -> PathBuf {
        self.root.join("index.json")
    }

    /// The file whose lock is what [`Store::hold`] holds (flock, shared): for whoever holds it by itself.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("store.lock")
    }

    /// The folder for what is under way.
    pub(crate) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// Where a blob has its place.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<PathBuf, ImageError> {
        Ok(self.root.join(digest::path_in_layout(digest)?))
    }

    /// Where a layer has its place when it is unpacked.
    fn layer(&self, digest: &Digest) -> Result<PathBuf, ImageError> {
        Ok(self.root.join("layers").join(layer_name(digest)?))
    }
}

/// The name of a layer's folder.
fn layer_name(digest: &Digest) -> Result<&str, ImageError> {
    digest
        .digest()
        .get(..LAYER_NAME_LENGTH)
        .ok_or_else(|| ImageError::invalid(digest, "a layer's digest is one of SHA-256 or SHA-512"))
}

/// Runs something that blocks, where that is no harm. A panic in it goes on in whoever waits for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(ImageError::invalid("a task of the store", error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_no_fault_of_an_image() {
        let task = tokio::spawn(blocking(|| -> Result<(), ImageError> { panic!("a mistake of ours") }));
        let panic = task.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a mistake of ours"));
    }
}
