//! Names of images: what a user writes, and what it means.
//!
//! A plain name means what docker takes it for. The grammar is oci-spec's; where that one takes names that docker refuses
//! or resolves otherwise, [`reference()`] puts it right, and a table in the tests has each case.
//!
//! Invariant: a [`Reference`] from here has a registry, a repository in lower case, and a tag or a digest of an algorithm
//! that is verified.

mod quick;

use std::fmt;

pub use oci_spec::distribution::Reference;

use crate::error::ImageError;
use crate::local::LocalReference;

/// The registry that a name without one means.
pub const DOCKER_HUB: &str = "docker.io";

/// The part of Docker Hub's names that nobody writes.
const OFFICIAL: &str = "library/";

/// Transports of skopeo and podman that are not read here.
const OTHER_TRANSPORTS: [&str; 5] = ["containers-storage", "dir", "docker-daemon", "sif", "ostree"];

/// The name of an image, of any place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    /// In a registry: `alpine`, `docker://alpine:3.20`.
    Registry(Reference),
    /// In a directory or an archive: `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`.
    Local(LocalReference),
}

impl ImageName {
    /// Reads the name of an image.
    ///
    /// `oci:latest` is a directory `latest`, as it is for skopeo and podman: the image `oci` of Docker Hub is
    /// `docker://oci:latest`.
    ///
    /// # Errors
    /// [`ImageError::BadReference`].
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        if let Some(rest) = text.strip_prefix("docker://") {
            return reference(rest).map(Self::Registry);
        }
        if let Some(local) = LocalReference::parse(text)? {
            return Ok(Self::Local(local));
        }
        match text.split_once(':') {
            Some(("http" | "https", rest)) if rest.starts_with("//") => {
                Err(bad(text, "the name of an image is no URL: write it without the scheme"))
            }
            Some((transport, rest)) if OTHER_TRANSPORTS.contains(&transport) && rest.contains('/') => {
                Err(bad(text, "images are read from docker://, oci:, oci-archive: and docker-archive: alone"))
            }
            _ => reference(text).map(Self::Registry),
        }
    }

    /// The short form, for people: `alpine:latest` for `docker.io/library/alpine:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        match self {
            Self::Registry(reference) => familiar(reference),
            Self::Local(local) => local.to_string(),
        }
    }
}

/// The canonical form: two names of one image in a registry have the same.
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Local(local) => local.fmt(f),
        }
    }
}

/// Reads the name of an image in a registry.
///
/// # Errors
/// [`ImageError::BadReference`].
pub fn reference(text: &str) -> Result<Reference, ImageError> {
    // oci-spec's expression lets letters of every script into a tag.
    if !text.is_ascii() {
        return Err(bad(text, "it has characters that are not ASCII"));
    }
    if text.len() == 64 && is_lower_hex(text) {
        return Err(bad(text, "64 hexadecimal digits are an id, not a name; write NAME@sha256:DIGITS"));
    }
    match quick::read(text) {
        Some(read) => Ok(read),
        None => by_expression(text),
    }
}

/// Reads a name by oci-spec, and says what is wrong with one that is none.
fn by_expression(text: &str) -> Result<Reference, ImageError> {
    let parsed = Reference::try_from(text).map_err(|error| bad(text, &reason(text, &error.to_string())))?;
    let parsed = with_upper_case_host(parsed);
    if parsed.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(bad(text, "the name of a repository is in lower case"));
    }
    if let Some((algorithm, hex)) = parsed.digest().and_then(|digest| digest.split_once(':')) {
        if !matches!(algorithm, "sha256" | "sha512") {
            return Err(bad(text, "digests are verified with sha256 and sha512 alone"));
        }
        if !is_lower_hex(hex) {
            return Err(bad(text, "the hexadecimal digits of a digest are in lower case"));
        }
    }
    Ok(parsed)
}

/// The short form of a reference, for people.
#[must_use]
pub fn familiar(reference: &Reference) -> String {
    let whole = reference.whole();
    let Some(rest) = whole.strip_prefix(DOCKER_HUB).and_then(|rest| rest.strip_prefix('/')) else {
        return whole;
    };
    // `docker.io/library/a/b` is another repository than `a/b`.
    let official = rest.strip_prefix(OFFICIAL).filter(|name| !name.contains('/'));
    official.unwrap_or(rest).to_owned()
}

/// Docker takes a first part with an upper case letter for a host, as no repository has one; oci-spec makes a repository
/// of Docker Hub of it.
fn with_upper_case_host(parsed: Reference) -> Reference {
    let Some((host, rest)) = parsed.repository().split_once('/') else { return parsed };
    if parsed.registry() != DOCKER_HUB || !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return parsed;
    }
    let (host, rest) = (host.to_owned(), rest.to_owned());
    match (parsed.tag().map(str::to_owned), parsed.digest().map(str::to_owned)) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(host, rest, tag, digest),
        (None, Some(digest)) => Reference::with_digest(host, rest, digest),
        (tag, None) => Reference::with_tag(host, rest, tag.unwrap_or_else(|| "latest".to_owned())),
    }
}

/// A better word than "invalid reference format", where there is one.
fn reason(text: &str, said: &str) -> String {
    let name = text.split('@').next().unwrap_or(text);
    if said == "invalid reference format" && Reference::try_from(name.to_ascii_lowercase().as_str()).is_ok() {
        return if Reference::try_from(name).is_ok() {
            "a digest is @sha256: and 64 hexadecimal digits".to_owned()
        } else {
            "the name of a repository is in lower case".to_owned()
        };
    }
    said.to_owned()
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn bad(reference: &str, why: &str) -> ImageError {
    ImageError::BadReference { reference: reference.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests;
