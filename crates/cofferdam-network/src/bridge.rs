//! The network `bridge`, which cofferdam brings along: a bridge, addresses by host-local, ports by portmap. What leaves the
//! host is masqueraded (`bridge_rules`).
//!
//! There is one per machine, whatever the number of state directories. Its configuration is made once, when it is first
//! used, and written to `RUNTIME/bridge.conflist`; it goes with the next boot, as the bridge does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cni::client::{find_plugin, find_program};
use crate::cni::{CniVersion, NetworkConfig, config};
use crate::error::NetworkError;
use crate::lock::{Hold, Lock};
use crate::netlink;
use crate::record::write_whole;

/// The network's name.
pub const NAME: &str = "bridge";
/// The link's name on the host.
pub const LINK: &str = "cofferdam0";
/// The configuration's file.
const FILE: &str = "bridge.conflist";

/// Subnets that are tried in order. Docker has 172.17 to 172.31 and 192.168, podman 10.88 and 10.89, Kubernetes 10.96 and
/// 10.244, clouds often 10.0 and 172.31. Each has room for 4093 containers.
const SUBNETS: [(Ipv4Addr, u8); 6] = [
    (Ipv4Addr::new(10, 213, 0, 0), 20),
    (Ipv4Addr::new(10, 177, 64, 0), 20),
    (Ipv4Addr::new(10, 59, 128, 0), 20),
    (Ipv4Addr::new(172, 16, 208, 0), 20),
    (Ipv4Addr::new(192, 168, 208, 0), 20),
    (Ipv4Addr::new(100, 115, 96, 0), 20),
];
/// The flag of a route that came by a router's advertisement (linux/ipv6_route.h: RTF_ADDRCONF).
const LEARNED_ROUTE: u32 = 0x0004_0000;
/// MTUs that a bridge's links can have: IPv6 needs 1280 bytes; 65535 is the longest packet.
const MTUS: std::ops::RangeInclusive<u32> = 1280..=65535;

/// What may be chosen of the bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeOptions {
    /// Its IPv4 subnet; `None` for one that collides with no route of the host.
    pub subnet: Option<Ipv4Net>,
    /// Whether it has IPv6; `None` for yes if the host has, unless the host learns its own IPv6 route from a router's
    /// advertisements: forwarding, which the bridge needs, makes the kernel deaf for them.
    pub ipv6: Option<bool>,
    /// The MTU of its links, in bytes; `None` for that of the link of the host's default route.
    pub mtu: Option<u32>,
}

/// The plugins that it is made of.
const PLUGINS: [&str; 3] = ["bridge", "host-local", "portmap"];
/// What keeps its rules.
const RULE_PROGRAMS: [&str; 4] = ["iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"];

/// The programs that the bridge needs and this machine does not have. `plugins` are the directories of plugins.
#[must_use]
pub fn missing_programs(plugins: &[PathBuf]) -> Vec<&'static str> {
    let is_missing = |name: &&str| find_plugin(plugins, name).is_err();
    let missing_plugins = PLUGINS.into_iter().filter(is_missing);
    missing_plugins.chain(RULE_PROGRAMS.into_iter().filter(|name| find_program(name).is_err())).collect()
}

/// The network, made up if this is its first use since the boot.
///
/// # Errors
/// No subnet is free, or the options differ from those that it is in use with.
pub(crate) fn network(runtime: &Path, options: &BridgeOptions) -> Result<NetworkConfig, NetworkError> {
    let path = file(runtime);
    let failed = |source| NetworkError::Record { path: path.clone(), what: "written", source };
    if let Some(known) = written(&path, options)? {
        return Ok(known);
    }
    std::fs::create_dir_all(runtime).map_err(failed)?;
    let _lock = Lock::file(&runtime.join("bridge.lock"), Hold::Alone).map_err(failed)?;
    if let Some(known) = written(&path, options)? {
        return Ok(known);
    }
    let leases = leases(runtime);
    if path.exists() && has_leases(&leases.join(NAME)) {
        return Err(NetworkError::Invalid {
            what: "the options of the network",
            text: NAME.into(),
            reason: format!("containers use it with others; see {}", path.display()),
        });
    }
    // A bridge with the addresses of before would keep them.
    netlink::remove_link(LINK).map_err(|source| NetworkError::Link {
        link: LINK.into(),
        what: "removed",
        source,
    })?;
    let text = conflist(&leases, options, &Host::read())?.to_string();
    write_whole(&path, &runtime.join(".bridge.conflist.new"), text.as_bytes()).map_err(failed)?;
    parse(&path, text.as_bytes())
}

/// The network as [`network`] would give it, without making anything.
pub(crate) fn preview(runtime: &Path, options: &BridgeOptions) -> Result<NetworkConfig, NetworkError> {
    let path = file(runtime);
    match written(&path, options)? {
        Some(known) => Ok(known),
        None => parse(&path, conflist(&leases(runtime), options, &Host::read())?.to_string().as_bytes()),
    }
}

/// The network as it was written, if it was and is as the options want it.
fn written(path: &Path, options: &BridgeOptions) -> Result<Option<NetworkConfig>, NetworkError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(NetworkError::Record { path: path.to_owned(), what: "read", source }),
    };
    let network = parse(path, &text)?;
    let plugin = &network.plugins[0].0;
    let subnets = subnets(&network);
    let has_ipv6 = subnets.iter().any(|subnet| matches!(subnet, IpNet::V6(_)));
    let fits = options.subnet.is_none_or(|wanted| subnets.contains(&wanted.trunc().into()))
        && options.ipv6.is_none_or(|wanted| wanted == has_ipv6)
        && options.mtu.is_none_or(|wanted| plugin.get("mtu").and_then(Value::as_u64) == Some(wanted.into()));
    Ok(fits.then_some(network))
}

/// The subnets of the network: of IPv4, and of IPv6 if it has one.
pub(crate) fn subnets(network: &NetworkConfig) -> Vec<IpNet> {
    let ipam = network.plugins.first().and_then(|plugin| plugin.0.get("ipam"));
    let ranges = ipam.and_then(|ipam| ipam.get("ranges")).and_then(Value::as_array);
    let subnet = |range: &Value| range.get(0)?.get("subnet")?.as_str()?.parse().ok();
    ranges.into_iter().flatten().filter_map(subnet).collect()
}

fn parse(path: &Path, text: &[u8]) -> Result<NetworkConfig, NetworkError> {
    let refused = |reason| NetworkError::Configuration { path: path.to_owned(), reason };
    let (network, _) = config::parse(text, path).map_err(refused)?;
    if network.plugins.is_empty() { Err(refused("it has no plugins".into())) } else { Ok(network) }
}

fn has_leases(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().parse::<IpAddr>().is_ok())
}

/// What of the host decides about the bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Host {
    /// Where its IPv4 routes lead, without the default one.
    routes: Vec<Ipv4Net>,
    /// The MTU of the default route's link, in bytes.
    mtu: Option<u32>,
    /// Whether IPv6 can be forwarded without harm.
    ipv6: bool,
}

impl Host {
    fn read() -> Self {
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
        let routes6 = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
        let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
        let (routes, default_link) = read_routes(&routes);
        Self {
            routes,
            mtu: default_link.and_then(|link| netlink::mtu(&link).ok().flatten()),
            ipv6: disabled.is_ok_and(|text| text.trim() == "0") && !learns_default_route(&routes6),
        }
    }
}

/// Reads /proc/net/route: where routes lead, and the link of the default one.
fn read_routes(text: &str) -> (Vec<Ipv4Net>, Option<String>) {
    let mut routes = Vec::new();
    let mut default_link = None;
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [link, destination, _, _, _, _, _, mask, ..] = fields[..] else { continue };
        // The kernel prints the bytes of the address as one number of this machine.
        let address =
            |text: &str| u32::from_str_radix(text, 16).map(|value| Ipv4Addr::from(value.to_ne_bytes()));
        let (Ok(destination), Ok(mask)) = (address(destination), address(mask)) else { continue };
        match Ipv4Net::with_netmask(destination, mask) {
            Ok(net) if net.prefix_len() == 0 => default_link = default_link.or_else(|| Some(link.to_owned())),
            Ok(net) if link != LINK => routes.push(net),
            _ => {}
        }
    }
    (routes, default_link)
}

/// Reads /proc/net/ipv6_route: whether the default route came by a router's advertisement.
fn learns_default_route(text: &str) -> bool {
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = fields.get(8).and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or_default();
        fields.get(1) == Some(&"00") && flags & LEARNED_ROUTE != 0
    })
}

fn conflist(leases: &Path, options: &BridgeOptions, host: &Host) -> Result<Value, NetworkError> {
    let subnet = match options.subnet {
        Some(subnet) => check_subnet(subnet, host)?,
        None => free_subnet(host)?,
    };
    let mut ranges = vec![json!([{ "subnet": subnet }])];
    let mut routes = vec![json!({ "dst": "0.0.0.0/0" })];
    if options.ipv6.unwrap_or(host.ipv6) {
        ranges.push(json!([{ "subnet": random_unique_local() }]));
        routes.push(json!({ "dst": "::/0" }));
    }
    let mut bridge = json!({
        "type": "bridge",
        "bridge": LINK,
        "isGateway": true,
        "hairpinMode": true,
        "ipam": { "type": "host-local", "dataDir": leases, "ranges": ranges, "routes": routes },
    });
    if let Some(mtu) = options.mtu.or_else(|| host.mtu.filter(|mtu| MTUS.contains(mtu))) {
        if !MTUS.contains(&mtu) {
            return Err(invalid("MTU", mtu, "it is not from 1280 to 65535"));
        }
        bridge["mtu"] = json!(mtu);
    }
    let portmap = json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } });
    // 1.0.0 alone: there is no choice, so that no plugin is asked for its versions at each use. All plugins since 2021
    // speak it.
    Ok(json!({ "cniVersion": CniVersion::V1_0_0, "name": NAME, "plugins": [bridge, portmap] }))
}

fn check_subnet(subnet: Ipv4Net, host: &Host) -> Result<Ipv4Net, NetworkError> {
    let refused = |reason: &str| Err(invalid("subnet", subnet, reason));
    if !(8..=29).contains(&subnet.prefix_len()) {
        return refused("its prefix is not from 8 to 29");
    }
    match host.routes.iter().find(|route| overlap(**route, subnet)) {
        Some(route) => refused(&format!("the host has a route to {route}")),
        None => Ok(subnet.trunc()),
    }
}

fn free_subnet(host: &Host) -> Result<Ipv4Net, NetworkError> {
    let candidates = SUBNETS.iter().filter_map(|(address, prefix)| Ipv4Net::new(*address, *prefix).ok());
    let mut free = candidates.filter(|subnet| !host.routes.iter().any(|route| overlap(*route, *subnet)));
    free.next().ok_or_else(|| invalid("subnet", NAME, "the host has routes to all that are tried; name one"))
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// A prefix of RFC 4193: fd, forty random bits, subnet zero.
fn random_unique_local() -> Ipv6Net {
    let random = uuid::Uuid::new_v4().into_bytes();
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&random[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(bytes), 64)
}

fn invalid(what: &'static str, text: impl ToString, reason: &str) -> NetworkError {
    NetworkError::Invalid { what, text: text.to_string(), reason: reason.to_owned() }
}

/// The file of the network's configuration.
pub(crate) fn file(runtime: &Path) -> PathBuf {
    runtime.join(FILE)
}

/// Where leases of the bridge are.
pub(crate) fn leases(runtime: &Path) -> PathBuf {
    runtime.join("leases")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(routes: &[&str]) -> Host {
        Host {
            routes: routes.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: Some(1400),
            ipv6: true,
        }
    }

    fn network_of(options: &BridgeOptions, host: &Host) -> Result<NetworkConfig, NetworkError> {
        let text = conflist(Path::new("/run/leases"), options, host)?;
        parse(Path::new("x.conflist"), text.to_string().as_bytes())
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_of_the_host_are_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            cofferdam0\t0000D50A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n\
            broken\n";
        assert_eq!(read_routes(text), (vec!["10.0.0.0/16".parse().unwrap()], Some("eth0".into())));
        assert_eq!(read_routes(""), (vec![], None));
    }

    #[test]
    fn a_learned_default_route_is_told_from_a_written_one() {
        let zero = "00000000000000000000000000000000";
        let line = |prefix: &str, flags: &str| {
            format!("{zero} {prefix} {zero} 00 {zero} 00000400 00000001 00000000 {flags} eth0\n")
        };
        assert!(learns_default_route(&line("00", "00450003")));
        assert!(!learns_default_route(&line("00", "00000003")));
        assert!(!learns_default_route(&line("40", "00450003")));
    }

    #[test]
    fn the_subnet_collides_with_no_route() {
        let subnet = |routes: &[&str]| {
            let network = network_of(&BridgeOptions::default(), &host(routes)).unwrap();
            subnets(&network)[0].to_string()
        };
        assert_eq!(subnet(&[]), "10.213.0.0/20");
        assert_eq!(subnet(&["10.213.4.0/24"]), "10.177.64.0/20");
        assert_eq!(subnet(&["10.0.0.0/8"]), "172.16.208.0/20");
        let full = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];
        assert!(network_of(&BridgeOptions::default(), &host(&full)).is_err());
        let chosen =
            BridgeOptions { subnet: Some("10.9.8.7/24".parse().unwrap()), ..BridgeOptions::default() };
        assert_eq!(subnets(&network_of(&chosen, &host(&[])).unwrap())[0].to_string(), "10.9.8.0/24");
        assert!(network_of(&chosen, &host(&["10.9.0.0/16"])).is_err());
    }

    #[test]
    fn options_and_the_host_decide() {
        let of = |ipv6, mtu, host: &Host| network_of(&BridgeOptions { subnet: None, ipv6, mtu }, host);
        let plain = of(None, None, &host(&[])).unwrap();
        assert_eq!(plain.plugins[0].0["mtu"], 1400);
        assert_eq!(subnets(&plain).len(), 2);
        assert!(matches!(subnets(&plain)[1], IpNet::V6(net) if net.addr().segments()[0] >> 8 == 0xfd));
        assert!(plain.is_capable("portMappings"));
        assert_eq!(subnets(&of(Some(false), Some(9000), &host(&[])).unwrap()).len(), 1);
        assert_eq!(subnets(&of(None, None, &Host { ipv6: false, ..host(&[]) }).unwrap()).len(), 1);
        assert!(of(None, Some(100), &host(&[])).is_err());
        let loopback = Host { mtu: Some(65536), ..host(&[]) };
        assert!(of(None, None, &loopback).unwrap().plugins[0].0.get("mtu").is_none());
    }
}
