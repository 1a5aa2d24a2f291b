//! What is told of denials.

use cofferdam_network::egress::Told;

use crate::Trial;
use crate::container::{Container, Served};
use crate::dns::World;
use crate::host::sh;
use crate::probe::{ping, tcp, udp};

pub(crate) const TRIALS: &[Trial] =
    &[("denials_are_told_with_what_would_allow_them", told), ("a_scan_is_told_in_part_and_counted", scan)];

#[track_caller]
fn next(served: &mut Served) -> (String, String) {
    match served.next() {
        Told::Denied(denial) => (denial.to_string(), denial.flag().unwrap()),
        Told::Lost(count) => panic!("{count} lost"),
    }
}

fn told() {
    let world = World::start();
    world.add("api.example", &["api.example 93.184.216.34"], 60);
    world.add("bad.example", &["bad.example 10.88.0.1"], 60);
    let container = Container::new("allow:api.example:80,bad.example");
    let mut served = container.serve();
    let inner = &container.inner;
    let mut expect = |said: &str, rule: &str| {
        assert_eq!(next(&mut served), (said.into(), format!("--egress allow:{rule}")));
    };
    for _ in 0..3 {
        assert!(!tcp(inner, "93.184.216.35:80"));
    }
    expect("93.184.216.35:80 tcp", "93.184.216.35:80");
    assert!(!udp(inner, "93.184.216.35:80"));
    expect("93.184.216.35:80 udp", "93.184.216.35:80/udp");
    assert!(!ping(inner, "8.8.8.8") && !ping(inner, "8.8.8.8"));
    expect("8.8.8.8 icmp", "8.8.8.8");
    assert!(!tcp(inner, "[2606:2800::1]:443"));
    expect("[2606:2800::1]:443 tcp", "[2606:2800::1]:443");
    assert!(!ping(inner, "2606:2800::1"));
    expect("2606:2800::1 icmp", "[2606:2800::1]");
    assert_eq!(container.addresses("api.example"), ["93.184.216.34"]);
    assert!(!tcp(inner, "93.184.216.34:443"));
    expect("93.184.216.34:443 tcp (api.example)", "api.example:443");
    assert!(container.has_no("nope.example") && container.has_no("nope.example"));
    expect("nope.example", "nope.example");
    assert_eq!(container.addresses("bad.example").len(), 0);
    expect("bad.example at 10.88.0.1", "10.88.0.1");
    container.change("allow:8.8.8.8:80").unwrap();
    assert!(!tcp(inner, "93.184.216.35:80"));
    expect("93.184.216.35:80 tcp", "93.184.216.35:80");
    assert_eq!(served.all(), []);
}

fn scan() {
    let container = Container::new("none");
    let mut served = container.serve();
    let inner = container.inner.clone();
    cofferdam_network::namespace::enter(&inner, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for port in 1..=1000 {
            // The answer to the one before may be what this one says.
            let _ = socket.send_to(b"x", ("8.8.8.8", port));
        }
        Ok(())
    })
    .unwrap();
    let untold: usize = sh(
        "ip netns exec gate nft list counter inet cofferdam lost | grep -o 'packets [0-9]*' | cut -d' ' -f2",
    )
    .parse()
    .unwrap();
    let mut told = 0;
    while told + untold < 1000 {
        assert!(matches!(served.next(), Told::Denied(_)));
        told += 1;
    }
    assert!((100..200).contains(&told), "{told} are told and {untold} are not");
    assert!(!tcp(&inner, "8.8.8.8:80"), "nothing is let through meanwhile");
}
