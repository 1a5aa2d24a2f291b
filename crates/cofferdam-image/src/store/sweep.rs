//! What nobody needs any more, and its removal.
//!
//! All of it happens under the exclusive lock: whoever brings or uses content holds the shared one. Who uses images is asked
//! when the lock is held, so nobody can begin to between the question and the removal. What takes long, the trees of layers, is
//! only renamed under the lock, and removed after it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use oci_spec::image::{Descriptor, Digest};

use super::files::{names, remove_tree, size_of, unique};
use super::lock::{self, How};
use super::{Store, blocking, index, layer_name};
use crate::error::ImageError;
use crate::manifest;
use crate::media::{self, Root};

/// How deep indexes in the index are followed; other tools may have put them there.
const INDEX_DEPTH: usize = 4;
/// How long those who only tidy up wait for those who use the store; after that the next `gc` frees what is left.
const SOON: Duration = Duration::from_secs(1);

/// What containers use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// The ids of images, each with the name of a container that uses it.
    pub images: BTreeMap<String, String>,
    /// The directories of layers, as [`Store::layers`] told them.
    pub layers: BTreeSet<PathBuf>,
}

/// Knows what containers use.
#[async_trait]
pub trait Users: Send + Sync {
    /// What is used now. It is asked while nobody can hold the store, so it must not ask for a hold.
    ///
    /// # Errors
    /// Any; nothing is removed then.
    async fn in_use(&self) -> Result<InUse, ImageError>;
}

#[async_trait]
impl Users for InUse {
    async fn in_use(&self) -> Result<InUse, ImageError> {
        Ok(self.clone())
    }
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// The ids of images.
    pub images: Vec<String>,
    /// How many blobs.
    pub blobs: u64,
    /// How many unpacked layers.
    pub layers: u64,
    /// How many things that were under way when a process ended.
    pub partials: u64,
    /// What all of it took of the disk, in bytes.
    pub bytes: u64,
}

/// What is done about images that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Those without a name are removed.
    Untagged,
    /// All are removed.
    Unused,
}

/// Content that is needed.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) blobs: HashSet<PathBuf>,
    /// The names of layers' folders.
    pub(super) layers: HashSet<String>,
    /// The indexes and manifests that were followed, each with how deep. It is not `blobs`: a hostile manifest may name another
    /// one as its layer, and that one must be followed all the same.
    followed: HashMap<PathBuf, usize>,
}

/// Paths of content that is not needed.
#[derive(Debug, Default)]
struct Unneeded {
    blobs: Vec<PathBuf>,
    layers: Vec<PathBuf>,
    partials: Vec<PathBuf>,
}

impl Store {
    /// What [`Store::gc_soon`] would remove, but for images that wait for their containers' end. `None` when somebody holds the
    /// store for long. Cancel safe.
    ///
    /// # Errors
    /// Like [`Store::gc`].
    pub async fn unneeded(&self, users: &dyn Users) -> Result<Option<Freed>, ImageError> {
        let Ok(lock) = tokio::time::timeout(SOON, self.locked()).await else { return Ok(None) };
        let (lock, in_use, store) = (lock?, users.in_use().await?, self.clone());
        blocking(move || {
            let Unneeded { blobs, layers, partials } = store.unneeded_but(&in_use)?;
            drop(lock);
            Ok(Some(Freed {
                images: vec![],
                blobs: blobs.len() as u64,
                layers: layers.len() as u64,
                partials: partials.len() as u64,
                bytes: [blobs, layers, partials].iter().flatten().map(|path| size_of(path)).sum(),
            }))
        })
        .await
    }

    /// Removes blobs, layers and partial content that no image and no container needs. Waits for those who hold the store.
    /// Cancel safe: nothing is removed while it waits, and what has begun is ended.
    ///
    /// # Errors
    /// [`ImageError`]; of [`Users`] too.
    pub async fn gc(&self, users: &dyn Users) -> Result<Freed, ImageError> {
        self.swept(users, |_| false).await
    }

    /// Removes images that no container uses, and then what [`Store::gc`] removes.
    ///
    /// # Errors
    /// Like [`Store::gc`].
    pub async fn prune(&self, users: &dyn Users, which: Prune) -> Result<Freed, ImageError> {
        self.swept(users, move |descriptor| match which {
            Prune::Untagged => index::record(descriptor).name.is_none(),
            Prune::Unused => true,
        })
        .await
    }

    async fn swept(
        &self,
        users: &dyn Users,
        is_unwanted: impl Fn(&Descriptor) -> bool + Send + 'static,
    ) -> Result<Freed, ImageError> {
        let lock = self.locked().await?;
        self.swept_under(lock, users, is_unwanted).await
    }

    /// The exclusive lock, waited for. Cancel safe.
    async fn locked(&self) -> Result<File, ImageError> {
        let path = self.lock_file();
        let file = lock::open(&path).map_err(ImageError::file(&path, "opened"))?;
        lock::wait(&file, How::Exclusive).await.map_err(ImageError::file(&path, "locked"))?;
        Ok(file)
    }

    async fn swept_under(
        &self,
        lock: File,
        users: &dyn Users,
        is_unwanted: impl Fn(&Descriptor) -> bool + Send + 'static,
    ) -> Result<Freed, ImageError> {
        let in_use = users.in_use().await?;
        let store = self.clone();
        blocking(move || store.sweep(lock, &in_use, is_unwanted)).await
    }

    /// Like [`Store::gc`], but only if nobody holds the store for long; `None` then. The removal itself takes as long as it
    /// takes.
    ///
    /// # Errors
    /// Like [`Store::gc`].
    pub async fn gc_soon(&self, users: &dyn Users) -> Result<Option<Freed>, ImageError> {
        match tokio::time::timeout(SOON, self.locked()).await {
            Ok(lock) => self.swept_under(lock?, users, |_| false).await.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Removes what is not needed, with the exclusive lock in hand.
    fn sweep(
        &self,
        lock: File,
        in_use: &InUse,
        is_unwanted: impl Fn(&Descriptor) -> bool,
    ) -> Result<Freed, ImageError> {
        let mut freed = Freed { images: self.forget(in_use, is_unwanted)?, ..Freed::default() };
        let Unneeded { blobs, layers, partials } = self.unneeded_but(in_use)?;
        (freed.layers, freed.partials) = (layers.len() as u64, partials.len() as u64);
        for path in blobs {
            freed.bytes += size_of(&path);
            remove_tree(&path).map_err(ImageError::file(&path, "removed"))?;
            freed.blobs += 1;
        }
        let mut doomed = Vec::new();
        for path in layers.iter().chain(&partials) {
            // A name of its own, so that nobody goes on with it after the lock is given back.
            let grave = self.partial().join(unique("removed"));
            std::fs::rename(path, &grave).map_err(ImageError::file(path, "removed"))?;
            doomed.push(grave);
        }
        drop(lock);
        for grave in doomed {
            freed.bytes += size_of(&grave);
            remove_tree(&grave).map_err(ImageError::file(&grave, "removed"))?;
        }
        Ok(freed)
    }

    /// Takes images out of the index that are removed or not wanted, and that no container uses; gives their ids.
    fn forget(
        &self,
        in_use: &InUse,
        is_unwanted: impl Fn(&Descriptor) -> bool,
    ) -> Result<Vec<String>, ImageError> {
        self.change_index(|index| {
            let (mut kept, mut gone) = (Vec::new(), BTreeSet::new());
            for descriptor in index.manifests() {
                if !index::record(descriptor).is_removed && !is_unwanted(descriptor) {
                    kept.push(descriptor.clone());
                    continue;
                }
                // One that cannot be read is of no use to anybody.
                let id = self.image_of(&[descriptor]).ok().map(|image| image.id.to_string());
                if id.as_ref().is_some_and(|id| in_use.images.contains_key(id)) {
                    kept.push(descriptor.clone());
                } else {
                    gone.insert(id.unwrap_or_else(|| descriptor.digest().to_string()));
                }
            }
            index.set_manifests(kept);
            Ok(gone.into_iter().collect())
        })
    }

    /// All content that the index leads to.
    pub(super) fn needed(&self) -> Result<Needed, ImageError> {
        let mut needed = Needed::default();
        for descriptor in self.index()?.manifests() {
            self.need(descriptor, INDEX_DEPTH, &mut needed)?;
        }
        Ok(needed)
    }

    fn need(&self, descriptor: &Descriptor, depth: usize, needed: &mut Needed) -> Result<(), ImageError> {
        let Ok(path) = self.blob(descriptor.digest()) else { return Ok(()) };
        needed.blobs.insert(path.clone());
        if needed.followed.get(&path).copied().unwrap_or(0) >= depth {
            return Ok(());
        }
        let Some(bytes) = self.read_if_sound(descriptor)? else { return Ok(()) };
        match media::root(descriptor.media_type()) {
            Ok(Root::Index) => {
                let Ok(index) = manifest::index(descriptor.digest(), descriptor.media_type(), &bytes) else {
                    return Ok(());
                };
                needed.followed.insert(path, depth);
                for entry in index.manifests() {
                    self.need(entry, depth - 1, needed)?;
                }
            }
            Ok(Root::Manifest) => {
                let Ok(manifest) = manifest::manifest(descriptor.digest(), descriptor.media_type(), &bytes)
                else {
                    return Ok(());
                };
                needed.followed.insert(path, depth);
                let blobs = std::iter::once(manifest.config()).chain(manifest.layers());
                needed.blobs.extend(blobs.filter_map(|blob| self.blob(blob.digest()).ok()));
                if let Some(config) = self.read_if_sound(manifest.config())?
                    && let Ok((_, layers)) = manifest::configuration(manifest.config(), &config)
                {
                    needed
                        .layers
                        .extend(layers.iter().filter_map(|layer| layer_name(layer).ok()).map(str::to_owned));
                }
            }
            // Another tool's artifact: it is kept, and leads to nothing that is known.
            Err(_) => {}
        }
        Ok(())
    }

    /// Reads a small blob; `None` when it is damaged or not there. A disk that cannot be read is an error: what it has must not
    /// be taken for something that nobody needs.
    fn read_if_sound(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        match self.read_small(descriptor) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ImageError::File { source, path, what })
                if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) =>
            {
                Err(ImageError::File { source, path, what })
            }
            Err(_) => Ok(None),
        }
    }

    /// What neither an image nor a container needs.
    fn unneeded_but(&self, in_use: &InUse) -> Result<Unneeded, ImageError> {
        let (needed, mut unneeded) = (self.needed()?, Unneeded::default());
        unneeded.blobs = self.blob_files()?;
        unneeded.blobs.retain(|path| !needed.blobs.contains(path));
        let layers = self.root().join("layers");
        for name in names(&layers).map_err(ImageError::file(&layers, "read"))? {
            let path = layers.join(&name);
            let is_needed = name.to_str().is_some_and(|name| needed.layers.contains(name));
            if !is_needed && !in_use.layers.contains(&path.join("fs")) {
                unneeded.layers.push(path);
            }
        }
        let partial = self.partial();
        let names = names(&partial).map_err(ImageError::file(&partial, "read"))?;
        unneeded.partials = names.into_iter().map(|name| partial.join(name)).collect();
        Ok(unneeded)
    }

    /// All that lies where blobs have their places.
    pub(super) fn blob_files(&self) -> Result<Vec<PathBuf>, ImageError> {
        let mut files = Vec::new();
        let blobs = self.root().join("blobs");
        for algorithm in names(&blobs).map_err(ImageError::file(&blobs, "read"))? {
            // Others are not ours.
            if matches!(algorithm.as_bytes(), b"sha256" | b"sha512") {
                let folder = blobs.join(algorithm);
                let found = names(&folder).map_err(ImageError::file(&folder, "read"))?;
                files.extend(found.into_iter().map(|name| folder.join(name)));
            }
        }
        Ok(files)
    }

    /// The digest that a blob's path names.
    pub(super) fn digest_at(path: &std::path::Path) -> Option<Digest> {
        let name = path.file_name()?.to_str()?;
        let algorithm = path.parent()?.file_name()?.to_str()?;
        Digest::try_from(format!("{algorithm}:{name}")).ok()
    }
}
