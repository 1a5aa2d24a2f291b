//! Which hosts have an image, under which names: pure.

use std::net::IpAddr;

use super::config::{Mirror, RegistryConfig, Rule};
use crate::error::ImageError;
use crate::reference::{DOCKER_HUB, Reference};

/// Where Docker Hub serves its registry.
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// A host as it stands in names of images: Docker Hub has other names in files of logins and in URLs.
pub(super) fn host_in_names(host: &str) -> &str {
    if matches!(host, "index.docker.io" | DOCKER_HUB_SERVER) { DOCKER_HUB } else { host }
}

/// A repository on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The host as people name it, with its port: `docker.io`. Logins and certificates go by it.
    pub(super) host: String,
    /// The repository on it.
    pub(super) repository: String,
    /// Whether the user lets us speak to it without trust.
    pub(super) insecure: bool,
}

impl Endpoint {
    /// The host with its port, as it is connected to.
    pub(super) fn authority(&self) -> &str {
        if self.host == DOCKER_HUB { DOCKER_HUB_SERVER } else { &self.host }
    }

    /// Whether it may be spoken to without TLS.
    pub(super) fn may_be_plain(&self) -> bool {
        self.insecure || self.is_here()
    }

    /// Whether it is this machine. No proxy leads there, as Go's programs have it.
    pub(super) fn is_here(&self) -> bool {
        is_this_host(&self.host)
    }
}

/// The endpoints of a name, in the order in which they are tried. The last is the registry itself.
pub(super) fn endpoints(config: &RegistryConfig, reference: &Reference) -> Result<Vec<Endpoint>, ImageError> {
    let name = format!("{}/{}", reference.registry(), reference.repository());
    let fitting = config.rules.iter().filter_map(|rule| Some((rule, rest_after(&name, &rule.prefix)?)));
    let Some((rule, rest)) = fitting.max_by_key(|(rule, _)| rule.prefix.len()) else {
        return Ok(vec![endpoint(config, &name, false, &name)?]);
    };
    if rule.blocked {
        let why = format!("the configuration of registries blocks {}", rule.prefix);
        return Err(ImageError::BadReference { reference: reference.whole(), why });
    }
    let Rule { prefix, location, insecure, mirrors, .. } = rule;
    let itself = Mirror { location: location.as_ref().unwrap_or(prefix).clone(), insecure: *insecure };
    mirrors
        .iter()
        .chain([&itself])
        .map(|place| endpoint(config, &format!("{}{rest}", place.location), place.insecure, &name))
        .collect()
}

/// The endpoint of a host that somebody names.
pub(super) fn of_host(config: &RegistryConfig, host: &str) -> Endpoint {
    let insecure = config.insecure.iter().any(|insecure| insecure == host)
        || config.rules.iter().any(|rule| rule.insecure && rule.prefix == host);
    Endpoint { host: host.to_owned(), repository: String::new(), insecure }
}

fn endpoint(
    config: &RegistryConfig,
    place: &str,
    insecure: bool,
    name: &str,
) -> Result<Endpoint, ImageError> {
    // The words of a configuration are not checked when they are read; they end up in a URL.
    let is_plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:[]".contains(&byte));
    match place.split_once('/') {
        Some((host, repository)) if !host.is_empty() && !repository.is_empty() && is_plain(place) => {
            Ok(Endpoint {
                insecure: insecure || config.insecure.iter().any(|insecure| insecure == host),
                host: host.to_owned(),
                repository: repository.to_owned(),
            })
        }
        _ => Err(ImageError::BadReference {
            reference: name.to_owned(),
            why: format!(
                "the configuration of registries leads it to `{place}`, which is no HOST/REPOSITORY"
            ),
        }),
    }
}

/// What comes after a prefix that ends where a part of the name does.
fn rest_after<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Docker's rule: what goes to this host passes no wire.
fn is_this_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::reference;

    fn of(config: &RegistryConfig, name: &str) -> Vec<(String, bool)> {
        let endpoints = endpoints(config, &reference(name).unwrap()).unwrap();
        endpoints.into_iter().map(|e| (format!("{}/{}", e.host, e.repository), e.insecure)).collect()
    }

    fn mirror(location: &str, insecure: bool) -> Mirror {
        Mirror { location: location.into(), insecure }
    }

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_holds() {
        let rules = vec![
            Rule {
                prefix: "docker.io".into(),
                mirrors: vec![mirror("one.example/hub", true), mirror("two.example:5000", false)],
                ..Rule::default()
            },
            Rule {
                prefix: "docker.io/library".into(),
                location: Some("three.example/x".into()),
                ..Rule::default()
            },
        ];
        let config =
            RegistryConfig { rules, insecure: vec!["three.example".into()], ..RegistryConfig::default() };
        let pair = |name: &str, insecure| (name.to_owned(), insecure);
        assert_eq!(of(&config, "alpine"), [pair("three.example/x/alpine", true)]);
        assert_eq!(
            of(&config, "a/b"),
            [
                pair("one.example/hub/a/b", true),
                pair("two.example:5000/a/b", false),
                pair("docker.io/a/b", false)
            ]
        );
        // `docker.io/library` is no prefix of `docker.io/libraryx`.
        assert_eq!(of(&config, "libraryx/b").len(), 3);
        assert_eq!(of(&config, "quay.io/a/b"), [pair("quay.io/a/b", false)]);
    }

    #[test]
    fn a_blocked_name_and_a_strange_location_are_refused() {
        let config = |rule: Rule| RegistryConfig { rules: vec![rule], ..RegistryConfig::default() };
        let name = reference("quay.io/a/b").unwrap();
        let blocked = Rule { prefix: "quay.io".into(), blocked: true, ..Rule::default() };
        assert!(endpoints(&config(blocked), &name).unwrap_err().to_string().contains("blocks quay.io"));
        for location in ["x@evil.example", "a?b", "a#", ""] {
            let rule = Rule { prefix: "quay.io".into(), location: Some(location.into()), ..Rule::default() };
            assert!(endpoints(&config(rule), &name).is_err(), "{location}");
        }
    }

    #[test]
    fn this_host_may_have_no_tls() {
        for (host, is_this) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost.example", false),
            ("128.0.0.1:5000", false),
            ("127.0.0.1.example:80", false),
        ] {
            assert_eq!(is_this_host(host), is_this, "{host}");
        }
    }
}
