//! Attaching and detaching, with real connections.

use cofferdam_network::ports::PortRequest;
use cofferdam_network::{NetworkError, NetworkErrorKind, Places, PoolMarks};

use crate::Trial;
use crate::fake::Plugins;
use crate::host::{Left, get, get_from, networks, networks_at, places, request, serve, until, wait};

pub(crate) const TRIALS: &[Trial] = &[
    ("attach::the_bridge_carries_connections", the_bridge_carries_connections),
    ("attach::portmap_is_called_for_ports_alone", portmap_is_called_for_ports_alone),
];

fn the_bridge_carries_connections() {
    let networks = networks();
    wait(async {
        // The bridge and the chains of iptables that all share come with the first container.
        let mut asked = request("bridge");
        asked.ports =
            [PortRequest::parse("80").unwrap(), PortRequest::parse("0.0.0.0::80").unwrap()].concat();
        networks.attach("first", &asked).await.unwrap();
        networks.detach("first").await.unwrap();
        let before = Left::now();

        let made = networks.attach("one", &asked).await.unwrap();
        let one = made.attachment;
        assert_eq!(networks.attachment("one").unwrap(), Some(one.clone()));
        assert_eq!(made.held.len(), 2);
        assert!(networks.check("one").await.unwrap());
        let two = networks.attach("two", &request("bridge")).await.unwrap().attachment;
        serve(&one.namespace, "hello");
        let address = format!("{}:80", one.addresses[0].addr());
        until("the server answers", || get(&address).is_some());
        let gateway = one.gateways[0];
        for url in [
            address.clone(),
            format!("127.0.0.1:{}", one.ports[0].host),
            format!("127.0.0.1:{}", one.ports[1].host),
            format!("{gateway}:{}", one.ports[1].host),
            format!("[{}]:80", one.addresses[1].addr()),
        ] {
            // An address of IPv6 is of use when nobody has objected to it for a second.
            until(&format!("{url} answers"), || get(&url).as_deref() == Some("hello"));
        }
        assert_eq!(get_from(&two.namespace, &address).as_deref(), Some("hello"));
        assert_eq!(get(&format!("{gateway}:{}", one.ports[0].host)), None, "published on 127.0.0.1 alone");

        let twice = networks.attach("one", &request("bridge")).await.unwrap_err();
        assert!(matches!(twice, NetworkError::AttachedAlready(_)), "{twice}");
        asked.ports = PortRequest::parse(&format!("{}:80", one.ports[0].host)).unwrap();
        let taken = networks.attach("three", &asked).await.unwrap_err();
        assert_eq!(taken.kind(), NetworkErrorKind::PortTaken, "{taken}");
        drop(made.held);
        let taken = networks.attach("three", &asked).await.unwrap_err();
        assert!(matches!(taken, NetworkError::PortTaken { by: Some(ref id), .. } if id == "one"), "{taken}");

        for id in ["one", "two", "two", "three"] {
            networks.detach(id).await.unwrap();
        }
        Left::settle(&before);
        assert_eq!(networks.attachment("one").unwrap(), None);
    });
}

fn portmap_is_called_for_ports_alone() {
    let usual = places();
    let mut real = usual.plugins.iter().map(|directory| directory.join("portmap"));
    let real = real.find(|path| path.is_file()).unwrap();
    // Counts its calls, and does what the real one does.
    let counted = Plugins::new(&["portmap"]);
    for command in ["ADD", "CHECK", "DEL"] {
        let script = format!("sed '1,/^$/d' \"$call\" | {}", real.display());
        counted.answers("portmap", command, &script);
    }
    let plugins = [vec![counted.path().to_owned()], usual.plugins.clone()].concat();
    let networks = networks_at(Places { plugins, ..usual });
    let mut published = request("bridge");
    published.ports = PortRequest::parse("80").unwrap();
    let calls = |expected: &[&str]| assert_eq!(counted.order(), expected);
    wait(async {
        networks.attach("plain", &request("bridge")).await.unwrap();
        assert!(networks.check("plain").await.unwrap());
        networks.detach("plain").await.unwrap();
        calls(&[]);
        networks.attach("published", &published).await.unwrap();
        calls(&["portmap ADD"]);
        networks.detach("published").await.unwrap();
        calls(&["portmap DEL"]);
        // A prepared one whose ports come with the claim needs it, too.
        networks.refill("bridge", PoolMarks { low: 2, high: 2 }).await.unwrap();
        networks.attach("plain", &request("bridge")).await.unwrap();
        calls(&[]);
        let claimed = networks.attach("published", &published).await.unwrap();
        assert!(!claimed.attachment.addresses.is_empty() && claimed.held.len() == 1);
        calls(&["portmap ADD"]);
        networks.detach("plain").await.unwrap();
        calls(&[]);
        networks.detach("published").await.unwrap();
        calls(&["portmap DEL"]);
        let left = networks.leftovers(&|_| false).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    });
}
