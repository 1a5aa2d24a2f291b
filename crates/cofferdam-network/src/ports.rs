//! Published ports: what `--publish` says, and holding ports of the host.
//!
//! Ports are published by the plugin `portmap`, with rules of iptables that are asked before any socket. So a held
//! socket is in nobody's way: it is there so that no other program takes the port, and no other container.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::NetworkError;

/// Where a port is published when no address is given. Docker's 0.0.0.0 lets the whole world in, past a firewall.
pub const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How many free ports are tried when the kernel's choice is taken by a container.
const TRIES_LIMIT: usize = 64;
/// How many ports one `--publish` may name. Each costs several rules.
const PORTS_LIMIT: usize = 1024;

/// Protocols of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port that is to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// The host's address; unspecified for all of its family.
    pub address: IpAddr,
    /// One of these ports of the host; `None` for any that is free.
    pub host: Option<RangeInclusive<u16>>,
    /// The container's port.
    pub container: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// One port that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The host's address; unspecified for all of its family.
    pub address: IpAddr,
    /// The host's port.
    pub host: u16,
    /// The container's port.
    pub container: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Sockets on published ports. Whoever stays as long as the container should keep them, so that no other program takes
/// its ports; closing them changes nothing for the container.
#[derive(Debug, Default)]
pub struct HeldPorts(Vec<OwnedFd>);

impl HeldPorts {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sockets, to be handed to another process.
    #[must_use]
    pub fn into_sockets(self) -> Vec<OwnedFd> {
        self.0
    }
}

impl PortRequest {
    /// Reads `[ADDRESS:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL]`, docker's form: `80`, `8080:80`, `:80`,
    /// `127.0.0.1:8080:80/udp`, `[fd00::1]:8080:80`, `8000-8010:80-90`, and `8000-8010:80` for one of several.
    ///
    /// # Errors
    /// [`NetworkError::Invalid`].
    pub fn parse(text: &str) -> Result<Vec<Self>, NetworkError> {
        parse(text).map_err(|reason| NetworkError::Invalid {
            what: "the published port",
            text: text.to_owned(),
            reason,
        })
    }
}

/// As docker shows it: `127.0.0.1:8080->80/tcp`.
impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.address, self.host);
        write!(f, "{host}->{}/{}", self.container, self.protocol.as_str())
    }
}

impl PortRequest {
    /// Whether no container can have both: they name the same one port of the host.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        let one_port = |request: &Self| {
            let range = request.host.as_ref()?;
            (range.start() == range.end()).then_some(*range.start())
        };
        one_port(self).is_some()
            && (one_port(self), self.protocol) == (one_port(other), other.protocol)
            && overlap(self.address, other.address)
    }
}

/// Whether a port at one of them is a port at the other, too.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

impl PublishedPort {
    /// Whether no two containers can have both.
    fn excludes(&self, other: &Self) -> bool {
        overlap(self.address, other.address) && (self.host, self.protocol) == (other.host, other.protocol)
    }
}

/// The value of the capability `portMappings`.
pub(crate) fn mappings(ports: &[PublishedPort]) -> Value {
    let mapping = |port: &PublishedPort| {
        json!({
            "hostPort": port.host,
            "containerPort": port.container,
            "protocol": port.protocol.as_str(),
            "hostIP": port.address.to_string(),
        })
    };
    Value::Array(ports.iter().map(mapping).collect())
}

/// Chooses and holds a port of the host for each request, none of which excludes another. `taken` are those of other
/// containers, with their ids.
///
/// # Errors
/// [`NetworkError::PortTaken`].
pub(crate) fn reserve(
    requests: &[PortRequest],
    taken: &[(String, PublishedPort)],
) -> Result<(Vec<PublishedPort>, HeldPorts), NetworkError> {
    let mut chosen: Vec<PublishedPort> = Vec::new();
    let mut held = HeldPorts::default();
    for request in requests {
        let (port, socket) = choose(request, taken, &chosen)?;
        chosen.push(port);
        held.0.push(socket);
    }
    Ok((chosen, held))
}

fn choose(
    request: &PortRequest,
    taken: &[(String, PublishedPort)],
    chosen: &[PublishedPort],
) -> Result<(PublishedPort, OwnedFd), NetworkError> {
    let candidates: Box<dyn Iterator<Item = u16>> = match &request.host {
        Some(range) => Box::new(range.clone()),
        None => Box::new(std::iter::repeat_n(0, TRIES_LIMIT)),
    };
    let mut refusal = None;
    // Ports that the kernel chose and a container has; held, so that the kernel chooses others.
    let mut rejected = Vec::new();
    for candidate in candidates {
        let refused = |by| NetworkError::PortTaken {
            address: request.address,
            port: candidate,
            protocol: request.protocol.as_str(),
            by,
        };
        let (socket, host) = match hold(SocketAddr::new(request.address, candidate), request.protocol) {
            Ok(held) => held,
            Err(Errno::ADDRINUSE) => {
                refusal.get_or_insert_with(|| refused(None));
                continue;
            }
            Err(errno) => {
                return Err(NetworkError::Invalid {
                    what: "the published address",
                    text: SocketAddr::new(request.address, candidate).to_string(),
                    reason: std::io::Error::from(errno).to_string(),
                });
            }
        };
        let port = PublishedPort {
            address: request.address,
            host,
            container: request.container,
            protocol: request.protocol,
        };
        let of_others = taken.iter().map(|(id, other)| (Some(id), other));
        // Two sockets of ours can have one port, where both may have to share it with connections that have ended.
        let mut others = of_others.chain(chosen.iter().map(|other| (None, other)));
        match others.find(|(_, other)| port.excludes(other)) {
            Some((id, _)) => {
                refusal.get_or_insert_with(|| refused(id.cloned()));
                rejected.push(socket);
            }
            None => return Ok((port, socket)),
        }
    }
    Err(refusal.unwrap_or_else(|| NetworkError::PortTaken {
        address: request.address,
        port: 0,
        protocol: request.protocol.as_str(),
        by: None,
    }))
}

/// Binds without listening, so that nobody's connection waits here.
fn hold(address: SocketAddr, protocol: Protocol) -> Result<(OwnedFd, u16), Errno> {
    let attempt = |reuse: bool| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = match protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        sockopt::set_socket_reuseaddr(&socket, reuse)?;
        bind(&socket, &address)?;
        let bound = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok((socket, bound.port()))
    };
    match attempt(false) {
        // Connections of a server that has ended keep its port for a minute, for those alone who do not say this.
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp => attempt(true),
        result => result,
    }
}

fn parse(text: &str) -> Result<Vec<PortRequest>, String> {
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
    };
    let (rest, container) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((rest, container)) => (Some(rest), container),
    };
    let (address, host) = match rest {
        None => (None, ""),
        Some(rest) => split_address(rest)?,
    };
    let address = address.unwrap_or(DEFAULT_ADDRESS);
    if address.is_ipv6() && address.is_loopback() {
        return Err(
            "the kernel forwards nothing that is sent to ::1; use 127.0.0.1, or another address".into()
        );
    }
    let container = range(container)?;
    let host = if host.is_empty() { None } else { Some(range(host)?) };
    let count = usize::from(container.end() - container.start()) + 1;
    if count > PORTS_LIMIT {
        return Err(format!("it is more than {PORTS_LIMIT} ports"));
    }
    let hosts: Vec<Option<RangeInclusive<u16>>> = match host {
        None => vec![None; count],
        Some(range) if count == 1 => vec![Some(range)],
        Some(range) if usize::from(range.end() - range.start()) + 1 == count => {
            range.map(|port| Some(port..=port)).collect()
        }
        Some(_) => return Err("its ranges have different lengths".into()),
    };
    Ok(hosts
        .into_iter()
        .zip(container)
        .map(|(host, container)| PortRequest { address, host, container, protocol })
        .collect())
}

/// Splits `ADDRESS:HOST`, `[ADDRESS]:HOST` or `HOST`.
fn split_address(text: &str) -> Result<(Option<IpAddr>, &str), String> {
    let bad = |address: &str| format!("{address:?} is not an address");
    if let Some(rest) = text.strip_prefix('[') {
        let (address, host) = rest.split_once(']').ok_or("a ] is missing")?;
        let host = match host {
            "" => host,
            host => host.strip_prefix(':').ok_or("a : is missing after the ]")?,
        };
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| bad(address))?;
        return Ok((Some(address.into()), host));
    }
    match text.rsplit_once(':') {
        Some((address, host)) => {
            let address: Ipv4Addr = address.parse().map_err(|_| bad(address))?;
            Ok((Some(address.into()), host))
        }
        None if text.contains('.') => Ok((Some(text.parse::<Ipv4Addr>().map_err(|_| bad(text))?.into()), "")),
        None => Ok((None, text)),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(format!("{text:?} is not a port from 1 to 65535")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = port(first)?..=port(last)?;
    if range.is_empty() { Err(format!("the range {text:?} is the wrong way round")) } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(text: &str) -> Result<Vec<String>, String> {
        let show = |port: PortRequest| {
            let host = port.host.map_or_else(
                || "*".into(),
                |range| match (range.start(), range.end()) {
                    (first, last) if first == last => first.to_string(),
                    (first, last) => format!("{first}-{last}"),
                },
            );
            format!("{} {host} {} {}", port.address, port.container, port.protocol.as_str())
        };
        parse(text).map(|ports| ports.into_iter().map(show).collect())
    }

    #[test]
    fn what_docker_takes_is_read() {
        let table: [(&str, &[&str]); 13] = [
            ("80", &["127.0.0.1 * 80 tcp"]),
            (":80", &["127.0.0.1 * 80 tcp"]),
            ("80/udp", &["127.0.0.1 * 80 udp"]),
            ("8080:80", &["127.0.0.1 8080 80 tcp"]),
            ("127.0.0.1:8080:80/udp", &["127.0.0.1 8080 80 udp"]),
            ("0.0.0.0:8080:80", &["0.0.0.0 8080 80 tcp"]),
            ("10.0.0.1::80", &["10.0.0.1 * 80 tcp"]),
            ("10.0.0.1:80", &["10.0.0.1 * 80 tcp"]),
            ("[fd00::1]:8080:80", &["fd00::1 8080 80 tcp"]),
            ("[::]::80", &[":: * 80 tcp"]),
            ("8000-8002:80-82", &["127.0.0.1 8000 80 tcp", "127.0.0.1 8001 81 tcp", "127.0.0.1 8002 82 tcp"]),
            ("8000-8010:80", &["127.0.0.1 8000-8010 80 tcp"]),
            ("80-81/udp", &["127.0.0.1 * 80 udp", "127.0.0.1 * 81 udp"]),
        ];
        for (text, expected) in table {
            assert_eq!(short(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            ":",
            "/",
            "/tcp",
            "80/",
            "80/sctp",
            "0",
            "65536",
            "+80",
            " 80",
            "80 ",
            "-1",
            "a",
            "80-",
            "-80",
            "82-80",
            "8080:",
            "8080:0",
            "8000-8001:80-82",
            "8000-8002:80-81",
            "1:2:3",
            "1.2.3:80:80",
            "256.0.0.1:80:80",
            "::1:80:80",
            "[::1]:80:80",
            "[::1:80:80",
            "[10.0.0.1]:80:80",
            "[::]80:80",
            "1-65535",
            "80:80:80:80",
        ] {
            assert!(short(text).is_err(), "{text:?}: {:?}", short(text));
        }
    }

    #[test]
    fn a_port_is_held_until_it_is_let_go() {
        let free = &PortRequest::parse("80").unwrap();
        let (ports, held) = reserve(free, &[]).unwrap();
        let same = PortRequest::parse(&format!("{}:80", ports[0].host)).unwrap();
        assert!(matches!(reserve(&same, &[]), Err(NetworkError::PortTaken { by: None, .. })));
        drop(held);
        let (again, _held) = reserve(&same, &[]).unwrap();
        assert_eq!(again, ports);
    }

    #[test]
    fn a_port_is_published_once() {
        // As a connection that has ended, this lets those have the port who share it.
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddr::new(DEFAULT_ADDRESS, 0)).unwrap();
        let port = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap().port();
        let parse = |text: String| PortRequest::parse(&text).unwrap();
        reserve(&parse(format!("{port}:80")), &[]).unwrap();
        for second in [format!("{port}:81"), format!("0.0.0.0:{port}:81")] {
            let both = [parse(format!("{port}:80")), parse(second)].concat();
            let taken = reserve(&both, &[]).unwrap_err();
            assert!(matches!(taken, NetworkError::PortTaken { by: None, .. }), "{taken}");
        }
    }

    #[test]
    fn a_port_of_another_container_is_taken() {
        let everywhere = "0.0.0.0".parse().unwrap();
        let (mut ports, held) = reserve(&PortRequest::parse("80").unwrap(), &[]).unwrap();
        drop(held);
        ports[0].address = everywhere;
        let others = [("other".to_owned(), ports[0].clone())];
        let same = PortRequest::parse(&format!("{}:80", ports[0].host)).unwrap();
        let taken = reserve(&same, &others).unwrap_err();
        assert!(
            matches!(taken, NetworkError::PortTaken { by: Some(ref id), .. } if id == "other"),
            "{taken}"
        );
        let udp = PortRequest::parse(&format!("{}:80/udp", ports[0].host)).unwrap();
        assert_eq!(reserve(&udp, &others).unwrap().0[0].host, ports[0].host);
    }

    #[test]
    fn the_first_free_port_of_a_range_is_chosen() {
        let (ports, _held) = reserve(&PortRequest::parse("80").unwrap(), &[]).unwrap();
        let first = ports[0].host;
        let Some(last) = first.checked_add(20) else { return };
        let (chosen, _held) =
            reserve(&PortRequest::parse(&format!("{first}-{last}:80")).unwrap(), &[]).unwrap();
        assert!(chosen[0].host > first && chosen[0].host <= last);
    }
}
