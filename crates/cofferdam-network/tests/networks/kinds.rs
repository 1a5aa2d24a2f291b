//! Other networks than the bridge: ptp, macvlan, UDP, and many at once.

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use cofferdam_network::ports::PortRequest;
use cofferdam_network::{Attachment, Networks, Places};
use serde_json::{Value, json};

use crate::Trial;
use crate::host::{Left, get, get_from, networks, networks_at, places, request, serve, sh, until, wait};

pub(crate) const TRIALS: &[Trial] = &[
    ("kinds::ptp_carries_connections", ptp_carries_connections),
    ("kinds::macvlan_carries_connections", macvlan_carries_connections),
    ("kinds::udp_is_published", udp_is_published),
    ("kinds::the_world_is_reached_and_reaches_ports", the_world_is_reached_and_reaches_ports),
    ("kinds::a_container_does_not_reach_the_hosts_loopback", a_container_does_not_reach_the_hosts_loopback),
    ("kinds::many_at_once_get_addresses_of_their_own", many_at_once_get_addresses_of_their_own),
];

/// How many containers are attached at once, by how many tasks.
const MANY: usize = 100;
const TASKS: usize = 8;

fn with_network(config: &Value) -> Networks {
    sh("mkdir -p /run/net.d");
    std::fs::write("/run/net.d/net.conflist", config.to_string()).unwrap();
    networks_at(Places { configurations: vec!["/run/net.d".into()], ..places() })
}

fn url(attachment: &Attachment) -> String {
    format!("{}:80", attachment.addresses[0].addr())
}

fn ptp_carries_connections() {
    let ipam = json!({"type": "host-local", "subnet": "10.77.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
    let networks = with_network(&json!({"cniVersion": "0.4.0", "name": "net", "plugins": [
        {"type": "ptp", "ipMasq": true, "ipam": ipam, "dns": {"nameservers": ["10.77.0.1"]}},
        {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
    ]}));
    wait(async {
        let mut asked = request("net");
        asked.ports = PortRequest::parse("80").unwrap();
        networks.attach("first", &asked).await.unwrap();
        networks.detach("first").await.unwrap();
        let before = Left::now();
        let one = networks.attach("one", &asked).await.unwrap().attachment;
        assert_eq!(one.dns.nameservers, ["10.77.0.1"]);
        assert!(networks.check("one").await.unwrap());
        serve(&one.namespace, "ptp");
        until("it answers", || get(&url(&one)).as_deref() == Some("ptp"));
        assert_eq!(get(&format!("127.0.0.1:{}", one.ports[0].host)).as_deref(), Some("ptp"));
        sh(&format!("nsenter --net={} ip link del eth0", one.namespace.display()));
        networks.check("one").await.unwrap_err();
        networks.detach("one").await.unwrap();
        networks.gc(&|_| false).await.unwrap();
        Left::settle(&before);
    });
}

fn macvlan_carries_connections() {
    sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    let ipam = json!({"type": "host-local", "dataDir": "/run/leases", "subnet": "10.78.0.0/24"});
    let networks = with_network(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "macvlan", "master": "up0", "mode": "bridge", "ipam": ipam, "capabilities": {"mac": true}},
    ]}));
    wait(async {
        let before = Left::now();
        let mut asked = request("net");
        asked.mac = Some("02:11:22:33:44:55".into());
        let one = networks.attach("one", &asked).await.unwrap().attachment;
        assert_eq!(one.mac.as_deref(), Some("02:11:22:33:44:55"));
        let two = networks.attach("two", &request("net")).await.unwrap().attachment;
        assert!(networks.check("one").await.unwrap());
        serve(&one.namespace, "macvlan");
        until("it answers its neighbour", || {
            get_from(&two.namespace, &url(&one)).as_deref() == Some("macvlan")
        });
        asked.ports = PortRequest::parse("80").unwrap();
        let refused = networks.attach("three", &asked).await.unwrap_err();
        assert!(refused.to_string().contains("portMappings"), "{refused}");
        for id in ["one", "two"] {
            networks.detach(id).await.unwrap();
        }
        let more = Left::now().more_than(&before);
        assert!(more.iter().all(|left| left.starts_with("/run/")), "{more:?}");
        assert_eq!(
            sh("ls /run/leases/net /run/cofferdam/netns /run/state/attached | grep -c ^10 || true"),
            "0"
        );
    });
}

/// Sends a datagram and waits for it to come back, both within a while.
fn is_echoed(from: &str, to: &str) -> bool {
    let exchange = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind(from)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send_to(b"hello", to)?;
        let mut buffer = [0; 16];
        let (count, sender) = socket.recv_from(&mut buffer)?;
        Ok(&buffer[..count] == b"hello" && sender.to_string() == to)
    };
    exchange().unwrap_or(false)
}

fn echo(namespace: &Path) {
    let namespace = namespace.to_owned();
    let socket = cofferdam_network::namespace::enter(&namespace, || UdpSocket::bind("[::]:53")).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((count, sender)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..count], sender);
        }
    });
}

fn udp_is_published() {
    wait(async {
        let mut asked = request("bridge");
        asked.ports = ["53/udp", "0.0.0.0::53/udp", "[::]::53/udp"]
            .map(|text| PortRequest::parse(text).unwrap())
            .concat();
        let one = networks().attach("one", &asked).await.unwrap().attachment;
        let two = networks().attach("two", &request("bridge")).await.unwrap().attachment;
        echo(&one.namespace);
        let port = |index: usize| one.ports[index].host;
        let gateway =
            |v4: bool| one.gateways.iter().find(|gateway| gateway.is_ipv4() == v4).unwrap().to_string();
        until("127.0.0.1 leads to it", || is_echoed("127.0.0.1:0", &format!("127.0.0.1:{}", port(0))));
        let all = format!("{}:{}", gateway(true), port(1));
        assert!(is_echoed("0.0.0.0:0", &all));
        let six = format!("[{}]:{}", gateway(false), port(2));
        until("an address of IPv6 leads to it", || is_echoed("[::]:0", &six));
        let neighbour =
            cofferdam_network::namespace::enter(&two.namespace, move || Ok(is_echoed("0.0.0.0:0", &all)));
        assert!(neighbour.unwrap(), "a second container reaches the port of the host");
        for id in ["one", "two"] {
            networks().detach(id).await.unwrap();
        }
    });
}

fn the_world_is_reached_and_reaches_ports() {
    // A host that lets nothing through, as docker leaves it, and a world behind it that knows no way to containers.
    sh("ip netns add world; ip link add out type veth peer name in netns world; ip link set out up
        ip address add 192.0.2.1/24 dev out; ip address add 2001:db8::1/64 dev out nodad
        iptables -P FORWARD DROP; ip6tables -P FORWARD DROP
        ip netns exec world sh -ec 'ip link set lo up; ip link set in up; ip address add 192.0.2.2/24 dev in
            ip address add 2001:db8::2/64 dev in nodad'");
    let world = Path::new("/run/netns/world");
    let listener = cofferdam_network::namespace::enter(world, || TcpListener::bind("[::]:80")).unwrap();
    wait(async {
        let mut asked = request("bridge");
        asked.ports = ["0.0.0.0::80", "[::]::80"].map(|text| PortRequest::parse(text).unwrap()).concat();
        let one = networks().attach("one", &asked).await.unwrap().attachment;
        for (there, host) in [("192.0.2.2:80", "::ffff:192.0.2.1"), ("[2001:db8::2]:80", "2001:db8::1")] {
            let address = there.parse().unwrap();
            let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(1));
            until(there, || cofferdam_network::namespace::enter(&one.namespace, connect).is_ok());
            assert_eq!(listener.accept().unwrap().1.ip().to_string(), host, "masqueraded");
        }
        serve(&one.namespace, "inside");
        for url in
            [format!("192.0.2.1:{}", one.ports[0].host), format!("[2001:db8::1]:{}", one.ports[1].host)]
        {
            until(&url, || get_from(world, &url).as_deref() == Some("inside"));
        }
        networks().detach("one").await.unwrap();
    });
}

/// Ports on 127.0.0.1 need `route_localnet`, which lets packets to the loopback in from the bridge (CVE-2020-8558).
fn a_container_does_not_reach_the_hosts_loopback() {
    wait(async {
        let mut asked = request("bridge");
        asked.ports = PortRequest::parse("80").unwrap();
        let one = networks().attach("one", &asked).await.unwrap().attachment;
        sh("mkdir /run/secret; echo secret > /run/secret/index.html");
        let host = TcpListener::bind("127.0.0.1:7777").unwrap();
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/cofferdam0/route_localnet"), "1");
        // What a container with CAP_NET_ADMIN would do.
        sh(&format!(
            "nsenter --net={} sh -ec 'ip address del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via {} dev eth0; \
             echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet'",
            one.namespace.display(),
            one.gateways[0]
        ));
        let reaches = || {
            let connect = || {
                let address = "127.0.0.1:7777".parse().unwrap();
                Ok(TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok())
            };
            cofferdam_network::namespace::enter(&one.namespace, connect).unwrap()
        };
        assert!(!reaches());
        sh("iptables -t raw -F PREROUTING");
        assert!(reaches(), "without the guard the attack works, so that its failure above says something");
        networks().attach("two", &request("bridge")).await.unwrap();
        assert!(!reaches(), "what somebody flushed is there again");
        networks().detach("two").await.unwrap();
        drop(host);
        networks().detach("one").await.unwrap();
    });
}

fn many_at_once_get_addresses_of_their_own() {
    wait(async {
        networks().attach("first", &request("bridge")).await.unwrap();
        networks().detach("first").await.unwrap();
        let before = Left::now();
        let attach = |task: usize| async move {
            let mut all = Vec::new();
            for number in (task..MANY).step_by(TASKS) {
                all.push(
                    networks().attach(&format!("c{number}"), &request("bridge")).await.unwrap().attachment,
                );
            }
            all
        };
        let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(attach(task))).collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        let addresses: BTreeSet<IpAddr> =
            all.iter().flat_map(|one| one.addresses.iter().map(|address| address.addr())).collect();
        assert_eq!(addresses.len(), 2 * MANY, "one of each family");
        // A connection refused by the container's own kernel has been there and back.
        for one in &all {
            let address = std::net::SocketAddr::new(one.addresses[0].addr(), 9);
            let answer = TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap_err();
            assert_eq!(answer.kind(), std::io::ErrorKind::ConnectionRefused, "{address}");
        }
        let detach = |task: usize| async move {
            for number in (task..MANY).step_by(TASKS) {
                networks().detach(&format!("c{number}")).await.unwrap();
            }
        };
        let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(detach(task))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        Left::settle(&before);
    });
}
