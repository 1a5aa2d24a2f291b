//! Logins on requests: a host's challenge, a token for it, and how long that one holds.
//!
//! A token is for one repository. It is fetched when the host asks for one, by one task at a time.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_auth::{ChallengeRef, parse_challenges};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::credentials::{Credentials, Login};
use super::fault::{Fault, shown};
use super::host::Host;
use super::secret::Secret;

/// The largest answer with a token that is read, in bytes. Tokens have a few thousand.
const TOKEN_LIMIT: u64 = 256 << 10;

/// How long a token holds of which nothing is said: the protocol's number.
const USUAL_LIFE: Duration = Duration::from_secs(60);

/// How long before its end a token is no longer used: a request may wait that long on its way.
const MARGIN: Duration = Duration::from_secs(10);

/// Who asks, for services that tell programs apart.
const CLIENT_ID: &str = "cofferdam";

/// The logins of one host.
pub(super) struct Tokens {
    host: String,
    credentials: Credentials,
    /// By repository. The lock is held while one is fetched, so that tasks that need the same one wait for it.
    known: Mutex<HashMap<Option<String>, Known>>,
}

struct Known {
    header: Arc<HeaderValue>,
    until: Option<Instant>,
}

/// A challenge, of the ways to log in that are known.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What a service for tokens answers.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(host: String, credentials: Credentials) -> Self {
        Self { host, credentials, known: Mutex::default() }
    }

    /// What is known to be wanted for a repository, while it holds.
    pub(super) async fn known(&self, repository: Option<&str>) -> Option<Arc<HeaderValue>> {
        let known = self.known.lock().await;
        let known = known.get(&repository.map(str::to_owned))?;
        let holds = known.until.is_none_or(|until| Instant::now() + MARGIN < until);
        holds.then(|| Arc::clone(&known.header))
    }

    /// Answers the challenge of a host; `None` where there is nothing to say that was not said.
    ///
    /// Cancel safe.
    pub(super) async fn answer(
        &self,
        host: &Host,
        repository: Option<&str>,
        refused: Option<&Arc<HeaderValue>>,
        response: &Response,
    ) -> Result<Option<Arc<HeaderValue>>, Fault> {
        let challenge = challenge(response.headers())?;
        let mut known = self.known.lock().await;
        let key = repository.map(str::to_owned);
        // Another task may have fetched one since.
        if let Some(other) =
            known.get(&key).filter(|known| refused.is_none_or(|old| !Arc::ptr_eq(old, &known.header)))
        {
            return Ok(Some(Arc::clone(&other.header)));
        }
        known.remove(&key);
        let login =
            self.credentials.login(&self.host, repository).await.map_err(|e| Fault::Login(Box::new(e)))?;
        let (header, until) = match challenge {
            // The same password again is refused again.
            Challenge::Basic if refused.is_some() => return Ok(None),
            Challenge::Basic => match &login {
                Some(Login::Password { user, secret }) => (basic(user, secret)?, None),
                Some(Login::IdentityToken(_)) => {
                    return Err(Fault::Challenge(
                        "what is stored for it is no password; log in again".into(),
                    ));
                }
                None => return Ok(None),
            },
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.or_else(|| repository.map(|name| format!("repository:{name}:pull")));
                let answer =
                    fetch(host, &realm, service.as_deref(), scope.as_deref(), login.as_ref()).await?;
                let life = answer.expires_in.map_or(USUAL_LIFE, Duration::from_secs).max(USUAL_LIFE);
                (answer.header()?, Instant::now().checked_add(life))
            }
        };
        let header = Arc::new(header);
        known.insert(key, Known { header: Arc::clone(&header), until });
        Ok(Some(header))
    }
}

/// Checks a login that is not stored yet: asks the host, and answers its challenge with it.
///
/// Cancel safe.
pub(super) async fn verify(host: &Host, response: &Response, login: &Login) -> Result<HeaderValue, Fault> {
    match (challenge(response.headers())?, login) {
        (Challenge::Basic, Login::Password { user, secret }) => basic(user, secret),
        (Challenge::Basic, Login::IdentityToken(_)) => {
            Err(Fault::Challenge("it takes passwords alone".into()))
        }
        (Challenge::Bearer { realm, service, .. }, login) => {
            fetch(host, &realm, service.as_deref(), None, Some(login)).await?.header()
        }
    }
}

/// Fetches a token from the service that a host has named.
async fn fetch(
    host: &Host,
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
    login: Option<&Login>,
) -> Result<TokenAnswer, Fault> {
    let mut url = realm_url(realm, host.is_plain())?;
    tracing::debug!(realm = %url, ?scope, with_login = login.is_some(), "fetches a token");
    let mut fields = Vec::new();
    fields.extend(service.map(|service| ("service", service)));
    // A challenge may have several, with spaces between them.
    fields.extend(scope.into_iter().flat_map(|scope| scope.split(' ')).map(|scope| ("scope", scope)));
    let request = match login {
        Some(Login::IdentityToken(token)) => {
            fields.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID)]);
            fields.push(("refresh_token", token.reveal()));
            host.steady_client()?.post(url).form(&fields)
        }
        Some(Login::Password { user, secret }) => {
            fields.extend([("account", user.as_str()), ("client_id", CLIENT_ID)]);
            url.query_pairs_mut().extend_pairs(fields);
            host.client().get(url).header(AUTHORIZATION, basic(user, secret)?)
        }
        None => {
            url.query_pairs_mut().extend_pairs(fields);
            host.client().get(url)
        }
    };
    let response = request.send().await.map_err(|error| host.fault(error))?;
    let body = host.body(host.accepted(response).await?, TOKEN_LIMIT).await?;
    // What serde says would have parts of the token in it.
    serde_json::from_slice(&body).map_err(|_| Fault::Answer("its service for tokens gives none".into()))
}

impl TokenAnswer {
    fn header(self) -> Result<HeaderValue, Fault> {
        let token = [self.token, self.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let token = token.ok_or_else(|| Fault::Answer("its service for tokens gives an empty one".into()))?;
        sensitive(&format!("Bearer {}", token.reveal()))
    }
}

/// The address of a service for tokens. A host that has TLS does not lead a login out of it.
fn realm_url(realm: &str, host_is_plain: bool) -> Result<Url, Fault> {
    let url = Url::parse(realm).ok().filter(Url::has_host);
    match url {
        Some(url) if url.scheme() == "https" || (url.scheme() == "http" && host_is_plain) => Ok(url),
        _ => Err(Fault::Challenge(format!("its service for tokens, `{}`, has no TLS", shown(realm)))),
    }
}

/// The challenge of an answer: a token before a password, where there is a choice.
fn challenge(headers: &HeaderMap) -> Result<Challenge, Fault> {
    let mut known = Vec::new();
    let mut others = String::new();
    for header in headers.get_all(WWW_AUTHENTICATE) {
        let challenges = header.to_str().ok().and_then(|text| parse_challenges(text).ok());
        for challenge in challenges.into_iter().flatten() {
            match read(&challenge) {
                Some(challenge) => known.push(challenge),
                None => {
                    // Writing to a string does not fail.
                    let _ = write!(others, " {}", shown(challenge.scheme));
                }
            }
        }
    }
    known.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    known.into_iter().next().ok_or_else(|| match others.as_str() {
        "" => Fault::Challenge("does not say how".into()),
        others => Fault::Challenge(format!("knows{others} alone")),
    })
}

fn read(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    let param = |wanted: &str| {
        let found = challenge.params.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
    };
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    let bearer = || {
        Some(Challenge::Bearer { realm: param("realm")?, service: param("service"), scope: param("scope") })
    };
    challenge.scheme.eq_ignore_ascii_case("bearer").then(bearer).flatten()
}

fn basic(user: &str, secret: &Secret) -> Result<HeaderValue, Fault> {
    let pair = format!("{user}:{}", secret.reveal());
    sensitive(&format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes())))
}

fn sensitive(text: &str) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Fault::Answer("a token has characters that no header may have".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[&str]) -> Result<Challenge, Fault> {
        let pairs = headers.iter().map(|value| (WWW_AUTHENTICATE, value.parse().unwrap()));
        challenge(&pairs.collect())
    }

    #[test]
    fn challenges_of_registries_are_read() {
        let bearer = |realm: &str, service: &str, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: Some(service.into()),
            scope: scope.map(str::to_owned),
        };
        // Docker Hub.
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        let hub = bearer(
            "https://auth.docker.io/token",
            "registry.docker.io",
            Some("repository:library/alpine:pull"),
        );
        assert_eq!(of(&[text]).unwrap(), hub);
        // Both, in one header and in two.
        assert_eq!(of(&[&format!(r#"Basic realm="x", {text}"#)]).unwrap(), hub);
        assert_eq!(of(&[r#"Basic realm="x""#, text]).unwrap(), hub);
        assert_eq!(of(&[r#"basic realm="Registry Realm""#]).unwrap(), Challenge::Basic);
        assert_eq!(
            of(&[r#"BEARER Realm="https://a/", Service=b"#]).unwrap(),
            bearer("https://a/", "b", None)
        );
    }

    #[test]
    fn what_is_no_known_challenge_is_told() {
        for (headers, part) in [
            (&[][..], "does not say how"),
            (&["Negotiate"][..], "knows Negotiate alone"),
            (&["Bearer service=\"x\""][..], "knows Bearer alone"),
            (&["Bearer realm=\""][..], "does not say how"),
        ] {
            assert!(of(headers).unwrap_err().to_string().contains(part), "{headers:?}");
        }
    }

    #[test]
    fn a_login_is_not_led_out_of_tls() {
        assert!(realm_url("https://auth.example/token", false).is_ok());
        assert!(realm_url("http://auth.example/token", true).is_ok());
        for realm in ["http://auth.example/token", "file:///etc/passwd", "auth.example", ""] {
            assert!(realm_url(realm, false).is_err(), "{realm}");
        }
        assert!(realm_url("ftp://auth.example", true).is_err());
    }

    #[test]
    fn a_header_with_a_login_does_not_show_it() {
        let header = basic("user", &Secret::from("pass".to_owned())).unwrap();
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert_eq!(header.to_str().unwrap(), "Basic dXNlcjpwYXNz");
        assert!(basic("user", &Secret::from("a\nb".to_owned())).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_or_refused(text in "(Bearer|Basic|[A-Za-z]{0,5})?[ -~]{0,60}", rest in "[ -~]{0,20}") {
            // Whatever it is, it ends, and what is told of it is one line.
            if let Err(fault) = of(&[&text, &format!("Bearer realm=\"{rest}")]) {
                proptest::prop_assert!(!fault.to_string().contains('\n'));
            }
        }
    }
}
