//! The links of a gate: a namespace between the container's and the network.
//!
//! ```text
//!  container's namespace          gate's namespace                    network
//!  eth0 ADDR  ----------------- gate0   (forward)   eth0 ------------ bridge
//!                               169.254.53.53       without ADDR
//! ```
//!
//! The container keeps the address, the hardware address and the MTU that the network gave. The gate forwards, and
//! answers on each side for those on the other. What the container does to its own link, rules and routes, or sends as
//! raw frames (gVisor sends nothing else), arrives at `gate0` and is forwarded or not.
//!
//! Invariant: what must be put back is written in the alias of `gate0`, in the kernel, before it is taken away.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use ipnet::IpNet;

use super::links::{self, Link, Links, Route};
use super::rules::{INNER_LINK, RESOLVER_V4, RESOLVER_V6};
use crate::attachment::Attachment;

/// The longest alias of a link that the kernel keeps (`IFALIASZ`, with its end).
const LONGEST_ALIAS: usize = 255;

/// Name of the container's end until it is there, where `eth0` is free.
const UNDERWAY: &str = "gate1";

/// How a network has attached the gate's namespace, where a container's was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface that the network made, of the same name in both namespaces.
    pub interface: String,
    /// Its addresses, with the lengths of their networks' prefixes. The container gets them.
    pub addresses: Vec<IpNet>,
    /// Who forwards, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Routes: the network, and who forwards to it where it is not the gateway.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

impl From<&Attachment> for Uplink {
    fn from(attachment: &Attachment) -> Self {
        Self {
            interface: attachment.interface.clone(),
            addresses: attachment.addresses.clone(),
            gateways: attachment.gateways.clone(),
            routes: attachment.routes.iter().map(|route| (route.dst, route.gw)).collect(),
        }
    }
}

impl Uplink {
    fn gateway(&self, is_v4: bool) -> Option<IpAddr> {
        self.gateways.iter().find(|gateway| gateway.is_ipv4() == is_v4).copied()
    }

    /// Routes beyond the own networks; the default by way of the gateway, where no route says so.
    fn routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        for gateway in &self.gateways {
            let default = if gateway.is_ipv4() { IpNet::from(V4_ANY) } else { IpNet::from(V6_ANY) };
            routes.push(Route { to: default, via: Some(*gateway), source: None });
        }
        for (to, via) in &self.routes {
            let via = via.or_else(|| self.gateway(to.addr().is_ipv4()));
            let route = Route { to: *to, via, source: None };
            routes.retain(|known| known.to != *to);
            routes.push(route);
        }
        routes
    }

    pub(super) fn alias(&self) -> Result<String, String> {
        let words: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let alias = format!("{} {}", self.interface, words.join(" "));
        if self.addresses.is_empty() {
            return Err("it has no address".into());
        }
        if self.interface == INNER_LINK || self.interface == UNDERWAY {
            return Err(format!(
                "its interface is called {}, as the gate's own; call it eth0",
                self.interface
            ));
        }
        if alias.len() > LONGEST_ALIAS {
            return Err(format!("{} addresses are too many", self.addresses.len()));
        }
        Ok(alias)
    }
}

const V4_ANY: ipnet::Ipv4Net = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0);
const V6_ANY: ipnet::Ipv6Net = ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0);

/// What the alias of a gate's link says: the outer interface, and its addresses.
pub(super) fn read_alias(alias: &str) -> Option<(String, Vec<IpNet>)> {
    let mut words = alias.split(' ');
    let interface = words.next()?.to_owned();
    let addresses: Result<Vec<IpNet>, _> = words.map(str::parse).collect();
    addresses.ok().filter(|addresses| !addresses.is_empty()).map(|addresses| (interface, addresses))
}

/// Makes the gate's side, in its namespace, and hands the other end to the container's. Returns what the container's
/// end shall look like.
pub(super) fn outside(uplink: &Uplink, inner: &OwnedFd) -> io::Result<Link> {
    links::with(async |links| {
        let Some(outer) = links.find(&uplink.interface).await? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {}", uplink.interface)));
        };
        links.add_veth(INNER_LINK, UNDERWAY).await?;
        let done = connect(&links, uplink, &outer, inner).await;
        if done.is_err()
            && let Err(error) = disconnect(&links, uplink, &outer).await
        {
            tracing::warn!(%error, "the links of a gate that failed are not as they were");
        }
        done.map(|()| outer)
    })
}

/// Takes away what [`connect`] has made so far.
async fn disconnect(links: &Links, uplink: &Uplink, outer: &Link) -> io::Result<()> {
    let Some(link) = links.find(INNER_LINK).await? else { return Ok(()) };
    links.remove(link.index).await?;
    for address in &uplink.addresses {
        links.add_address(outer.index, *address, false).await?;
    }
    Ok(())
}

async fn connect(links: &Links, uplink: &Uplink, outer: &Link, inner: &OwnedFd) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the gate's link is gone");
    let gate = links.find(INNER_LINK).await?.ok_or_else(missing)?.index;
    let other = links.find(UNDERWAY).await?.ok_or_else(missing)?.index;
    let alias = uplink.alias().map_err(io::Error::other)?;
    links.set(gate, |link| link.mtu(outer.mtu).alias(alias)).await?;
    links.give(other, inner.as_fd(), &uplink.interface).await?;
    for setting in settings(uplink) {
        write_setting(&setting)?;
    }
    links.remove_addresses(outer.index, &uplink.addresses).await?;
    links.set(gate, |link| link.up()).await?;
    for resolver in [IpAddr::from(RESOLVER_V4), IpAddr::from(RESOLVER_V6)] {
        if uplink.addresses.iter().any(|net| net.addr().is_ipv4() == resolver.is_ipv4()) {
            links.add_address(gate, IpNet::from(resolver), true).await?;
        }
    }
    for net in &uplink.addresses {
        let is_v4 = net.addr().is_ipv4();
        let source: Option<IpAddr> = Some(if is_v4 { RESOLVER_V4.into() } else { RESOLVER_V6.into() });
        links.add_route(gate, &Route { to: net.addr().into(), via: None, source }).await?;
        links.add_route(outer.index, &Route { to: net.trunc(), via: None, source: None }).await?;
        if !is_v4 {
            links.add_proxy(outer.index, net.addr()).await?;
        }
    }
    for gateway in &uplink.gateways {
        links.add_route(outer.index, &Route { to: (*gateway).into(), via: None, source: None }).await?;
        if gateway.is_ipv6() {
            links.add_proxy(gate, *gateway).await?;
        }
    }
    for route in uplink.routes() {
        links.add_route(outer.index, &route).await?;
    }
    Ok(())
}

/// Makes the container's side, in its namespace: what the network would have made.
pub(super) fn inside(uplink: &Uplink, like: &Link) -> io::Result<()> {
    // No neighbour has the address, since the gate answers for all of them.
    write_optional_setting(&format!("ipv6/conf/{}/accept_dad", uplink.interface), "0")?;
    links::with(async |links| {
        if let Some(loopback) = links.find("lo").await? {
            links.set(loopback.index, |link| link.up()).await?;
        }
        let Some(link) = links.find(&uplink.interface).await? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {}", uplink.interface)));
        };
        links.set(link.index, |link| link.address(like.mac.clone()).mtu(like.mtu)).await?;
        links.set(link.index, |link| link.up()).await?;
        for net in &uplink.addresses {
            links.add_address(link.index, *net, false).await?;
        }
        for gateway in &uplink.gateways {
            let is_beyond = uplink.addresses.iter().all(|net| !net.contains(gateway));
            if gateway.is_ipv6() || is_beyond {
                links
                    .add_route(link.index, &Route { to: (*gateway).into(), via: None, source: None })
                    .await?;
            }
        }
        for route in uplink.routes() {
            links.add_route(link.index, &route).await?;
        }
        links.settle(&uplink.interface).await
    })
}

/// Waits until the gate's link carries packets.
pub(super) fn settle() -> io::Result<()> {
    links::with(async |links| links.settle(INNER_LINK).await)
}

/// Takes the gate's link away, and puts the addresses back, which plugins look for when they take an attachment away.
pub(super) fn unmake() -> io::Result<()> {
    links::with(async |links| {
        let Some(gate) = links.find(INNER_LINK).await? else { return Ok(()) };
        if let Some((interface, addresses)) = gate.alias.as_deref().and_then(read_alias)
            && let Some(outer) = links.find(&interface).await?
        {
            // The routes to them lead to the gate's link until it is gone; the rules still let nothing through.
            for address in addresses {
                links.add_address(outer.index, address, false).await?;
            }
        }
        links.remove(gate.index).await
    })
}

/// Settings of the gate's namespace: below /proc/sys/net, and the value.
fn settings(uplink: &Uplink) -> Vec<(String, &'static str)> {
    let outer = uplink.interface.as_str();
    let mut all = vec![("ipv4/ip_forward".to_owned(), "1")];
    // A refusal is said to each packet: where it is not, the container waits. There is nobody else to be flooded.
    all.push(("ipv4/icmp_ratelimit".to_owned(), "0"));
    // The gate's own address is nobody's business on the network.
    all.push((format!("ipv4/conf/{outer}/arp_ignore"), "1"));
    for link in [outer, INNER_LINK] {
        all.push((format!("ipv4/conf/{link}/proxy_arp"), "1"));
        // The kernel waits up to 0.8 s before it answers for somebody else.
        all.push((format!("ipv4/neigh/{link}/proxy_delay"), "0"));
        all.push((format!("ipv4/conf/{link}/send_redirects"), "0"));
    }
    if uplink.addresses.iter().any(|net| net.addr().is_ipv6()) {
        all.push(("ipv6/conf/all/forwarding".to_owned(), "1"));
        all.push(("ipv6/icmp/ratelimit".to_owned(), "0"));
        all.push((format!("ipv6/conf/{INNER_LINK}/accept_dad"), "0"));
        for link in [outer, INNER_LINK] {
            all.push((format!("ipv6/conf/{link}/proxy_ndp"), "1"));
            all.push((format!("ipv6/neigh/{link}/proxy_delay"), "0"));
        }
    }
    all
}

fn write_setting((name, value): &(String, &'static str)) -> io::Result<()> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    std::fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}

/// The same, where the kernel may be without the protocol.
fn write_optional_setting(name: &str, value: &'static str) -> io::Result<()> {
    match write_setting(&(name.to_owned(), value)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink() -> Uplink {
        Uplink {
            interface: "eth0".into(),
            addresses: vec!["10.88.0.2/16".parse().unwrap(), "fd88::2/64".parse().unwrap()],
            gateways: vec!["10.88.0.1".parse().unwrap()],
            routes: vec![("0.0.0.0/0".parse().unwrap(), None), ("10.9.0.0/16".parse().unwrap(), None)],
        }
    }

    #[test]
    fn an_alias_says_what_is_put_back() {
        let alias = uplink().alias().unwrap();
        assert_eq!(alias, "eth0 10.88.0.2/16 fd88::2/64");
        assert_eq!(read_alias(&alias), Some(("eth0".into(), uplink().addresses)));
        assert_eq!((read_alias("eth0"), read_alias("eth0 x")), (None, None));
        assert!(Uplink { addresses: vec![], ..uplink() }.alias().is_err());
        assert!(Uplink { interface: "gate0".into(), ..uplink() }.alias().is_err());
        assert!(Uplink { addresses: uplink().addresses.repeat(20), ..uplink() }.alias().is_err());
    }

    #[test]
    fn each_network_has_one_route() {
        let routes: Vec<String> =
            uplink().routes().iter().map(|route| format!("{} {:?}", route.to, route.via)).collect();
        assert_eq!(routes, ["0.0.0.0/0 Some(10.88.0.1)", "10.9.0.0/16 Some(10.88.0.1)"]);
    }
}
