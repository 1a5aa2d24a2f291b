//! Whether all of the store is whole.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;

use super::files::{names, open_regular, remove_tree};
use super::sweep::Needed;
use super::{Store, blocking, extract, index, layer_name};
use crate::digest::{Hashed, Hasher};
use crate::error::ImageError;
use crate::media::{self, Root};

/// What a look at everything has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs that have their digest.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Blobs, layers and partial content that no image needs: no fault, and what [`Store::gc`] would free.
    pub leftovers: u64,
    /// What is not as it should be.
    pub broken: Vec<Broken>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The blob, image or layer.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What is to be removed, so that it can be brought anew.
    pub path: Option<PathBuf>,
}

impl Broken {
    fn at(path: &Path, why: String) -> Self {
        Self { what: path.display().to_string(), why, path: Some(path.to_owned()) }
    }
}

impl Store {
    /// Reads every blob, and sees whether it has its digest, whether images have all their blobs, and whether the folders of
    /// layers are what they should be. The content of unpacked layers is not looked at: nothing tells any more what it was.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ImageError::File`] where something cannot be read at all.
    pub async fn verify(&self) -> Result<Verified, ImageError> {
        let hold = self.hold_soon().await?;
        let store = self.clone();
        blocking(move || {
            let _hold = hold;
            store.verified()
        })
        .await
    }

    /// Removes the blobs that do not have their digest, and the folders that are no layers, so that the next pull brings them
    /// anew. `verified` says which; what containers use of them they keep, as it is mounted. Blocks.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn remove_broken(&self, verified: &Verified) -> Result<(), ImageError> {
        for path in verified.broken.iter().filter_map(|broken| broken.path.as_deref()) {
            remove_tree(path).map_err(ImageError::file(path, "removed"))?;
        }
        Ok(())
    }

    fn verified(&self) -> Result<Verified, ImageError> {
        let mut verified = Verified::default();
        let needed = self.needed()?;
        let mut sound = HashSet::new();
        for path in self.blob_files()? {
            match check_blob(&path) {
                Ok(()) => {
                    verified.blobs += 1;
                    verified.leftovers += u64::from(!needed.blobs.contains(&path));
                    sound.insert(path);
                }
                Err(why) => verified.broken.push(Broken::at(&path, why)),
            }
        }
        for path in needed.blobs.difference(&sound).filter(|path| !path.exists()) {
            let why = "an image needs it, and it is not there".into();
            verified.broken.push(Broken { what: path.display().to_string(), why, path: None });
        }
        self.verify_images(&mut verified)?;
        self.verify_layers(&needed, &mut verified)?;
        verified.leftovers +=
            names(&self.partial()).map_err(ImageError::file(&self.partial(), "read"))?.len() as u64;
        Ok(verified)
    }

    /// Whether manifests and configurations can be read, and belong together.
    fn verify_images(&self, verified: &mut Verified) -> Result<(), ImageError> {
        for descriptor in self.index()?.manifests() {
            // Other tools may put other things into a layout.
            if media::root(descriptor.media_type()).is_ok_and(|root| root == Root::Manifest)
                && let Err(error) = self.image_of(&[descriptor])
            {
                let name = index::record(descriptor).name.unwrap_or("an image without a name");
                let what = format!("{name} ({})", descriptor.digest());
                verified.broken.push(Broken { what, why: chain(&error), path: None });
            }
        }
        Ok(())
    }

    fn verify_layers(&self, needed: &Needed, verified: &mut Verified) -> Result<(), ImageError> {
        let layers = self.root().join("layers");
        for name in names(&layers).map_err(ImageError::file(&layers, "read"))? {
            let path = layers.join(&name);
            let digest = extract::digest_of(&path).ok().and_then(|text| Digest::try_from(text).ok());
            let is_its = digest.as_ref().and_then(|digest| layer_name(digest).ok()) == name.to_str();
            if is_its && path.join("fs").is_dir() {
                verified.layers += 1;
                let is_needed = name.to_str().is_some_and(|name| needed.layers.contains(name));
                verified.leftovers += u64::from(!is_needed);
            } else {
                verified.broken.push(Broken::at(&path, "it is not a layer with its digest beside it".into()));
            }
        }
        Ok(())
    }
}

/// Whether a blob has the digest that its path names.
fn check_blob(path: &Path) -> Result<(), String> {
    let digest = Store::digest_at(path).ok_or("its name is no digest")?;
    let hasher = Hasher::of(&digest).map_err(|error| error.to_string())?;
    let stream = open_regular(path).map_err(|error| error.to_string())?;
    let mut content = Hashed { stream, hasher };
    io::copy(&mut content, &mut io::sink()).map_err(|error| error.to_string())?;
    content.hasher.check(&digest).map_err(|actual| format!("its content has the digest {actual}"))
}

/// An error with its causes, in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Verified {
    /// Whether nothing is broken.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.broken.is_empty()
    }
}
