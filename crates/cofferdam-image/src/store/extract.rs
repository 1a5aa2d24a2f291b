//! Layers from blobs to directories.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci_spec::image::{Descriptor, Digest};
use rustix::fs::OFlags;
use tokio::sync::watch;

use super::files::{names, open_regular, read_bounded, remove_tree, sync_folder_of};
use super::lock::{self, How, Pauses};
use super::{Hold, Image, Store, blocking, layer_name};
use crate::decompress::{bytes_limit, decompressed};
use crate::digest::{Hashed, Hasher};
use crate::error::{ImageError, disk_fault};
use crate::progress::Progress;
use crate::unpack::{UnpackError, UnpackLimits, unpack};

/// How many layers of an image are unpacked at once, at most: each takes a processor, and up to 128 MiB where it is compressed
/// with zstd.
const LAYERS_AT_ONCE: usize = 4;
/// After how many bytes of a blob its progress is told.
const REPORTED: u64 = 1 << 20;
/// The file beside a layer that has its whole digest.
const DIGEST_FILE: &str = "digest";

/// A layer that is to be unpacked, which this process has locked.
#[derive(Debug)]
struct Claim {
    /// Its folder in `partial`.
    path: PathBuf,
    folder: File,
}

/// What happens while a layer is unpacked.
#[derive(Debug)]
struct Watched<R> {
    stream: R,
    bytes: u64,
    reported: u64,
    report: watch::Sender<u64>,
    is_unwanted: Arc<AtomicBool>,
}

impl Store {
    /// Unpacks the layers of an image that are not unpacked yet, and tells the directories of all, the lowest first. A layer
    /// that is in it several times is only where it is highest, as that one decides, and overlayfs takes each once. What another
    /// process unpacks just now is waited for.
    ///
    /// Cancel safe: a thread that unpacks ends soon after, and removes what it has made.
    ///
    /// # Errors
    /// [`ImageError::Layer`], [`ImageError::Invalid`] when a layer has not the digest that the configuration says,
    /// [`ImageError::File`]. The other layers may be unpacked then.
    pub async fn layers(&self, image: &Image, progress: &dyn Progress) -> Result<Vec<PathBuf>, ImageError> {
        let hold = self.hold_soon().await?;
        let mut distinct: Vec<(&Digest, &Descriptor)> = Vec::with_capacity(image.layers.len());
        for layer in image.layers.iter().zip(&image.blobs).rev() {
            if !distinct.iter().any(|other| other.0 == layer.0) {
                distinct.push(layer);
            }
        }
        distinct.reverse();
        let work: Vec<_> =
            distinct.iter().map(|(layer, blob)| self.unpacked(layer, blob, &hold, progress)).collect();
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(LAYERS_AT_ONCE);
        let mut work = pin!(stream::iter(work).buffered(at_once));
        let mut paths = Vec::with_capacity(distinct.len());
        while let Some(path) = work.try_next().await? {
            paths.push(path);
        }
        Ok(paths)
    }

    /// Unpacks a layer where that was not done.
    async fn unpacked(
        &self,
        layer: &Digest,
        blob: &Descriptor,
        hold: &Hold,
        progress: &dyn Progress,
    ) -> Result<PathBuf, ImageError> {
        if let Some(claim) = self.claim_layer(layer).await? {
            progress.extracting(blob.digest(), 0, blob.size());
            let (report, mut reports) = watch::channel(0);
            let cancel = Cancel::default();
            let work = Work {
                store: self.clone(),
                layer: layer.clone(),
                blob: blob.clone(),
                claim,
                is_unwanted: cancel.0.clone(),
                _hold: hold.share()?,
            };
            let mut thread = pin!(blocking(move || work.done(report)));
            loop {
                tokio::select! {
                    done = &mut thread => break done?,
                    changed = reports.changed() => {
                        if changed.is_err() {
                            break thread.await?;
                        }
                        let bytes = *reports.borrow_and_update();
                        progress.extracting(blob.digest(), bytes, blob.size());
                    }
                }
            }
        }
        progress.extracted(blob.digest());
        Ok(self.layer(layer)?.join("fs"))
    }

    /// Locks the folder in which a layer is to be unpacked, when nobody else has it. `None` when it is unpacked.
    async fn claim_layer(&self, layer: &Digest) -> Result<Option<Claim>, ImageError> {
        let place = self.layer(layer)?;
        let path = self.partial().join(format!("layer-{}", layer_name(layer)?));
        let failed = ImageError::file(&path, "made");
        let mut pauses = Pauses::default();
        loop {
            if is_unpacked(&place, layer)? {
                return Ok(None);
            }
            let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
            let opened = make_or_keep(&path)
                .and_then(|()| std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path));
            let folder = match opened {
                // It was renamed or removed in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(&failed)?,
            };
            if !lock::attempt(&folder, How::Exclusive).map_err(&failed)? {
                drop(folder);
                tokio::time::sleep(pauses.next()).await;
                continue;
            }
            if !lock::is_at(&folder, &path).map_err(&failed)? {
                continue;
            }
            if is_unpacked(&place, layer)? {
                remove_tree(&path).map_err(failed)?;
                return Ok(None);
            }
            return Ok(Some(Claim { path, folder }));
        }
    }
}

/// Makes a directory; one that is there is kept.
fn make_or_keep(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Whether a layer is unpacked.
fn is_unpacked(place: &Path, layer: &Digest) -> Result<bool, ImageError> {
    match digest_of(place) {
        Ok(digest) if digest == layer.as_ref() => Ok(true),
        Ok(digest) => Err(ImageError::invalid(place.display(), format!("it is of {digest}, not of {layer}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::file(place, "read")(error)),
    }
}

/// The digest of the layer that is unpacked in a folder.
pub(super) fn digest_of(place: &Path) -> io::Result<String> {
    let text = read_bounded(&place.join(DIGEST_FILE), 256)?;
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Tells the thread that nobody waits for it any more.
#[derive(Debug, Default)]
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a thread needs to unpack a layer.
struct Work {
    store: Store,
    layer: Digest,
    blob: Descriptor,
    claim: Claim,
    is_unwanted: Arc<AtomicBool>,
    /// Nothing is removed meanwhile, also when whoever asked for it has gone.
    _hold: Hold,
}

impl Work {
    fn done(self, report: watch::Sender<u64>) -> Result<(), ImageError> {
        let done = self.unpack(report).and_then(|()| self.put_in_place());
        if done.is_err()
            && let Err(error) = remove_tree(&self.claim.path)
        {
            tracing::warn!(path = %self.claim.path.display(), %error, "what was unpacked of a layer is left to gc");
        }
        done
    }

    fn unpack(&self, report: watch::Sender<u64>) -> Result<(), ImageError> {
        let (path, failed) = (&self.claim.path, ImageError::file(&self.claim.path, "written"));
        for name in names(path).map_err(&failed)? {
            // Whoever unpacked it before was killed.
            remove_tree(&path.join(name)).map_err(&failed)?;
        }
        let target = path.join("fs");
        DirBuilder::new().mode(0o755).create(&target).map_err(&failed)?;
        let target = File::open(&target).map_err(&failed)?;
        let source = self.store.blob(self.blob.digest())?;
        let stream = Watched {
            stream: open_regular(&source).map_err(ImageError::file(&source, "read"))?,
            bytes: 0,
            reported: 0,
            report,
            is_unwanted: self.is_unwanted.clone(),
        };
        let failed = |source| self.failed(source);
        let (_, stream) = decompressed(stream).map_err(|error| failed(UnpackError::Read(error)))?;
        let mut stream = Hashed { stream, hasher: Hasher::of(&self.layer)? };
        let done = unpack(&mut stream, target.as_fd(), &limits(self.blob.size())).map_err(failed)?;
        tracing::debug!(layer = %self.layer, entries = done.entries, bytes = done.bytes, "unpacked");
        stream.hasher.check(&self.layer).map_err(|actual| {
            let why =
                format!("unpacked it has the digest {actual}, and the configuration says {}", self.layer);
            ImageError::invalid(format!("the layer {}", self.blob.digest()), why)
        })
    }

    /// Gives the layer its place when all of it is on the disk.
    fn put_in_place(&self) -> Result<(), ImageError> {
        let (path, place) = (&self.claim.path, self.store.layer(&self.layer)?);
        std::fs::write(path.join(DIGEST_FILE), self.layer.as_ref())
            // One call for all files of the layer, however many there are.
            .and_then(|()| rustix::fs::syncfs(&self.claim.folder).map_err(io::Error::from))
            .and_then(|()| std::fs::rename(path, &place))
            .and_then(|()| sync_folder_of(&place))
            .map_err(ImageError::file(&place, "written"))
    }

    /// A disk that is full, or no disk for layers, is not the layer's fault.
    fn failed(&self, error: UnpackError) -> ImageError {
        let inner = if let UnpackError::Entry { why, .. } = &error { why } else { &error };
        if matches!(inner, UnpackError::NoWhiteouts(_)) {
            return ImageError::Unsuited { path: self.store.root().to_owned(), source: error };
        }
        match disk_fault(&error) {
            Some(kind) => ImageError::file(&self.claim.path, "written")(kind.into()),
            None => ImageError::Layer { digest: self.blob.digest().to_string(), source: error },
        }
    }
}

/// What a layer may take, by the size of its blob.
fn limits(blob: u64) -> UnpackLimits {
    let most = UnpackLimits::default();
    UnpackLimits { bytes: bytes_limit(blob).min(most.bytes), ..most }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_unwanted.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let count = self.stream.read(buffer)?;
        self.bytes += count as u64;
        if self.bytes - self.reported >= REPORTED {
            self.reported = self.bytes;
            self.report.send_replace(self.bytes);
        }
        Ok(count)
    }
}
