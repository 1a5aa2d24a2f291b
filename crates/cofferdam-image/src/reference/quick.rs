//! Reading names of images without oci-spec's expression, which takes 30 ms to be compiled: longer than all else that a
//! start has to do for an image. What is not read here, it reads, or says what is wrong with it.
//!
//! Invariant: what is read here, oci-spec reads in the same way.

use super::{DOCKER_HUB, OFFICIAL, Reference, is_lower_hex};

/// The longest name of a repository, and the longest tag (`distribution/reference`).
const REPOSITORY_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// Reads a name that has nothing odd in it.
pub(super) fn read(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Some(digest).filter(|digest| is_digest(digest))?.to_owned())),
        None => (text, None),
    };
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(colon) => {
            let tag = &rest[last + colon + 1..];
            (&rest[..last + colon], Some(Some(tag).filter(|tag| is_tag(tag))?.to_owned()))
        }
        None => (rest, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_meant_as_host(host) => (Some(host).filter(|host| is_host(host))?, path),
        _ => (DOCKER_HUB, name),
    };
    if path.len() > REPOSITORY_LIMIT - OFFICIAL.len() || !path.split('/').all(is_component) {
        return None;
    }
    let host = if host == "index.docker.io" { DOCKER_HUB } else { host }.to_owned();
    let official = host == DOCKER_HUB && !path.contains('/');
    let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    Some(match (tag, digest) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(host, path, tag, digest),
        (None, Some(digest)) => Reference::with_digest(host, path, digest),
        (tag, None) => Reference::with_tag(host, path, tag.unwrap_or_else(|| "latest".to_owned())),
    })
}

/// Docker's rule for whether the first part is a host: no repository of Docker Hub has these.
fn is_meant_as_host(part: &str) -> bool {
    part == "localhost" || part.bytes().any(|byte| matches!(byte, b'.' | b':') || byte.is_ascii_uppercase())
}

/// `HOST[:PORT]`.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case letters and digits, and between them `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_separator = |text: &str| {
        matches!(text, "." | "_" | "__") || (!text.is_empty() && text.bytes().all(|byte| byte == b'-'))
    };
    let is_plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
    text.starts_with(is_plain)
        && text.ends_with(is_plain)
        && text.split(is_plain).all(|between| between.is_empty() || is_separator(between))
}

fn is_tag(text: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_LIMIT
        && text.bytes().next().is_some_and(is_first)
        && text.bytes().all(|byte| is_first(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let hex = |algorithm: &str| text.strip_prefix(algorithm).filter(|hex| is_lower_hex(hex)).map(str::len);
    hex("sha256:") == Some(64) || hex("sha512:") == Some(128)
}
