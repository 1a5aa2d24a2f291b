//! One host: its connections, whether it has TLS, its answers, and requests that are sent again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};

use super::certificates;
use super::config::{Limits, RegistryConfig};
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::fault::Fault;
use super::tokens::Tokens;
use crate::error::ImageError;

/// How much of the body of an answer that is an error is read, in bytes: what registries say fits into a fraction of it.
const ERROR_LIMIT: u64 = 16 << 10;

/// What we say we are.
const USER_AGENT: &str = concat!("cofferdam/", env!("CARGO_PKG_VERSION"));

/// How often a request is led on: docker's number.
const REDIRECTION_LIMIT: usize = 10;

/// How often a host is asked again from which nothing came: each time takes as long as nothing may come.
const SILENT_RETRIES: u32 = 2;
/// How long a connection is kept that nobody uses.
const POOL_IDLE: Duration = Duration::from_secs(60);

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    /// As people name it.
    pub(super) name: String,
    endpoint: Endpoint,
    config: RegistryConfig,
    client: Client,
    /// One that is not led on by redirections: what it sends has a login in its body. Few logins are of that kind.
    steady_client: OnceLock<Client>,
    /// `https` or `http`, once one has worked.
    scheme: OnceLock<&'static str>,
    tokens: Tokens,
}

/// A question to a host.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// What comes after `/v2/`.
    pub(super) path: String,
    /// The repository that a login is needed for; none for the host itself.
    pub(super) repository: Option<&'a str>,
    /// Media types.
    pub(super) accept: Option<&'static str>,
    /// The first byte that is wanted.
    pub(super) offset: u64,
}

/// Sends again what is worth it.
#[derive(Debug)]
pub(super) struct Retries {
    left: u32,
    pause: Duration,
}

impl Retries {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { left: limits.retries, pause: limits.first_pause }
    }

    /// None.
    pub(super) fn none() -> Self {
        Self { left: 0, pause: Duration::ZERO }
    }

    /// Waits until a request may be sent again; gives the fault back where that is in vain. Cancel safe.
    pub(super) async fn after(&mut self, fault: Fault, host: &str) -> Result<(), Fault> {
        if let Fault::Idle { .. } = fault {
            // Each time takes long, and whoever waits should know why.
            self.left = self.left.min(SILENT_RETRIES);
        }
        let Some(pause) = fault.pause(self.pause).filter(|_| self.left > 0) else { return Err(fault) };
        match fault {
            Fault::Idle { .. } => tracing::warn!("{host} is asked again: {fault}"),
            _ => tracing::debug!(host, %fault, ?pause, "tries again"),
        }
        self.left -= 1;
        self.pause = self.pause.saturating_mul(2);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Host {
    pub(super) fn new(
        endpoint: &Endpoint,
        config: &RegistryConfig,
        credentials: Credentials,
    ) -> Result<Self, ImageError> {
        Ok(Self {
            name: endpoint.host.clone(),
            tokens: Tokens::new(endpoint.host.clone(), credentials),
            client: client(endpoint, config, Policy::limited(REDIRECTION_LIMIT))?,
            steady_client: OnceLock::new(),
            scheme: OnceLock::new(),
            endpoint: endpoint.clone(),
            config: config.clone(),
        })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Asks once, with a login where one is wanted. The answer has a status that is no error. Cancel safe.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Response, Fault> {
        let known = self.tokens.known(question.repository).await;
        let response = self.send(question, known.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.accepted(response).await;
        }
        let Some(fresh) = self.tokens.answer(self, question.repository, known.as_ref(), &response).await?
        else {
            return self.accepted(response).await;
        };
        self.accepted(self.send(question, Some(&fresh)).await?).await
    }

    /// Whether the host is spoken to without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.scheme.get() == Some(&"http")
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn steady_client(&self) -> Result<&Client, Fault> {
        if let Some(client) = self.steady_client.get() {
            return Ok(client);
        }
        let client = client(&self.endpoint, &self.config, Policy::none());
        let client = client.map_err(|error| Fault::Login(Box::new(error)))?;
        Ok(self.steady_client.get_or_init(|| client))
    }

    /// Makes a fault of what reqwest says.
    pub(super) fn fault(&self, error: reqwest::Error) -> Fault {
        Fault::of(error, &self.name, self.limits().idle)
    }

    /// Passes an answer on that is no error, and makes a fault of one that is.
    pub(super) async fn accepted(&self, response: Response) -> Result<Response, Fault> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        // The status is what counts: the rest may break.
        let body = self.body(response, ERROR_LIMIT).await.unwrap_or_default();
        Err(Fault::of_status(status, &headers, &body))
    }

    /// Reads a body that has a limit, in bytes. Cancel safe.
    pub(super) async fn body(&self, mut response: Response, limit: u64) -> Result<Vec<u8>, Fault> {
        let too_large = || Fault::Answer(format!("it has more than {limit} bytes"));
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.fault(error))? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Asks once, with this login; the answer may be an error. A host that may lack TLS is tried without it where it has none.
    /// Cancel safe.
    pub(super) async fn send(
        &self,
        question: &Question<'_>,
        login: Option<&Arc<HeaderValue>>,
    ) -> Result<Response, Fault> {
        if let Some(scheme) = self.scheme.get() {
            return self.send_by(scheme, question, login).await;
        }
        let fault = match self.send_by("https", question, login).await {
            Ok(response) => {
                self.scheme.get_or_init(|| "https");
                return Ok(response);
            }
            Err(fault) => fault,
        };
        if !(self.endpoint.may_be_plain() && fault.may_be_for_want_of_tls()) {
            return Err(fault);
        }
        let response = self.send_by("http", question, login).await?;
        self.scheme.get_or_init(|| "http");
        Ok(response)
    }

    async fn send_by(
        &self,
        scheme: &str,
        question: &Question<'_>,
        login: Option<&Arc<HeaderValue>>,
    ) -> Result<Response, Fault> {
        let url = format!("{scheme}://{}/v2/{}", self.endpoint.authority(), question.path);
        tracing::debug!(%url, offset = question.offset, with_login = login.is_some(), "asks");
        let mut request = self.client.get(url);
        if let Some(accept) = question.accept {
            request = request.header(ACCEPT, accept);
        }
        if question.offset > 0 {
            request = request.header(RANGE, format!("bytes={}-", question.offset));
        }
        if let Some(login) = login {
            // It is marked as sensitive, and reqwest takes it off when it is led to another host.
            request = request.header(AUTHORIZATION, HeaderValue::clone(login));
        }
        let response = request.send().await.map_err(|error| self.fault(error))?;
        tracing::debug!(status = response.status().as_u16(), "is answered");
        Ok(response)
    }
}

/// The connections to a host, whom they trust, and where they are led on to.
fn client(endpoint: &Endpoint, config: &RegistryConfig, redirections: Policy) -> Result<Client, ImageError> {
    let certificates = certificates::of_host(&config.certificate_directories, &endpoint.host)?;
    // One for the process, unless the program has chosen another: reqwest takes that one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(redirections)
        .connect_timeout(config.limits.connect)
        .read_timeout(config.limits.idle)
        .pool_idle_timeout(POOL_IDLE)
        // A redirection or a realm that leads out of TLS is not followed from a host that has it.
        .https_only(!endpoint.may_be_plain())
        .tls_danger_accept_invalid_certs(endpoint.insecure)
        .tls_certs_merge(certificates.authorities);
    if endpoint.is_here() {
        builder = builder.no_proxy();
    }
    if let Some(identity) = certificates.identity {
        builder = builder.identity(identity);
    }
    builder.build().map_err(|source| ImageError::Registry {
        registry: endpoint.host.clone(),
        what: "its TLS cannot be set up".to_owned(),
        source: Box::new(source),
    })
}
