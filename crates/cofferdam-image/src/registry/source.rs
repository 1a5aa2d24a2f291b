//! An image in a registry.
//!
//! Endpoints are tried in their order; the last is the registry itself, and it alone is asked again after a failure that
//! may pass, as for a mirror there is somebody else to ask. What is told in the end is what the registry itself said.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use oci_spec::image::{Descriptor, Digest, MediaType};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};
use tokio_util::io::StreamReader;

use super::Registry;
use super::endpoint::{Endpoint, endpoints};
use super::fault::Fault;
use super::host::{Host, Question, Retries};
use crate::error::ImageError;
use crate::media;
use crate::reference::Reference;
use crate::source::{BlobStream, ImageSource, MANIFEST_LIMIT};

/// The media types of what an image's name may lead to, which [`media::root`] knows, as a question has them.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// An image in a registry.
#[derive(Debug)]
pub struct RegistrySource {
    registry: Registry,
    reference: Reference,
    /// Which endpoint had the root: it has the blobs, most likely.
    found_at: AtomicUsize,
}

/// A manifest, as far as it is read here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<MediaType>,
}

impl RegistrySource {
    pub(super) fn new(registry: Registry, reference: Reference) -> Self {
        Self { registry, reference, found_at: AtomicUsize::new(0) }
    }

    /// The endpoints with their numbers, the best first.
    fn endpoints(&self) -> Result<Vec<(usize, Endpoint)>, ImageError> {
        let mut endpoints: Vec<_> =
            endpoints(self.registry.config(), &self.reference)?.into_iter().enumerate().collect();
        let best = self.found_at.load(Ordering::Relaxed);
        // The sort is stable: the others stay in their order.
        endpoints.sort_by_key(|(index, _)| *index != best);
        Ok(endpoints)
    }

    async fn root_at(&self, host: &Host, endpoint: &Endpoint, mut retries: Retries) -> Result<Found, Fault> {
        let wanted = self.reference.digest().or_else(|| self.reference.tag()).unwrap_or_default();
        let question = Question {
            path: format!("{}/manifests/{wanted}", endpoint.repository),
            repository: Some(&endpoint.repository),
            accept: Some(MANIFESTS),
            offset: 0,
        };
        loop {
            let asked = async {
                let response = host.ask(&question).await?;
                let headers = response.headers().clone();
                Ok((host.body(response, MANIFEST_LIMIT).await?, headers))
            };
            match asked.await {
                Ok((body, headers)) => return found(body, &headers, self.reference.digest()),
                Err(fault) => retries.after(fault, &host.name).await?,
            }
        }
    }

    async fn blob_at(
        &self,
        host: &Arc<Host>,
        endpoint: &Endpoint,
        mut retries: Retries,
        (descriptor, offset): (&Descriptor, u64),
    ) -> Result<BlobStream, Fault> {
        let is_manifest = media::root(descriptor.media_type()).is_ok();
        let kind = if is_manifest { "manifests" } else { "blobs" };
        let mut question = Question {
            path: format!("{}/{kind}/{}", endpoint.repository, descriptor.digest()),
            repository: Some(&endpoint.repository),
            accept: is_manifest.then_some(MANIFESTS),
            offset,
        };
        loop {
            let fault = match host.ask(&question).await {
                Ok(response) => return stream(Arc::clone(host), response, question.offset),
                Err(fault) => fault,
            };
            match fault {
                // It knows ranges, and has no byte from there on; whoever asks sees that for himself.
                Fault::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. } if question.offset > 0 => {
                    question.offset = 0;
                }
                fault => retries.after(fault, &host.name).await?,
            }
        }
    }

    /// The host of an endpoint, and how often it is asked again.
    fn host_of(&self, endpoint: &Endpoint, is_last: bool) -> Result<(Arc<Host>, Retries), ImageError> {
        let host = self.registry.host(endpoint)?;
        let retries = if is_last { Retries::new(host.limits()) } else { Retries::none() };
        Ok((host, retries))
    }

    fn no_root(&self, fault: Fault, host: &Host) -> ImageError {
        if fault.is_not_found() {
            let place = format!("in {}", host.name);
            return ImageError::NotFound { reference: self.reference.whole(), place };
        }
        self.failed(fault, host, &format!("the manifest of {} is not pulled", self.reference))
    }

    fn failed(&self, fault: Fault, host: &Host, what: &str) -> ImageError {
        fault.into_error(&host.name, &self.reference.whole(), what)
    }
}

#[async_trait]
impl ImageSource for RegistrySource {
    async fn root(&self) -> Result<(Descriptor, Vec<u8>), ImageError> {
        let endpoints = self.endpoints()?;
        let mut failures = Failures::default();
        for (index, endpoint) in &endpoints {
            let is_last = failures.tried + 1 == endpoints.len();
            let outcome = match self.host_of(endpoint, is_last) {
                Ok((host, retries)) => {
                    self.root_at(&host, endpoint, retries).await.map_err(|fault| self.no_root(fault, &host))
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(found) => {
                    self.found_at.store(*index, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) => failures.add(*index, endpoint, error),
            }
        }
        Err(failures.told(&self.reference))
    }

    async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, ImageError> {
        let endpoints = self.endpoints()?;
        let mut failures = Failures::default();
        for (index, endpoint) in &endpoints {
            let is_last = failures.tried + 1 == endpoints.len();
            let outcome = match self.host_of(endpoint, is_last) {
                Ok((host, retries)) => {
                    let what = || format!("{} is not pulled", descriptor.digest());
                    self.blob_at(&host, endpoint, retries, (descriptor, offset))
                        .await
                        .map_err(|fault| self.failed(fault, &host, &what()))
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) => failures.add(*index, endpoint, error),
            }
        }
        Err(failures.told(&self.reference))
    }
}

/// What endpoints said.
#[derive(Default)]
struct Failures {
    tried: usize,
    /// The highest number of an endpoint that failed, and its error: the registry itself has the highest.
    of_last: Option<(usize, ImageError)>,
}

impl Failures {
    fn add(&mut self, index: usize, endpoint: &Endpoint, error: ImageError) {
        tracing::debug!(host = endpoint.host, %error, "has not got it");
        self.tried += 1;
        if self.of_last.as_ref().is_none_or(|(last, _)| *last < index) {
            self.of_last = Some((index, error));
        }
    }

    fn told(self, reference: &Reference) -> ImageError {
        match self.of_last {
            Some((_, error)) => error,
            None => ImageError::NotFound { reference: reference.whole(), place: "in any registry".into() },
        }
    }
}

/// A root: its descriptor and its bytes.
type Found = (Descriptor, Vec<u8>);

/// Checks a manifest against the digest that was asked for, or that the registry says it has.
fn found(body: Vec<u8>, headers: &HeaderMap, wanted: Option<&str>) -> Result<Found, Fault> {
    let said = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
    // A digest that nobody can verify says nothing.
    let said = said.filter(|said| said.starts_with("sha256:") || said.starts_with("sha512:"));
    let expected = wanted.or(said);
    let digest = digest_of(&body, expected);
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        return Err(Fault::Answer(format!("the manifest {expected} that it gives has the digest {digest}")));
    }
    let media_type = media_type(&body, headers)?;
    let digest: Digest = digest.parse().map_err(|_| Fault::Answer("its digest".into()))?;
    Ok((Descriptor::new(media_type, body.len() as u64, digest), body))
}

/// The digest of bytes, by the algorithm of another digest.
fn digest_of(bytes: &[u8], like: Option<&str>) -> String {
    let hex = |hash: &[u8]| data_encoding::HEXLOWER.encode(hash);
    if like.is_some_and(|like| like.starts_with("sha512:")) {
        format!("sha512:{}", hex(&Sha512::digest(bytes)))
    } else {
        format!("sha256:{}", hex(&Sha256::digest(bytes)))
    }
}

/// The media type of a manifest: its own word, else the header's.
fn media_type(body: &[u8], headers: &HeaderMap) -> Result<MediaType, Fault> {
    let typed: Typed = serde_json::from_slice(body)
        .map_err(|error| Fault::Answer(format!("the manifest is no JSON with a media type ({error})")))?;
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let header = header.and_then(|text| text.split(';').next()).map(str::trim).unwrap_or_default();
    let media_type = typed.media_type.unwrap_or_else(|| MediaType::from(header));
    if media::root(&media_type).is_ok() {
        return Ok(media_type);
    }
    let text = media_type.as_ref();
    Err(Fault::Answer(if text.starts_with(media::DOCKER_SCHEMA1) {
        "the image is of a kind that was given up in 2016; whoever has it can push it again with a new docker"
            .into()
    } else {
        format!("`{}` is no media type of an image", super::fault::shown(text))
    }))
}

/// The body of an answer as a stream, with the offset at which it begins.
fn stream(host: Arc<Host>, response: Response, asked: u64) -> Result<BlobStream, Fault> {
    let offset = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            begin_of(response.headers()).filter(|begin| *begin <= asked).ok_or_else(|| {
                Fault::Answer(format!(
                    "it was asked for what comes after {asked} bytes, and does not give that"
                ))
            })?
        }
        _ => 0,
    };
    let chunks = response.bytes_stream().map_err(move |error| std::io::Error::other(host.fault(error)));
    Ok(BlobStream { offset, bytes: Box::pin(StreamReader::new(chunks)) })
}

/// Where a part of a blob begins: `bytes 5-9/10`.
fn begin_of(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_manifest_has_the_digest_that_was_asked_for() {
        let body = format!(r#"{{"mediaType":"{OCI}"}}"#).into_bytes();
        let (sha256, sha512) = (digest_of(&body, None), digest_of(&body, Some("sha512:")));
        let none = headers(&[]);
        for wanted in [None, Some(sha256.as_str()), Some(sha512.as_str())] {
            let (descriptor, bytes) = found(body.clone(), &none, wanted).unwrap();
            assert_eq!(descriptor.digest().to_string(), wanted.unwrap_or(&sha256));
            assert_eq!((descriptor.size(), bytes.len()), (body.len() as u64, body.len()));
            assert_eq!(*descriptor.media_type(), MediaType::ImageManifest);
        }
        let other = sha256.replace("sha256:", "sha256:0").chars().take(71).collect::<String>();
        assert!(found(body.clone(), &none, Some(&other)).is_err());
        let lying = headers(&[("docker-content-digest", &other)]);
        assert!(found(body.clone(), &lying, None).is_err());
        // The digest in the name is what counts.
        assert!(found(body, &lying, Some(&sha256)).is_ok());
    }

    #[test]
    fn the_media_type_is_the_manifests_own_or_the_headers() {
        let header = headers(&[("content-type", &format!("{OCI}; charset=utf-8"))]);
        assert_eq!(media_type(b"{}", &header).unwrap(), MediaType::ImageManifest);
        let list = br#"{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json"}"#;
        assert_eq!(media_type(list, &header).unwrap().as_ref(), &list_type(list));
        let old = headers(&[("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")]);
        assert!(media_type(b"{}", &old).unwrap_err().to_string().contains("2016"));
        for body in [&b"<html>"[..], b"[]", b"{\"mediaType\":\"text/html\"}"] {
            assert!(media_type(body, &header).is_err());
        }
    }

    fn list_type(body: &[u8]) -> String {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap();
        value["mediaType"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_range_says_where_it_begins() {
        assert_eq!(begin_of(&headers(&[("content-range", "bytes 5-9/10")])), Some(5));
        assert_eq!(begin_of(&headers(&[("content-range", "bytes */10")])), None);
        assert_eq!(begin_of(&headers(&[])), None);
    }
}
