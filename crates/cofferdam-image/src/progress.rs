//! What whoever waits for an image is told meanwhile.

use oci_spec::image::Digest;

/// Hears how an image comes. It is called from the task that acquires or unpacks the image, never from two at once, and must
/// not block. For each blob comes [`total`](Self::total), then [`advanced`](Self::advanced) any number of times, then
/// [`done`](Self::done); for each layer that is unpacked then [`extracting`](Self::extracting) and
/// [`extracted`](Self::extracted), with the digest of its blob. An error ends it wherever it is.
pub trait Progress: Send + Sync {
    /// A blob of this many bytes belongs to the image.
    fn total(&self, blob: &Digest, bytes: u64);
    /// So many bytes of it are there; fewer than before when it had to begin again.
    fn advanced(&self, blob: &Digest, bytes: u64);
    /// It is whole, because it was there, or came, or another process has fetched it.
    fn done(&self, blob: &Digest);
    /// So many bytes of its `of` are unpacked.
    fn extracting(&self, blob: &Digest, bytes: u64, of: u64);
    /// It is unpacked, or was before.
    fn extracted(&self, blob: &Digest);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn total(&self, _: &Digest, _: u64) {}
    fn advanced(&self, _: &Digest, _: u64) {}
    fn done(&self, _: &Digest) {}
    fn extracting(&self, _: &Digest, _: u64, _: u64) {}
    fn extracted(&self, _: &Digest) {}
}
