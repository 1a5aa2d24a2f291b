//! A host for one trial, with a bridge of containers, another container, and an internet.
//!
//! ```text
//! other 10.88.0.3 --- br0 10.88.0.1 [host] up0 45.0.0.1 --- internet: 93.184.216.34, 8.8.8.8, 169.254.169.254 ...
//! gates 10.88.0.x --/
//! ```

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use cofferdam_network::namespace::enter;

pub(crate) use crate::own_host::{command, run_inside, sh, text, trial_inside, try_sh};
use crate::probe::{echo_tcp, echo_udp};

/// Addresses of the internet. One is what clouds have their metadata at.
pub(crate) const INTERNET: [&str; 8] = [
    "93.184.216.34",
    "93.184.216.35",
    "8.8.8.8",
    "169.254.169.254",
    "2606:2800::1",
    "2606:2800::2",
    "fd00:ec2::254",
    "172.20.0.9",
];

/// Addresses of this host, and of its other container.
pub(crate) const HOST: [&str; 4] = ["10.88.0.1", "fd88::1", "45.0.0.1", "2a00:45::1"];
pub(crate) const OTHER: [&str; 2] = ["10.88.0.3", "fd88::3"];

/// Ports with an echo behind them, by TCP and UDP, at every address.
pub(crate) const PORTS: [u16; 2] = [80, 443];

pub(crate) fn namespace(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Waits until a link of a namespace, or of the host, carries packets.
fn settle(link: &str) {
    cofferdam_testkit::lab::eventually("a link is up", || sh(&format!("ip {link}")).contains("state UP"));
    // The kernel says so shortly before it is so, and holds the lock meanwhile that a change waits for.
    sh(&format!("ip {}", link.replace("-o link show", "link set up")));
}

/// Makes a namespace with a link `eth0` to the bridge.
pub(crate) fn add_to_bridge(name: &str, addresses: &[&str]) {
    sh(&format!(
        "ip netns add {name}
         ip netns exec {name} sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
         ip link add v{name} type veth peer name eth0 netns {name}
         ip link set v{name} master br0 up
         ip -n {name} link set lo up
         ip -n {name} link set eth0 up"
    ));
    settle(&format!("-n {name} -o link show eth0"));
    settle(&format!("-o link show v{name}"));
    for address in addresses {
        sh(&format!("ip -n {name} addr add {address} dev eth0 $(echo {address} | grep -q : && echo nodad)"));
    }
    // One of them fails where there is but one family.
    let _ = try_sh(&format!("ip -n {name} route add default via 10.88.0.1; true"));
    let _ = try_sh(&format!("ip -n {name} -6 route add default via fd88::1"));
}

/// Makes the host's links and servers.
pub(crate) fn prepare() {
    sh("mount -t tmpfs tmpfs /run; mkdir /run/netns
        echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
        ip link set lo up
        ip link add br0 type bridge
        ip addr add 10.88.0.1/16 dev br0; ip addr add fd88::1/64 dev br0 nodad; ip link set br0 up
        ip netns add internet
        ip netns exec internet sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
        ip link add up0 type veth peer name eth0 netns internet
        ip addr add 45.0.0.1/24 dev up0; ip addr add 2a00:45::1/64 dev up0 nodad; ip link set up0 up
        ip -n internet link set lo up; ip -n internet link set eth0 up
        ip -n internet addr add 45.0.0.2/24 dev eth0; ip -n internet addr add 2a00:45::2/64 dev eth0 nodad
        ip -n internet addr add 9.9.9.9/32 dev lo
        ip -n internet route add 10.88.0.0/16 via 45.0.0.1; ip -n internet -6 route add fd88::/64 via 2a00:45::1
        ip route add default via 45.0.0.2; ip -6 route add default via 2a00:45::2
        echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
        echo nameserver 9.9.9.9 >/run/resolv.conf");
    for address in INTERNET {
        sh(&format!("ip -n internet addr add {address} dev lo $(echo {address} | grep -q : && echo nodad)"));
    }
    settle("-n internet -o link show eth0");
    settle("-o link show up0");
    // Published: the host's port 8080 is the container's 80.
    sh("nft 'table ip nat {
          chain pre { type nat hook prerouting priority -100; tcp dport 8080 dnat to 10.88.0.2:80; }
          chain out { type nat hook output priority -100; tcp dport 8080 dnat to 10.88.0.2:80; }
          chain post { type nat hook postrouting priority 100; oifname \"up0\" masquerade; }
        }'");
    add_to_bridge("other", &["10.88.0.3/16", "fd88::3/64"]);
    serve(Path::new("/proc/self/ns/net"), &HOST);
    serve(&namespace("other"), &OTHER);
    serve(&namespace("internet"), &INTERNET);
}

/// Puts echoes at addresses in a namespace.
pub(crate) fn serve(namespace: &Path, addresses: &[&str]) {
    for address in addresses {
        let address: std::net::IpAddr = address.parse().unwrap();
        for port in PORTS {
            let sockets = enter(namespace, move || {
                Ok((TcpListener::bind((address, port))?, UdpSocket::bind((address, port))?))
            });
            let (tcp, udp) = sockets.unwrap();
            std::thread::spawn(move || echo_tcp(&tcp));
            std::thread::spawn(move || echo_udp(&udp));
        }
    }
}
