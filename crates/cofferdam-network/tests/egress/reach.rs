//! What each policy lets through.

use hickory_proto::rr::RecordType;

use crate::Trial;
use crate::container::Container;
use crate::dns::{World, addresses, ask_for};
use crate::host::{HOST, INTERNET, OTHER, namespace};
use crate::probe::{ping, tcp, udp};

pub(crate) const TRIALS: &[Trial] = &[
    ("none_lets_nothing_out_and_answers_back", none),
    ("public_is_the_internet_and_nothing_else", public),
    ("a_list_opens_what_it_names_and_nothing_else", list),
    ("a_container_of_ipv4_alone_is_held", v4_alone),
    ("a_container_of_ipv6_alone_is_held", v6_alone),
    ("a_wide_network_opens_nothing_that_is_guarded", wide),
];

/// What of everything, at ports 80 and 443, can be reached.
fn reached(container: &Container) -> Vec<String> {
    let mut found = Vec::new();
    for address in INTERNET.iter().chain(&HOST).chain(&OTHER) {
        for port in crate::host::PORTS {
            let to = std::net::SocketAddr::new(address.parse().unwrap(), port).to_string();
            found.extend(tcp(&container.inner, &to).then(|| format!("tcp {to}")));
            found.extend(udp(&container.inner, &to).then(|| format!("udp {to}")));
        }
        found.extend(ping(&container.inner, address).then(|| format!("icmp {address}")));
    }
    found
}

fn all_of(addresses: &[&str]) -> Vec<String> {
    let of = |address: &&str| {
        let at = |port| std::net::SocketAddr::new(address.parse().unwrap(), port);
        let ports = [80, 443]
            .into_iter()
            .flat_map(move |port| [format!("tcp {}", at(port)), format!("udp {}", at(port))]);
        ports.chain([format!("icmp {address}")]).collect::<Vec<_>>()
    };
    addresses.iter().flat_map(of).collect()
}

/// Connections that come in, by every way.
fn is_published(container: &Container) {
    let (host, internet) = (std::path::Path::new("/proc/self/ns/net"), namespace("internet"));
    assert!(tcp(host, "10.88.0.1:8080"), "the host's own way to a published port");
    assert!(tcp(&internet, "45.0.0.1:8080"), "the internet's way to a published port");
    for to in ["10.88.0.2:443", "[fd88::2]:443"] {
        assert!(tcp(&namespace("other"), to) && tcp(host, to) && udp(host, to), "{to}");
    }
    assert!(ping(host, "10.88.0.2") && ping(host, "fd88::2"));
    assert!(tcp(&container.inner, "10.88.0.2:80"), "the container's own address");
}

fn none() {
    let container = Container::new("none");
    assert_eq!(reached(&container), Vec::<String>::new());
    assert!(!tcp(&container.inner, "[::ffff:93.184.216.34]:80"));
    assert!(!udp(&container.inner, crate::container::RESOLVER));
    is_published(&container);
}

fn public() {
    let container = Container::new("public");
    let internet = ["93.184.216.34", "93.184.216.35", "8.8.8.8", "2606:2800::1", "2606:2800::2"];
    assert_eq!(reached(&container), all_of(&internet));
    assert!(tcp(&container.inner, "[::ffff:93.184.216.34]:80"), "the same address in another dress");
    assert!(!tcp(&container.inner, "[::ffff:169.254.169.254]:80"));
    assert!(!tcp(&container.inner, "[::ffff:10.88.0.1]:80"));
    is_published(&container);
}

fn list() {
    let container = Container::new(
        "allow:93.184.216.34:80,93.184.216.35:443/udp,[2606:2800::1]:443,8.8.8.8,10.88.0.3:80,[fd88::1]:80,\
         169.254.169.254:80",
    );
    let mut expected = vec!["tcp 93.184.216.34:80".to_owned(), "udp 93.184.216.35:443".to_owned()];
    expected.extend(all_of(&["8.8.8.8"]));
    expected.extend(
        ["tcp 169.254.169.254:80", "tcp [2606:2800::1]:443", "tcp [fd88::1]:80", "tcp 10.88.0.3:80"]
            .map(String::from),
    );
    assert_eq!(reached(&container), expected);
    is_published(&container);
}

fn wide() {
    let container = Container::new("allow:0.0.0.0/0,[::/0],10.0.0.0/8,[fc00::/7]");
    let internet = ["93.184.216.34", "93.184.216.35", "8.8.8.8", "2606:2800::1", "2606:2800::2"];
    assert_eq!(reached(&container), all_of(&internet));
    container.change("allow:10.88.0.0/16:80,172.16.0.0/12:80").unwrap();
    assert_eq!(reached(&container), ["tcp 172.20.0.9:80", "tcp 10.88.0.3:80"]);
}

fn v4_alone() {
    let container = Container::at("allow:93.184.216.34:80", &["10.88.0.2/16"], &["10.88.0.1"]);
    assert_eq!(reached(&container), ["tcp 93.184.216.34:80"]);
    container.change("public").unwrap();
    assert_eq!(reached(&container), all_of(&["93.184.216.34", "93.184.216.35", "8.8.8.8"]));
}

fn v6_alone() {
    let world = World::start();
    world.add("api.example", &["api.example 2606:2800::2"], 60);
    let container = Container::at("allow:[2606:2800::1]:80,api.example:443", &["fd88::2/64"], &["fd88::1"]);
    let _served = container.serve();
    assert_eq!(reached(&container), ["tcp [2606:2800::1]:80"]);
    let resolver = std::net::SocketAddr::new(container.gate.resolver(), 53).to_string();
    let answer = ask_for(&container.inner, &resolver, "api.example", RecordType::AAAA).unwrap();
    assert_eq!(addresses(&answer), ["2606:2800::2"]);
    assert_eq!(reached(&container), ["tcp [2606:2800::1]:80", "tcp [2606:2800::2]:443"]);
    container.change("public").unwrap();
    assert_eq!(reached(&container), all_of(&["2606:2800::1", "2606:2800::2"]));
}
