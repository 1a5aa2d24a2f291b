//! Images in directories and archives: `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`.
//!
//! Invariant: of an archive nothing is extracted by its name. Its members are looked up by name and read where they lie; one
//! that is compressed as a whole is first written, uncompressed, to a file that has no name.

mod archive;
mod docker;
mod layout;

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::image::{Descriptor, ImageIndex};

use crate::digest;
use crate::error::ImageError;
use crate::manifest;
use crate::reference::reference;
use crate::source::{BlobStream, ImageSource, MANIFEST_LIMIT};
use crate::store::files::open_regular;
use crate::store::{Store, blocking};
use archive::Archive;

/// A directory or an archive, and which of its images is meant: `oci:DIR:TAG`, `oci:DIR@sha256:...`,
/// `oci-archive:FILE:TAG`, `docker-archive:FILE:NAME`. Without a name it is the only one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReference {
    kind: Kind,
    path: PathBuf,
    which: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Layout,
    LayoutArchive,
    DockerArchive,
}

/// An image in a directory or an archive.
#[derive(Debug, Clone)]
pub struct LocalImage {
    place: Place,
    names: Vec<String>,
    root: Descriptor,
}

/// Where an image's blobs are.
#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    Archive(Arc<Archive>),
    Docker(Arc<docker::Blobs>),
}

impl LocalReference {
    /// Reads a reference; `None` when it is none to a directory or an archive.
    ///
    /// # Errors
    /// [`ImageError::BadReference`] when it names no path.
    pub fn parse(text: &str) -> Result<Option<Self>, ImageError> {
        let Some((transport, rest)) = text.split_once(':') else { return Ok(None) };
        let kind = match transport {
            "oci" => Kind::Layout,
            "oci-archive" => Kind::LayoutArchive,
            "docker-archive" => Kind::DockerArchive,
            _ => return Ok(None),
        };
        let (path, which) = match (rest.find(':'), rest.find("@sha256:").or_else(|| rest.find("@sha512:"))) {
            (colon, Some(at)) if colon.is_none_or(|colon| at < colon) => (&rest[..at], Some(&rest[at..])),
            (Some(colon), _) => (&rest[..colon], Some(&rest[colon + 1..])),
            (None, _) => (rest, None),
        };
        if path.is_empty() {
            let why = format!(
                "after {transport}: comes a path, and after it, where there are several images, : and a name"
            );
            return Err(ImageError::BadReference { reference: text.into(), why });
        }
        let which = match which.filter(|which| !which.is_empty()) {
            // Names in them are those of registries.
            Some(name) if kind == Kind::DockerArchive && !name.starts_with('@') => {
                Some(reference(name)?.whole())
            }
            which => which.map(str::to_owned),
        };
        Ok(Some(Self { kind, path: path.into(), which }))
    }

    /// Finds the image that is meant. Blocks; an archive that is compressed is written to the store's disk, uncompressed, as
    /// long as the image is used.
    ///
    /// # Errors
    /// [`ImageError::File`], [`ImageError::NotFound`], [`ImageError::BadReference`] when there are several and none is named,
    /// [`ImageError::Invalid`].
    pub fn open(&self, store: &Store) -> Result<LocalImage, ImageError> {
        let images = match self.kind {
            Kind::Layout => of_directory(&self.path)?,
            Kind::LayoutArchive => of_layout(Arc::new(Archive::open(&self.path, store)?))?,
            Kind::DockerArchive => docker::images(Arc::new(Archive::open(&self.path, store)?))?,
        };
        pick(&self.path, images, self.which.as_deref())
    }
}

impl fmt::Display for LocalReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.kind {
            Kind::Layout => "oci",
            Kind::LayoutArchive => "oci-archive",
            Kind::DockerArchive => "docker-archive",
        };
        write!(f, "{transport}:{}", self.path.display())?;
        match &self.which {
            Some(digest) if digest.starts_with('@') => f.write_str(digest),
            which => which.iter().try_for_each(|name| write!(f, ":{name}")),
        }
    }
}

/// All images of a directory with a layout, or of an archive of either kind. Blocks, like [`LocalReference::open`]. What
/// is no regular file, such as a pipe, is read to its end.
///
/// # Errors
/// [`ImageError::File`], [`ImageError::Invalid`].
pub fn images(path: &Path, store: &Store) -> Result<Vec<LocalImage>, ImageError> {
    if path.is_dir() {
        return of_directory(path);
    }
    let archive = Arc::new(Archive::open(path, store)?);
    if archive.has(docker::MANIFEST) { docker::images(archive) } else { of_layout(archive) }
}

fn of_directory(path: &Path) -> Result<Vec<LocalImage>, ImageError> {
    let index = layout::index_of_directory(path)?;
    Ok(layout::images(&Place::Directory(path.to_owned()), &index))
}

fn of_layout(archive: Arc<Archive>) -> Result<Vec<LocalImage>, ImageError> {
    let bytes = archive.small("index.json", manifest::INDEX_LIMIT)?;
    let index: ImageIndex = manifest::parse(&format!("index.json in {}", archive.place()), &bytes)?;
    Ok(layout::images(&Place::Archive(archive), &index))
}

/// Finds the image with a name or, with `@`, a digest; or the only one.
fn pick(path: &Path, images: Vec<LocalImage>, which: Option<&str>) -> Result<LocalImage, ImageError> {
    let called: Vec<String> = images.iter().flat_map(LocalImage::called).collect();
    let mut fitting = images.into_iter().filter(|image| which.is_none_or(|which| image.is_called(which)));
    let Some(first) = fitting.next() else {
        return Err(ImageError::NotFound {
            reference: which.unwrap_or("at all").into(),
            place: format!("in {}; it has {}", path.display(), called.join(", ")),
        });
    };
    if fitting.any(|other| other.root.digest() != first.root.digest()) {
        let why = format!("it has several images; name one of {}", called.join(", "));
        return Err(ImageError::BadReference { reference: path.display().to_string(), why });
    }
    Ok(first)
}

impl LocalImage {
    /// Its names there: tags of a layout, and what Docker calls it in an archive of Docker's. There may be none.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What can be put behind the path to mean it.
    fn called(&self) -> Vec<String> {
        if self.names.is_empty() { vec![format!("@{}", self.root.digest())] } else { self.names.clone() }
    }

    fn is_called(&self, which: &str) -> bool {
        let short = |name: &str| {
            let name = name.strip_prefix("docker.io/").unwrap_or(name);
            name.strip_prefix("library/").unwrap_or(name).to_owned()
        };
        let latest = format!("{which}:latest");
        which.strip_prefix('@') == Some(self.root.digest().as_ref())
            || self.names.iter().any(|name| name == which)
            || self.names.iter().any(|name| short(name) == short(which) || short(name) == short(&latest))
    }
}

#[async_trait]
impl ImageSource for LocalImage {
    async fn root(&self) -> Result<(Descriptor, Vec<u8>), ImageError> {
        let (place, root) = (self.place.clone(), self.root.clone());
        blocking(move || {
            let what = || format!("the manifest {}", root.digest());
            if root.size() > MANIFEST_LIMIT {
                let why = format!("it has {} bytes; the limit is {MANIFEST_LIMIT}", root.size());
                return Err(ImageError::invalid(what(), why));
            }
            let mut bytes = Vec::new();
            let (name, content) = place.open(&root, 0)?;
            content.take(root.size() + 1).read_to_end(&mut bytes).map_err(ImageError::file(&name, "read"))?;
            if bytes.len() as u64 != root.size() {
                return Err(ImageError::invalid(
                    what(),
                    format!("it has not the {} bytes it should have", root.size()),
                ));
            }
            digest::check(&bytes, root.digest())?;
            Ok((root, bytes))
        })
        .await
    }

    async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, ImageError> {
        use tokio::io::AsyncReadExt;
        match self.place.open(descriptor, offset)?.1 {
            Content::Bytes(bytes) => Ok(BlobStream { offset, bytes: Box::pin(bytes) }),
            Content::File(file, left) => {
                let file = tokio::fs::File::from_std(file);
                Ok(BlobStream { offset, bytes: Box::pin(file.take(left)) })
            }
        }
    }
}

/// The content of a blob, from an offset on.
enum Content {
    Bytes(io::Cursor<Vec<u8>>),
    /// A file that stands where the content begins, and how many bytes it has.
    File(std::fs::File, u64),
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => bytes.read(buffer),
            Self::File(file, left) => {
                let count = file.take(*left).read(buffer)?;
                *left -= count as u64;
                Ok(count)
            }
        }
    }
}

impl Place {
    /// Opens a blob, from an offset on, and tells where it is.
    fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<(PathBuf, Content), ImageError> {
        match self {
            Self::Directory(root) => {
                let path = root.join(digest::path_in_layout(descriptor.digest())?);
                let failed = ImageError::file(&path, "read");
                let mut file = open_regular(&path).map_err(&failed)?;
                file.seek(SeekFrom::Start(offset)).map_err(&failed)?;
                Ok((path, Content::File(file, u64::MAX)))
            }
            Self::Archive(archive) => {
                let name = digest::path_in_layout(descriptor.digest())?;
                Ok((archive.path().to_owned(), archive.content(&name, offset)?))
            }
            Self::Docker(blobs) => blobs.content(descriptor, offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_directories_and_archives_are_those_of_skopeo() {
        let parse = |text: &str| LocalReference::parse(text).unwrap();
        let is = |kind, path: &str, which: Option<&str>| {
            Some(LocalReference { kind, path: path.into(), which: which.map(str::to_owned) })
        };
        assert_eq!(parse("oci:dir"), is(Kind::Layout, "dir", None));
        assert_eq!(parse("oci:/a/dir:v1"), is(Kind::Layout, "/a/dir", Some("v1")));
        assert_eq!(
            parse("oci:dir:reg.example:5000/x:1"),
            is(Kind::Layout, "dir", Some("reg.example:5000/x:1"))
        );
        assert_eq!(parse("oci:dir@sha256:00"), is(Kind::Layout, "dir", Some("@sha256:00")));
        assert_eq!(parse("oci-archive:a@b.tar:x"), is(Kind::LayoutArchive, "a@b.tar", Some("x")));
        assert_eq!(parse("docker-archive:f.tar:"), is(Kind::DockerArchive, "f.tar", None));
        assert_eq!(parse("alpine:3.20"), None);
        assert_eq!(parse("alpine"), None);
        LocalReference::parse("oci:").unwrap_err();
        LocalReference::parse("docker-archive::x").unwrap_err();
    }
}
