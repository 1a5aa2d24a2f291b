//! Why a request to a registry failed, and whether it is worth another.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::ImageError;

/// The longest pause that a registry is granted. One that asks for more (Docker Hub does, for hours, when an address has
/// pulled too much) is not waited for: a person should know.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(60);

/// How much of what a registry says of an error is shown, in characters.
const MESSAGE_LIMIT: usize = 300;

/// Why a request to a registry failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It has no TLS.
    #[error(
        "it speaks HTTP where HTTPS was expected; if that is meant, allow it with --insecure-registry {host}"
    )]
    NoTls {
        /// The host.
        host: String,
        /// What the TLS library said.
        #[source]
        source: reqwest::Error,
    },
    /// It has a certificate that nobody here vouches for.
    #[error(
        "its certificate is not trusted; put the one of its authority into /etc/docker/certs.d/{host}/ca.crt, \
         or allow it with --insecure-registry {host}"
    )]
    Untrusted {
        /// The host.
        host: String,
        /// What the TLS library said.
        #[source]
        source: reqwest::Error,
    },
    /// No connection came about.
    #[error("it is not reached")]
    NotReached(#[source] reqwest::Error),
    /// A connection broke, or stood still for too long.
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    /// Nothing came for too long.
    #[error("nothing came from it for {} ms", .limit.as_millis())]
    Idle {
        /// For how long.
        limit: Duration,
    },
    /// It answered with an error.
    #[error("it answered {status}{message}{}", later(*.retry_after))]
    Status {
        /// The status.
        status: StatusCode,
        /// What it said beside it, after a colon; empty if nothing.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It wants a login in a way that is not known, or that is not safe.
    #[error("it wants a login, and {0}")]
    Challenge(String),
    /// It answered with what is no answer.
    #[error("its answer is not used: {0}")]
    Answer(String),
    /// The login for it cannot be had.
    #[error("the login for it cannot be read")]
    Login(#[source] Box<ImageError>),
}

impl Fault {
    /// Makes a fault of what reqwest says. URLs are left out: those of a redirection have signatures in them.
    pub(super) fn of(error: reqwest::Error, host: &str, idle: Duration) -> Self {
        let error = error.without_url();
        let (host, is_connect) = (host.to_owned(), error.is_connect());
        match tls_error(&error) {
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
                Self::NoTls { host, source: error }
            }
            Some(rustls::Error::InvalidCertificate(_)) => Self::Untrusted { host, source: error },
            _ if is_connect => Self::NotReached(error),
            _ if error.is_timeout() => Self::Idle { limit: idle },
            _ if error.is_redirect() || error.is_builder() => Self::Answer(format!("{error}")),
            _ => Self::Broken(error),
        }
    }

    /// A status that is an error, with what the registry said of it.
    pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Self::Status { status, message: message(body), retry_after: seconds.map(Duration::from_secs) }
    }

    /// Whether this may be because the host has no TLS.
    pub(super) fn may_be_for_want_of_tls(&self) -> bool {
        matches!(self, Self::NoTls { .. } | Self::NotReached(_))
    }

    /// How long to wait before the request is sent again; `None` if that is in vain.
    pub(super) fn pause(&self, usual: Duration) -> Option<Duration> {
        match self {
            Self::Broken(_) | Self::Idle { .. } => Some(usual),
            Self::NotReached(error) => was_cut(error).then_some(usual),
            Self::Status { status, retry_after, .. }
                if *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
                    || status.is_server_error() =>
            {
                Some(retry_after.unwrap_or(usual)).filter(|pause| *pause <= RETRY_AFTER_LIMIT)
            }
            Self::Status { .. }
            | Self::NoTls { .. }
            | Self::Untrusted { .. }
            | Self::Challenge(_)
            | Self::Answer(_)
            | Self::Login(_) => None,
        }
    }

    /// Whether there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::NOT_FOUND, .. })
    }

    /// The same in the words of images.
    pub(super) fn into_error(self, registry: &str, reference: &str, what: &str) -> ImageError {
        let (registry, what) = (registry.to_owned(), what.to_owned());
        match self {
            Self::Login(error) => *error,
            Self::Status { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
                ImageError::Denied { registry, what: reference.to_owned(), source: Some(Box::new(self)) }
            }
            fault => ImageError::Registry { registry, what, source: Box::new(fault) },
        }
    }
}

fn later(retry_after: Option<Duration>) -> String {
    retry_after
        .map_or_else(String::new, |pause| format!("; it wants to be asked again in {} s", pause.as_secs()))
}

/// What a registry says of an error, after a colon and fit for a terminal.
fn message(body: &[u8]) -> String {
    let errors = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    let first = errors.pointer("/errors/0");
    let text = |key: &str| first.and_then(|error| error.get(key)?.as_str()).filter(|text| !text.is_empty());
    // Services that hand out tokens have `details` or `message` in place of a list.
    let plain = ["details", "message"].iter().find_map(|key| errors.get(key)?.as_str());
    match text("message").or_else(|| text("code")).or(plain) {
        Some(text) => format!(": {}", shown(text)),
        None => String::new(),
    }
}

/// A text of a stranger's as a part of one line.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(MESSAGE_LIMIT).collect()
}

type Cause = dyn Error + 'static;

/// An error and what is behind it.
fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    fn next(error: &Cause) -> Option<&Cause> {
        // The source of an io::Error that wraps another error is that one's source, and not itself.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), |error| next(*error))
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Whether a connection was there, and was cut before it could be used.
fn was_cut(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<&str>) -> Fault {
        let mut headers = HeaderMap::new();
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, seconds.parse().unwrap());
        }
        Fault::of_status(StatusCode::from_u16(status).unwrap(), &headers, b"")
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let usual = Duration::from_millis(500);
        for (code, is_worth_it) in [
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (416, false),
            (408, true),
            (429, true),
            (500, true),
            (503, true),
        ] {
            assert_eq!(status(code, None).pause(usual), is_worth_it.then_some(usual), "{code}");
        }
        assert_eq!(status(429, Some("3")).pause(usual), Some(Duration::from_secs(3)));
        assert_eq!(status(429, Some("21600")).pause(usual), None);
        assert_eq!(status(429, Some("a date")).pause(usual), Some(usual));
    }

    #[test]
    fn what_a_registry_says_is_one_short_line() {
        assert_eq!(message(br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m\n"}]}"#), ": no [31m ");
        assert_eq!(message(br#"{"errors":[{"code":"DENIED","message":""}]}"#), ": DENIED");
        assert_eq!(
            message(br#"{"details":"incorrect username or password"}"#),
            ": incorrect username or password"
        );
        assert_eq!(message(b"<html>"), "");
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(10_000));
        assert_eq!(message(long.as_bytes()).len(), MESSAGE_LIMIT + 2);
    }
}
