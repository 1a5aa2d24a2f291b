//! Published ports and names, as they were typed.

use cofferdam_network::egress::Policy;
use serde::{Deserialize, Serialize};

use super::{LaunchRequest, NetworkMode, Refused, Source};
use crate::network::{HostEntry, NameRequest, PortRequest};

/// The network that published ports mean where none is given.
const DEFAULT_NETWORK: &str = "bridge";

/// What a caller asks about names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamesRequest {
    /// Addresses of resolvers, in place of the host's.
    pub dns: Vec<String>,
    /// Domains to search; a single `.` for none.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
    /// `NAME:ADDRESS`, or `NAME:host-gateway`.
    pub hosts: Vec<String>,
}

impl NamesRequest {
    pub(super) fn parse(&self) -> Result<NameRequest, Refused> {
        let address = |text: &String| {
            text.parse().map_err(|_| Refused::new("--dns", format!("`{text}` is not an address")))
        };
        let entry = |text: &String| {
            HostEntry::parse(text).map_err(|error| Refused::new("--add-host", error.to_string()))
        };
        let names = NameRequest {
            dns: self.dns.iter().map(address).collect::<Result<_, _>>()?,
            search: self.search.clone(),
            options: self.options.clone(),
            hosts: self.hosts.iter().map(entry).collect::<Result<_, _>>()?,
        };
        names
            .check()
            .map_err(|error| Refused::new("--dns, --dns-search, --dns-option", error.to_string()))?;
        Ok(names)
    }
}

/// Reads the ports to publish.
pub(super) fn parse_published(request: &LaunchRequest) -> Result<Vec<PortRequest>, Refused> {
    let parse = |field: &'static str, text: &str| {
        PortRequest::parse(text).map_err(|error| Refused::new(field, error.to_string()))
    };
    let mut ports = Vec::new();
    for text in &request.publish {
        ports.extend(parse("--publish", text)?);
    }
    if let (true, Source::Image(image)) = (request.publish_all, &request.source) {
        for text in &image.defaults.ports {
            ports.extend(parse("--publish-all", text)?);
        }
    } else if request.publish_all {
        return Err(Refused::new("--publish-all", "only an image says what its ports are: give --publish"));
    }
    if let Some(at) = (1..ports.len()).find(|at| ports[..*at].iter().any(|other| other.excludes(&ports[*at])))
    {
        let port = &ports[at];
        let host = port.host.as_ref().map_or(0, |range| *range.start());
        let why =
            format!("the port {host} of the host is published twice, the second time for {}", port.container);
        return Err(Refused::new("--publish", why));
    }
    Ok(ports)
}

/// Reads what a container may reach; gives it in its canonical form.
pub(super) fn parse_egress(text: &str) -> Result<String, Refused> {
    let policy = Policy::parse(text).map_err(|error| Refused::new("--egress", error.to_string()))?;
    Ok(policy.to_string())
}

/// The network, where there are ports to publish, or it is to be held to what it may reach.
pub(super) fn network_for(
    network: Option<NetworkMode>,
    ports: &[PortRequest],
    is_gated: bool,
) -> Result<Option<NetworkMode>, Refused> {
    match network {
        network if ports.is_empty() && !is_gated => Ok(network),
        None => Ok(Some(NetworkMode::Cni { network: DEFAULT_NETWORK.to_owned() })),
        Some(NetworkMode::Cni { .. }) => Ok(network),
        Some(_) if is_gated => {
            Err(Refused::new("--egress", "it holds containers on a network of CNI, such as bridge"))
        }
        Some(NetworkMode::Host) => {
            Err(Refused::new("--publish", "with the host's network, the container's ports are the host's"))
        }
        Some(_) => Err(Refused::new("--publish", "ports are published on a network of CNI, such as bridge")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::validate;

    fn request(network: Option<&str>, publish: &[&str]) -> LaunchRequest {
        LaunchRequest {
            args: vec!["x".into()],
            network: network.map(str::to_owned),
            publish: publish.iter().map(|port| (*port).to_owned()).collect(),
            ..LaunchRequest::new(Source::Rootfs { path: "/r".into() })
        }
    }

    #[test]
    fn published_ports_mean_the_bridge() {
        let bridge = || Some(NetworkMode::Cni { network: "bridge".into() });
        assert_eq!(validate(request(None, &[])).unwrap().network, None);
        assert_eq!(validate(request(None, &["8080:80"])).unwrap().network, bridge());
        assert_eq!(validate(request(Some("bridge"), &["80"])).unwrap().network, bridge());
        for network in ["none", "host", "ns:/run/netns/x", "container:web"] {
            let refused = validate(request(Some(network), &["80"])).unwrap_err();
            assert_eq!(refused.field, "--publish", "{network}");
        }
        let gated = |network: Option<&str>, egress: &str| {
            validate(LaunchRequest { egress: Some(egress.to_owned()), ..request(network, &[]) })
        };
        assert_eq!(gated(None, "public").unwrap().network, bridge());
        assert_eq!(
            gated(None, "allow:Example.org:443").unwrap().egress.as_deref(),
            Some("allow:example.org:443")
        );
        for (network, egress) in [(Some("host"), "public"), (Some("none"), "none"), (None, "some")] {
            assert_eq!(gated(network, egress).unwrap_err().field, "--egress");
        }
        assert!(
            validate(request(None, &["x"])).is_err() && validate(request(None, &["0:80:80:80"])).is_err()
        );
    }

    #[test]
    fn names_are_checked() {
        let with = |names: NamesRequest| validate(LaunchRequest { names, ..request(None, &[]) });
        let list = |text: &str| vec![text.to_owned()];
        let good =
            NamesRequest { dns: list("1.1.1.1"), hosts: list("db:10.0.0.1"), ..NamesRequest::default() };
        assert_eq!(with(good).unwrap().names.dns, ["1.1.1.1".parse::<std::net::IpAddr>().unwrap()]);
        assert!(with(NamesRequest { dns: list("one"), ..NamesRequest::default() }).is_err());
        assert!(with(NamesRequest { hosts: list("db"), ..NamesRequest::default() }).is_err());
        assert!(with(NamesRequest { search: list("a b\n"), ..NamesRequest::default() }).is_err());
    }
}
