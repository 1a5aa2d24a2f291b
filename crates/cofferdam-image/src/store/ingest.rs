//! One blob from a source into its place.
//!
//! The task reads from the source; a thread beside it hashes and writes. The lock on the partial file and the store's hold are
//! with the thread's part, so they are held until nothing is written or renamed any more, also when the task is dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::files::{make_directory, sync_folder_of};
use super::lock::{self, How, Pauses};
use super::{Hold, Store, blocking};
use crate::digest::{self, Hasher};
use crate::error::ImageError;
use crate::progress::Progress;
use crate::source::{BlobStream, ImageSource};

/// What is read, hashed and written at once, in bytes.
const CHUNK: usize = 256 << 10;
/// How many chunks wait for the thread that writes.
const CHUNKS_WAITING: usize = 4;
/// How many times a blob whose stream ends early is asked for again, from where it ended.
const RESUMES: usize = 5;

/// A blob under way, which this process has locked.
#[derive(Debug)]
struct Partial {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    /// The bytes that are written and hashed.
    length: u64,
    /// Nobody takes the file away meanwhile, also when whoever asked for it has gone.
    _hold: Hold,
}

impl Store {
    /// Fetches a blob where it is not there. Cancel safe: what has come stays, and the threads share the hold until they end.
    pub(super) async fn ingest(
        &self,
        source: &dyn ImageSource,
        descriptor: &Descriptor,
        limit: u64,
        hold: &Hold,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let (digest, size) = (descriptor.digest(), descriptor.size());
        if size > limit {
            return Err(ImageError::invalid(digest, format!("it has {size} bytes; the limit is {limit}")));
        }
        progress.total(digest, size);
        if let Some(mut partial) = self.claim(descriptor, hold).await? {
            loop {
                let was_resumed = partial.length > 0;
                partial = fill(source, descriptor, partial, progress).await?;
                let (store, wanted) = (self.clone(), digest.clone());
                match blocking(move || store.finish(&wanted, partial)).await? {
                    Finished::Whole => break,
                    // What lay there can have been damaged when the machine crashed: once more, from the beginning.
                    Finished::Wrong(wrong, _) if was_resumed => partial = wrong.restarted(descriptor)?,
                    Finished::Wrong(wrong, actual) => {
                        // It may be gone already.
                        let _ = std::fs::remove_file(&wrong.path);
                        return Err(ImageError::invalid(
                            digest,
                            format!("its content has the digest {actual}"),
                        ));
                    }
                }
            }
        }
        progress.advanced(digest, size);
        progress.done(digest);
        Ok(())
    }

    /// Locks the partial file of a blob, when nobody else has it. `None` when the blob is whole.
    async fn claim(&self, descriptor: &Descriptor, hold: &Hold) -> Result<Option<Partial>, ImageError> {
        let blob = self.blob(descriptor.digest())?;
        let path = self.partial().join(digest::partial_name(descriptor.digest()));
        let mut pauses = Pauses::default();
        loop {
            if is_whole(&blob, descriptor)? {
                return Ok(None);
            }
            let failed = ImageError::file(&path, "opened");
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(&path).map_err(&failed)?;
            if !lock::attempt(&file, How::Exclusive).map_err(&failed)? {
                drop(file);
                tokio::time::sleep(pauses.next()).await;
                continue;
            }
            // Whoever had the lock has given the file its place, or removed it.
            if !lock::is_at(&file, &path).map_err(&failed)? {
                continue;
            }
            if is_whole(&blob, descriptor)? {
                std::fs::remove_file(&path).map_err(failed)?;
                return Ok(None);
            }
            let (descriptor, path, hold) = (descriptor.clone(), path.clone(), hold.share()?);
            return blocking(move || Partial::resumed(file, path, &descriptor, hold)).await.map(Some);
        }
    }

    /// Verifies a blob that has all its bytes, and gives it its place.
    fn finish(&self, wanted: &Digest, partial: Partial) -> Result<Finished, ImageError> {
        if let Err(actual) = partial.hasher.clone().check(wanted) {
            return Ok(Finished::Wrong(partial, actual));
        }
        let blob = self.blob(wanted)?;
        self.make_folder_of(&blob)?;
        partial
            .file
            .sync_all()
            .and_then(|()| std::fs::rename(&partial.path, &blob))
            .and_then(|()| sync_folder_of(&blob))
            .map_err(ImageError::file(&blob, "written"))?;
        Ok(Finished::Whole)
    }

    /// Makes the folder of a blob: that of an algorithm which was not used before is not there yet.
    pub(super) fn make_folder_of(&self, blob: &Path) -> Result<(), ImageError> {
        match blob.parent() {
            Some(folder) if !folder.exists() => make_directory(folder)
                .and_then(|()| sync_folder_of(folder))
                .map_err(ImageError::file(folder, "made")),
            _ => Ok(()),
        }
    }
}

/// What became of a blob that has all its bytes.
enum Finished {
    Whole,
    /// They have this digest.
    Wrong(Partial, String),
}

/// Whether a blob is there; one that is has its digest.
fn is_whole(blob: &Path, descriptor: &Descriptor) -> Result<bool, ImageError> {
    match blob.symlink_metadata() {
        Ok(about) if about.len() == descriptor.size() => Ok(true),
        Ok(about) => {
            let why = format!(
                "it has {} bytes in the store, and is called one of {}",
                about.len(),
                descriptor.size()
            );
            Err(ImageError::invalid(descriptor.digest(), why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::file(blob, "read")(error)),
    }
}

/// Reads a blob to its end, asking for it again where the stream ends early.
async fn fill(
    source: &dyn ImageSource,
    descriptor: &Descriptor,
    mut partial: Partial,
    progress: &dyn Progress,
) -> Result<Partial, ImageError> {
    let digest = descriptor.digest();
    let mut resumes = 0;
    while partial.length < descriptor.size() {
        let stream = source.blob(descriptor, partial.length).await?;
        if stream.offset == 0 && partial.length > 0 {
            partial = partial.restarted(descriptor)?;
        } else if stream.offset != partial.length {
            let why = format!("it was to go on at {}, and goes on at {}", partial.length, stream.offset);
            return Err(ImageError::invalid(digest, why));
        }
        let before = partial.length;
        let (written, cut) = pump(stream, descriptor, partial, progress).await?;
        partial = written;
        if let Some(error) = cut {
            resumes += 1;
            if partial.length == before || resumes > RESUMES {
                return Err(ImageError::Transfer { digest: digest.to_string(), source: error });
            }
            tracing::debug!(%digest, %error, at = partial.length, "a blob's stream ended early; it is asked for again");
        }
    }
    Ok(partial)
}

/// Takes what a stream has, and no more than the descriptor says. With an error when it ended before that.
async fn pump(
    mut stream: BlobStream,
    descriptor: &Descriptor,
    mut partial: Partial,
    progress: &dyn Progress,
) -> Result<(Partial, Option<io::Error>), ImageError> {
    let mut at = partial.length;
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(CHUNKS_WAITING);
    let writer = blocking(move || {
        while let Some(chunk) = receiver.blocking_recv() {
            partial.append(&chunk)?;
        }
        Ok(partial)
    });
    let reader = async move {
        while at < descriptor.size() {
            let (chunk, cut) = read_chunk(&mut stream, descriptor.size() - at).await;
            at += chunk.len() as u64;
            if !chunk.is_empty() && sender.send(chunk).await.is_err() {
                // The thread tells why it could not write.
                return None;
            }
            progress.advanced(descriptor.digest(), at);
            if cut.is_some() {
                return cut;
            }
        }
        None
    };
    let (written, cut) = tokio::join!(writer, reader);
    Ok((written?, cut))
}

/// Reads a chunk, no longer than what is left; with an error when the stream ends in it.
async fn read_chunk(stream: &mut BlobStream, left: u64) -> (Vec<u8>, Option<io::Error>) {
    let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    let mut chunk = Vec::with_capacity(size);
    while chunk.len() < size {
        let room = (size - chunk.len()) as u64;
        match (&mut stream.bytes).take(room).read_buf(&mut chunk).await {
            Ok(0) => return (chunk, Some(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return (chunk, Some(error)),
        }
    }
    (chunk, None)
}

impl Partial {
    /// Goes on with what is there, which is hashed first.
    fn resumed(file: File, path: PathBuf, descriptor: &Descriptor, hold: Hold) -> Result<Self, ImageError> {
        let hasher = Hasher::of(descriptor.digest())?;
        let mut partial = Self { file, path, hasher, length: 0, _hold: hold };
        let failed = ImageError::file(&partial.path, "read");
        if partial.file.metadata().map_err(&failed)?.len() > descriptor.size() {
            return partial.restarted(descriptor);
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            match partial.file.read(&mut buffer).map_err(&failed)? {
                0 => return Ok(partial),
                count => {
                    partial.hasher.update(&buffer[..count]);
                    partial.length += count as u64;
                }
            }
        }
    }

    /// Begins anew.
    fn restarted(mut self, descriptor: &Descriptor) -> Result<Self, ImageError> {
        let failed = ImageError::file(&self.path, "written");
        self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(failed)?;
        self.hasher = Hasher::of(descriptor.digest())?;
        self.length = 0;
        Ok(self)
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        self.file.write_all(chunk).map_err(ImageError::file(&self.path, "written"))?;
        self.hasher.update(chunk);
        self.length += chunk.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;

    use super::*;

    #[tokio::test]
    async fn what_is_under_way_holds_the_store_by_itself() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        let digest = digest::sha256(b"content").unwrap();
        let descriptor = Descriptor::new(MediaType::ImageLayer, 7, digest.clone());
        let hold = store.hold().unwrap();
        let mut partial = store.claim(&descriptor, &hold).await.unwrap().unwrap();
        // The task is dropped; what its thread does goes on.
        drop(hold);
        let lock = lock::open(&store.lock_file()).unwrap();
        assert!(!lock::attempt(&lock, How::Exclusive).unwrap(), "nothing is removed meanwhile");
        partial.append(b"content").unwrap();
        assert!(matches!(store.finish(&digest, partial).unwrap(), Finished::Whole));
        assert!(lock::attempt(&lock, How::Exclusive).unwrap());
    }
}
