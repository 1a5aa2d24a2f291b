//! Links, addresses, routes and neighbours of the network namespace that the calling thread is in.
//!
//! Blocks; each use has a socket and an event loop of its own, since a socket belongs to the namespace it was opened
//! in.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, State};
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// How long a link may take until it carries packets, and how often it is looked at. The kernel drops what is sent
/// before, and a client waits for a second then.
const SETTLING_LIMIT: Duration = Duration::from_secs(5);
const SETTLING_LOOK: Duration = Duration::from_millis(2);

/// A link, as far as it matters here.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: Vec<u8>,
    pub(super) mtu: u32,
    pub(super) alias: Option<String>,
    is_bridge: bool,
    is_up: bool,
}

/// A route to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: IpNet,
    pub(super) via: Option<IpAddr>,
    /// The address that the kernel speaks from along it.
    pub(super) source: Option<IpAddr>,
}

/// An open way to the kernel's tables.
#[derive(Debug)]
pub(super) struct Links {
    handle: Handle,
}

/// Runs `act` with the tables of the thread's namespace.
pub(super) fn with<T>(act: impl AsyncFnOnce(Links) -> io::Result<T>) -> io::Result<T> {
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    event_loop.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let done = act(Links { handle }).await;
        connection.abort();
        done
    })
}

impl Links {
    /// The link of a name, if there is one.
    pub(super) async fn find(&self, name: &str) -> io::Result<Option<Link>> {
        let mut all = self.handle.link().get().execute();
        while let Some(message) = all.try_next().await.map_err(refused)? {
            if message.attributes.iter().any(|one| matches!(one, LinkAttribute::IfName(own) if own == name)) {
                return Ok(Some(link(&message)));
            }
        }
        Ok(None)
    }

    pub(super) async fn add_veth(&self, name: &str, peer: &str) -> io::Result<()> {
        self.handle.link().add(LinkVeth::new(name, peer).build()).execute().await.map_err(refused)
    }

    /// Changes a link in the ways that `change` says.
    pub(super) async fn set(
        &self,
        index: u32,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> io::Result<()> {
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.handle.link().set(message).execute().await.map_err(refused)
    }

    /// Gives a link to another namespace, under another name.
    pub(super) async fn give(&self, index: u32, to: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let descriptor = to.as_raw_fd();
        self.set(index, |link| link.setns_by_fd(descriptor).name(name.to_owned())).await
    }

    /// Waits until a link carries packets.
    pub(super) async fn settle(&self, name: &str) -> io::Result<()> {
        let deadline = Instant::now() + SETTLING_LIMIT;
        loop {
            match self.find(name).await? {
                // The kernel says so shortly before it is so, and holds the lock meanwhile that a change waits for.
                Some(link) if link.is_up => return self.set(link.index, |link| link.up()).await,
                _ if Instant::now() > deadline => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{name} does not come up")));
                }
                _ => tokio::time::sleep(SETTLING_LOOK).await,
            }
        }
    }

    pub(super) async fn remove(&self, index: u32) -> io::Result<()> {
        self.handle.link().del(index).execute().await.map_err(refused)
    }

    /// Adds an address. IPv6 is used at once, and brings no route to its network: a gate answers for no neighbours but
    /// the gateway.
    pub(super) async fn add_address(&self, index: u32, net: IpNet, is_for_link: bool) -> io::Result<()> {
        let mut request = self.handle.address().add(index, net.addr(), net.prefix_len()).replace();
        let message = request.message_mut();
        if net.addr().is_ipv6() {
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
        } else if is_for_link {
            message.header.scope = AddressScope::Link;
        }
        request.execute().await.map_err(refused)
    }

    /// Takes these addresses away from a link.
    pub(super) async fn remove_addresses(&self, index: u32, nets: &[IpNet]) -> io::Result<()> {
        let all: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(refused)?;
        for message in all {
            if own_address(&message).is_some_and(|own| nets.iter().any(|net| net.addr() == own.addr())) {
                self.handle.address().del(message).execute().await.map_err(refused)?;
            }
        }
        Ok(())
    }

    pub(super) async fn add_route(&self, index: u32, route: &Route) -> io::Result<()> {
        let message = route_message(index, route)?;
        self.handle.route().add(message).replace().execute().await.map_err(refused)
    }

    /// Answers on a link for a neighbour who is elsewhere.
    pub(super) async fn add_proxy(&self, index: u32, address: IpAddr) -> io::Result<()> {
        self.handle
            .neighbours()
            .add(index, address)
            .flags(NeighbourFlags::Proxy)
            .execute()
            .await
            .map_err(refused)
    }

    /// What belongs to the namespace's owner: its addresses, and the networks of its bridges.
    pub(super) async fn own_nets(&self) -> io::Result<Vec<IpNet>> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(refused)?;
        let bridges: Vec<u32> =
            links.iter().map(link).filter(|link| link.is_bridge).map(|link| link.index).collect();
        let all: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(refused)?;
        let mut nets = Vec::new();
        for message in &all {
            let Some(net) = own_address(message) else { continue };
            nets.push(IpNet::from(net.addr()));
            if bridges.contains(&message.header.index) {
                nets.push(net.trunc());
            }
        }
        Ok(nets)
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        mac: Vec::new(),
        mtu: 0,
        alias: None,
        is_bridge: false,
        is_up: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::OperState(state) => link.is_up = *state == State::Up,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
            }
            _ => {}
        }
    }
    link
}

/// The address itself: on a point-to-point link the kernel calls the other end's `Address`.
fn own_address(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|one| match one {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|one| match one {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn route_message(index: u32, route: &Route) -> io::Result<RouteMessage> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.to.addr(), route.to.prefix_len())
        .map_err(io::Error::other)?
        .output_interface(index);
    builder = match route.via {
        Some(gateway) => builder.gateway(gateway).map_err(io::Error::other)?.onlink(),
        None => builder.scope(RouteScope::Link),
    };
    if let Some(source) = route.source {
        builder = builder.pref_source(source).map_err(io::Error::other)?;
    }
    Ok(builder.build())
}

fn refused(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
