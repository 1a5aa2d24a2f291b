//! Registries: manifests and blobs over the distribution protocol, as docker and podman speak it.
//!
//! ```text
//! Registry ── source(reference) ──> RegistrySource     the ImageSource: endpoints in their order, mirrors first
//!                                     │
//!    endpoint (pure)  which hosts, under which names   host        one host: connections, scheme, answers, retries
//!    config           what the user settled            tokens      challenges, tokens, logins on requests
//!    registries_conf  the same, from containers' file  certificates  whom a host's TLS trusts
//!    credentials      logins that others have stored   login       logins that we store
//!    auth_file        the file that they are in        helper_program  the one place that starts a program
//!    fault            why a request failed, and whether it is worth another
//! ```
//!
//! Invariant: a login goes to the host that it is for, and to the realm that this host names, over TLS unless the user has
//! said otherwise. It is in no log, no error and no `Debug`. Each answer that is kept in memory has a limit.
//!
//! reqwest is used itself, and not oci-client 0.18, which reads manifests, tokens and errors without a limit, loses
//! `Retry-After` and media types, takes no client certificate and no identity token, and knows mirrors by a host alone.
//! What would be left for it are four URLs. HTTP/1.1 is enough: a few blobs at a time, each over a connection of its own,
//! and no window of a shared connection that slows them.

mod auth_file;
mod certificates;
mod config;
mod credentials;
mod endpoint;
mod fault;
mod helper_program;
mod host;
mod login;
mod registries_conf;
mod secret;
mod source;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use config::{Limits, Mirror, RegistryConfig, Rule};
pub use credentials::Credentials;
pub use fault::Fault;
pub use helper_program::HelperError;
pub use secret::Secret;
pub use source::RegistrySource;

use crate::error::ImageError;
use crate::reference::Reference;
use endpoint::Endpoint;
use host::Host;

/// A client for all registries: connections, tokens and logins are shared by what is made of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: RegistryConfig,
    credentials: Credentials,
    /// Hosts that were used, by name and by whether they may be spoken to without trust.
    hosts: Mutex<HashMap<(String, bool), Arc<Host>>>,
}

impl Registry {
    /// A client. Nothing is read or reached yet.
    #[must_use]
    pub fn new(config: RegistryConfig, credentials: Credentials) -> Self {
        Self { shared: Arc::new(Shared { config, credentials, hosts: Mutex::default() }) }
    }

    /// The image of that name. Nothing is reached yet.
    #[must_use]
    pub fn source(&self, reference: &Reference) -> RegistrySource {
        RegistrySource::new(self.clone(), reference.clone())
    }

    fn config(&self) -> &RegistryConfig {
        &self.shared.config
    }

    fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// The host of an endpoint: the same for each call, so that its connections and tokens are used again.
    fn host(&self, endpoint: &Endpoint) -> Result<Arc<Host>, ImageError> {
        let key = (endpoint.host.clone(), endpoint.insecure);
        // A panic while the lock is held leaves the map whole.
        let mut hosts = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(&key) {
            return Ok(Arc::clone(host));
        }
        let host = Arc::new(Host::new(endpoint, self.config(), self.credentials().clone())?);
        hosts.insert(key, Arc::clone(&host));
        Ok(host)
    }
}
