//! How registries are reached: what the user has settled.

use std::path::PathBuf;
use std::time::Duration;

/// Where docker and podman look for certificates of registries: `DIRECTORY/HOST[:PORT]/*.crt`.
const CERTIFICATE_DIRECTORIES: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// How registries are reached.
///
/// Proxies are those of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as everywhere; none leads to this host itself.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Hosts, with a port where it is written in names of images, that are spoken to without TLS if they have none, and
    /// whose certificate nobody needs to vouch for. This host itself (`localhost`, `127.0.0.0/8`, `[::1]`) is spoken to
    /// without TLS in any case, if it has none.
    pub insecure: Vec<String>,
    /// What holds for some names alone; of several that fit, the one with the longest prefix.
    pub rules: Vec<Rule>,
    /// Directories with a directory for each host, as docker has them in `/etc/docker/certs.d`: `*.crt` are authorities to
    /// trust beside those of the system, and `NAME.cert` with `NAME.key` is who we are.
    pub certificate_directories: Vec<PathBuf>,
    /// Waits and retries.
    pub limits: Limits,
}

/// What holds for the names of images that begin so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// `HOST[:PORT][/PATH]`; it ends at a `/` or at the end of the repository's name.
    pub prefix: String,
    /// What stands in the place of the prefix; the prefix itself where there is nothing.
    pub location: Option<String>,
    /// As in [`RegistryConfig::insecure`].
    pub insecure: bool,
    /// Whether nothing is pulled from there.
    pub blocked: bool,
    /// Tried in their order, before the registry itself.
    pub mirrors: Vec<Mirror>,
}

/// A registry that has what another has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    /// `HOST[:PORT][/PATH]`, in the place of the rule's prefix.
    pub location: String,
    /// As in [`RegistryConfig::insecure`].
    pub insecure: bool,
}

/// How long a registry is waited for, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For a connection with its TLS.
    pub connect: Duration,
    /// For the next byte. There is no limit for the whole of a transfer: a large layer over a slow line takes hours.
    pub idle: Duration,
    /// How often a request is sent again.
    pub retries: u32,
    /// Before the first time that a request is sent again; each pause after it is twice as long. A registry that says
    /// `Retry-After` is given that time.
    pub first_pause: Duration,
}

impl Default for RegistryConfig {
    /// Without mirrors or exceptions.
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            rules: Vec::new(),
            certificate_directories: CERTIFICATE_DIRECTORIES.map(PathBuf::from).to_vec(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A SYN is sent again after 1, 3 and 7 seconds: three losses in a row are forgiven.
            connect: Duration::from_secs(15),
            // Registries fetch from slow stores before their first byte; docker waits as long for a header.
            idle: Duration::from_secs(30),
            // With the pauses below 7.5 s in all: longer than a restart of a registry's frontend.
            retries: 4,
            first_pause: Duration::from_millis(500),
        }
    }
}
