//! A container that tries to lead around its gate.

use crate::Trial;
use crate::container::Container;
use crate::host::{namespace, serve, sh, try_sh};
use crate::probe::{is_silent, tcp, udp};

pub(crate) const TRIALS: &[Trial] = &[
    ("frames_that_no_hook_of_the_container_sees_are_held_too", frames),
    ("a_container_that_administers_its_network_gains_nothing", administrator),
    ("a_link_put_on_the_gate_from_inside_carries_nothing", link_through_peer),
];

/// gVisor takes the addresses away, and sends frames on the link. Here another namespace does, behind a bridge in the
/// container's: its packets are none of that namespace's own.
fn frames() {
    let container = Container::new("allow:93.184.216.34:80");
    sh("ip -n inner addr flush dev eth0 scope global
        ip -n inner link add b0 type bridge; ip -n inner link set eth0 master b0; ip -n inner link set b0 up
        ip netns add stack; ip -n inner link add v type veth peer name eth0 netns stack
        ip -n inner link set v master b0 up
        mac=$(ip -n inner -o link show eth0 | grep -o 'ether [0-9a-f:]*' | cut -d' ' -f2)
        ip -n inner link set eth0 address 02:00:00:00:00:01
        ip -n stack link set eth0 address $mac up
        ip -n stack addr add 10.88.0.2/16 dev eth0; ip -n stack addr add fd88::2/64 dev eth0 nodad noprefixroute
        ip -n stack -6 route add fd88::1 dev eth0
        ip -n stack route add default via 10.88.0.1; ip -n stack -6 route add default via fd88::1");
    let stack = namespace("stack");
    cofferdam_testkit::lab::eventually("the bridge forwards", || tcp(&stack, "93.184.216.34:80"));
    for to in [
        "93.184.216.34:443",
        "8.8.8.8:80",
        "169.254.169.254:80",
        "10.88.0.1:80",
        "10.88.0.3:80",
        "[2606:2800::1]:80",
    ] {
        assert!(!tcp(&stack, to) && !udp(&stack, to), "{to}");
    }
    container.change("public").unwrap();
    assert!(tcp(&stack, "8.8.8.8:80") && tcp(&stack, "[2606:2800::1]:80") && !tcp(&stack, "10.88.0.3:80"));
    serve(&stack, &["10.88.0.2"]);
    assert!(tcp(&namespace("internet"), "45.0.0.1:8080"), "a published port");

    // Under another address nothing passes, also where the gate would send the answer back.
    sh("ip -n stack addr del 10.88.0.2/16 dev eth0; ip -n stack addr add 10.88.0.77/16 dev eth0
        ip -n stack route add default via 10.88.0.1 src 10.88.0.77");
    assert!(is_silent(&stack, "8.8.8.8:80"));
    assert!(is_silent(&namespace("internet"), "10.88.0.77:80"));
}

fn administrator() {
    let container = Container::new("allow:93.184.216.34:80");
    let blocked = || {
        for to in ["8.8.8.8:80", "169.254.169.254:80", "10.88.0.1:80", "10.88.0.3:80", "169.254.53.53:80"] {
            assert!(is_silent(&container.inner, to), "{to}");
        }
    };
    let inside = |script: &str| {
        let _ = try_sh(&format!("ip netns exec inner sh -c '{script}'"));
    };
    for script in [
        "nft flush ruleset; iptables -F; iptables -P OUTPUT ACCEPT",
        "ip route flush table main; ip route add 10.88.0.1 dev eth0; ip route add default via 10.88.0.1 dev eth0",
        "ip addr add 10.88.0.1/32 dev lo; ip addr del 10.88.0.1/32 dev lo",
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv4/conf/all/accept_redirects",
        "ip neigh replace 10.88.0.3 lladdr ff:ff:ff:ff:ff:ff dev eth0; ip route add 10.88.0.3 dev eth0",
        "ip link add v1 link eth0 type vlan id 5; ip link set v1 up; ip addr add 10.88.0.50/16 dev v1",
        "ip tunnel add t0 mode ipip local 10.88.0.2 remote 169.254.53.53; ip link set t0 up; ip route add 8.8.8.8 dev t0",
    ] {
        inside(script);
        blocked();
    }
    assert!(tcp(&container.inner, "93.184.216.34:80"));
}

/// In the host's user namespace CAP_NET_ADMIN is good for the peer of the container's link too: the kernel puts links
/// on it that end in the container. What they carry leaves on the gate's outer link, where only the gate's own passes.
fn link_through_peer() {
    let container = Container::new("allow:93.184.216.34:80");
    let index = sh("ip -n gate -o link show eth0 | cut -d: -f1");
    sh("ip -n inner -o link show eth0");
    sh(&format!(
        "ip -n inner link add x link if{index} link-netnsid 0 type macvlan mode bridge
         ip -n inner link set x up
         ip -n inner addr add 10.88.0.77/16 dev x noprefixroute
         ip -n inner route add 10.88.0.3 dev x src 10.88.0.77
         ip -n inner route add 10.88.0.1 dev x src 10.88.0.77
         ip -n inner route add 8.8.8.8 via 10.88.0.1 dev x src 10.88.0.77"
    ));
    let around = || ["10.88.0.3:80", "10.88.0.1:80", "8.8.8.8:80"].map(|to| !is_silent(&container.inner, to));
    assert_eq!(around(), [false; 3]);
    assert!(tcp(&container.inner, "93.184.216.34:80"), "the gate's own way");

    // A mark that is guessed wrong is no mark.
    sh("ip netns exec inner nft 'table inet x { chain o { type filter hook output priority 0; meta mark set 0x1; }
        }'");
    assert_eq!(around(), [false; 3]);
    // This is what it is for: without it, the container is out.
    sh("ip netns exec gate nft delete table netdev cofferdam");
    cofferdam_testkit::lab::eventually("the container is around its gate", || around() == [true; 3]);
}
