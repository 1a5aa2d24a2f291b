//! Images of the store in archives and directories, for other tools and other machines.
//!
//! What is written is verified on the way: an archive that is whole is right.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest, ImageIndex};
use serde_json::json;

use super::files::{open_regular, read_bounded, sync_folder_of, unique, write_whole};
use super::{Image, LAYOUT, Store, blocking, index};
use crate::decompress::{Compression, decompressed};
use crate::digest::{self, Hashed, Hasher};
use crate::error::ImageError;
use crate::manifest::{self, INDEX_LIMIT};

/// The kind of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An image layout in a tar: all digests stay as they are.
    Oci,
    /// As `docker save` writes it: the ids of images stay as they are, and layers are not compressed.
    Docker,
}

/// An image, and the names under which it is saved.
pub type Saved = (Image, Vec<String>);

impl Store {
    /// Writes images to an archive. The content of the store is held meanwhile.
    ///
    /// Cancel safe; the thread ends when the archive is written, or the writer fails.
    ///
    /// # Errors
    /// [`ImageError::File`]; [`ImageError::Invalid`] when a blob is damaged. What was written is no archive then.
    pub async fn save(
        &self,
        images: Vec<Saved>,
        format: ArchiveFormat,
        out: impl Write + Send + 'static,
    ) -> Result<(), ImageError> {
        let hold = self.hold_soon().await?;
        let store = self.clone();
        blocking(move || {
            let _hold = hold;
            let mut archive = Archive { tar: tar::Builder::new(out), members: HashSet::new() };
            match format {
                ArchiveFormat::Oci => store.save_oci(&images, &mut archive)?,
                ArchiveFormat::Docker => store.save_docker(&images, &mut archive)?,
            }
            archive.tar.into_inner().and_then(|mut out| out.flush()).map_err(archive_failed)
        })
        .await
    }

    /// Adds images to a layout in a directory, and makes it where it is not there. A name that is in it leads to the new image
    /// then.
    ///
    /// # Errors
    /// [`ImageError::File`], [`ImageError::Invalid`] when a blob is damaged.
    pub async fn save_directory(&self, images: Vec<Saved>, path: &Path) -> Result<(), ImageError> {
        let hold = self.hold_soon().await?;
        let (store, path) = (self.clone(), path.to_owned());
        blocking(move || {
            let _hold = hold;
            store.save_to(&images, &path)
        })
        .await
    }

    fn save_to(&self, images: &[Saved], path: &Path) -> Result<(), ImageError> {
        let failed = ImageError::file(path, "written");
        std::fs::create_dir_all(path.join("blobs")).map_err(&failed)?;
        for (image, _) in images {
            for blob in self.blobs_of(image)? {
                let place = path.join(digest::path_in_layout(blob.digest())?);
                if place.exists() {
                    continue;
                }
                std::fs::create_dir_all(place.parent().unwrap_or(path)).map_err(&failed)?;
                self.copy_blob(&blob, &place)?;
            }
        }
        let index_file = path.join("index.json");
        let mut index: ImageIndex = if index_file.exists() {
            let text =
                read_bounded(&index_file, INDEX_LIMIT).map_err(ImageError::file(&index_file, "read"))?;
            manifest::parse(&index_file.display().to_string(), &text)?
        } else {
            write_whole(path, &path.join("oci-layout"), LAYOUT.as_bytes()).map_err(&failed)?;
            index::empty()
        };
        let ours = self.descriptors(images)?;
        let is_replaced = |other: &Descriptor| {
            // What else another tool has written beside the name does not make two of it.
            let name = index::record(other).name;
            name.is_some() && ours.iter().any(|ours| index::record(ours).name == name)
        };
        let mut manifests: Vec<Descriptor> =
            index.manifests().iter().filter(|other| !is_replaced(other)).cloned().collect();
        manifests.extend(ours.iter().cloned());
        index.set_manifests(manifests);
        write_whole(path, &index_file, &to_json(&index)?).map_err(failed)
    }

    fn copy_blob(&self, blob: &Descriptor, place: &Path) -> Result<(), ImageError> {
        let temporary = place.with_file_name(unique(".blob"));
        let written = (|| {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&temporary)
                .map_err(ImageError::file(&temporary, "written"))?;
            self.verified_copy(blob, &mut file)?;
            file.sync_all()
                .and_then(|()| std::fs::rename(&temporary, place))
                .and_then(|()| sync_folder_of(place))
                .map_err(ImageError::file(place, "written"))
        })();
        if written.is_err() {
            // It may not have been made at all.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn verified_copy(&self, blob: &Descriptor, out: &mut impl Write) -> Result<(), ImageError> {
        let mut content = self.hashed(blob)?;
        let path = self.blob(blob.digest())?;
        io::copy(&mut content, out).map_err(ImageError::file(&path, "copied"))?;
        damaged(blob.digest(), content.hasher)
    }

    fn hashed(&self, blob: &Descriptor) -> Result<Hashed<std::fs::File>, ImageError> {
        let path = self.blob(blob.digest())?;
        let stream = open_regular(&path).map_err(ImageError::file(&path, "read"))?;
        Ok(Hashed { stream, hasher: Hasher::of(blob.digest())? })
    }

    /// All blobs of an image, the manifest first.
    fn blobs_of(&self, image: &Image) -> Result<Vec<Descriptor>, ImageError> {
        let mut blobs = vec![self.manifest_of(image)?, image.config_blob.clone()];
        blobs.extend(image.blobs.iter().cloned());
        Ok(blobs)
    }

    /// The descriptor of an image's manifest, without a name.
    pub(super) fn manifest_of(&self, image: &Image) -> Result<Descriptor, ImageError> {
        let path = self.blob(&image.manifest)?;
        let size = path.metadata().map_err(ImageError::file(&path, "read"))?.len();
        Ok(image.descriptor(size))
    }

    /// The descriptors of an index: one for each name.
    fn descriptors(&self, images: &[Saved]) -> Result<Vec<Descriptor>, ImageError> {
        let mut descriptors = Vec::new();
        for (image, names) in images {
            let plain = self.manifest_of(image)?;
            descriptors.extend(names.iter().map(|name| index::named(&plain, Some(name), None)));
            if names.is_empty() {
                descriptors.push(plain);
            }
        }
        Ok(descriptors)
    }

    fn save_oci(&self, images: &[Saved], archive: &mut Archive<impl Write>) -> Result<(), ImageError> {
        archive.bytes("oci-layout", LAYOUT.as_bytes())?;
        for (image, _) in images {
            for blob in self.blobs_of(image)? {
                let name = digest::path_in_layout(blob.digest())?;
                if archive.members.contains(&name) {
                    continue;
                }
                let mut content = self.hashed(&blob)?;
                archive.member(&name, blob.size(), &mut content)?;
                damaged(blob.digest(), content.hasher)?;
            }
        }
        let mut listing = index::empty();
        listing.set_manifests(self.descriptors(images)?);
        archive.bytes("index.json", &to_json(&listing)?)
    }

    fn save_docker(&self, images: &[Saved], archive: &mut Archive<impl Write>) -> Result<(), ImageError> {
        let mut listed = Vec::new();
        for (image, names) in images {
            let config = format!("{}.json", image.id.digest());
            if !archive.members.contains(&config) {
                archive.bytes(&config, &self.read_small(&image.config_blob)?)?;
            }
            let mut layers = Vec::new();
            for (layer, blob) in image.layers.iter().zip(&image.blobs) {
                let name = format!("{}.tar", layer.digest());
                if !archive.members.contains(&name) {
                    self.save_layer(&name, layer, blob, archive)?;
                }
                layers.push(name);
            }
            // One with a digest in it is no tag.
            let tags: Vec<&String> = names.iter().filter(|name| !name.contains('@')).collect();
            listed.push(json!({"Config": config, "RepoTags": tags, "Layers": layers}));
        }
        archive.bytes("manifest.json", &to_json(&listed)?)
    }

    /// Writes a layer that is not compressed. Its size comes before its content, so one that is compressed is read twice.
    fn save_layer(
        &self,
        name: &str,
        layer: &Digest,
        blob: &Descriptor,
        archive: &mut Archive<impl Write>,
    ) -> Result<(), ImageError> {
        let path = self.blob(blob.digest())?;
        let failed = ImageError::file(&path, "read");
        let open = || open_regular(&path).and_then(decompressed).map_err(&failed);
        let (compression, mut content) = open()?;
        let size = match compression {
            Compression::None => blob.size(),
            Compression::Gzip | Compression::Zstd => {
                io::copy(&mut content, &mut io::sink()).map_err(&failed)?
            }
        };
        let mut content = Hashed { stream: open()?.1, hasher: Hasher::of(layer)? };
        archive.member(name, size, &mut content)?;
        damaged(layer, content.hasher)
    }
}

/// An archive under way.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    members: HashSet<String>,
}

impl<W: Write> Archive<W> {
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.member(name, bytes.len() as u64, &mut io::Cursor::new(bytes))
    }

    fn member(&mut self, name: &str, size: u64, content: &mut impl Read) -> Result<(), ImageError> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        let mut content = Exactly { stream: content, left: size };
        self.tar.append_data(&mut header, name, &mut content).map_err(archive_failed)?;
        self.members.insert(name.to_owned());
        Ok(())
    }
}

/// A stream that has as many bytes as were told, or fails: a tar with another number of them is a damaged one.
struct Exactly<'a, R> {
    stream: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Exactly<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        if (count == 0 && self.left > 0 && !buffer.is_empty()) || count as u64 > self.left {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a blob of the store has another size than it should",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn archive_failed(source: io::Error) -> ImageError {
    ImageError::File { path: PathBuf::from("the archive"), what: "written", source }
}

fn damaged(digest: &Digest, hasher: Hasher) -> Result<(), ImageError> {
    hasher.check(digest).map_err(|actual| {
        ImageError::invalid(digest, format!("in the store its content has the digest {actual}"))
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| ImageError::invalid("JSON", error))
}
