//! A policy that changes, a supervisor that dies, and a gate that goes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;

use cofferdam_network::egress::{Gate, Policy};
use cofferdam_network::namespace::enter;

use crate::Trial;
use crate::container::{Container, wait};
use crate::dns::World;
use crate::host::{namespace, sh, try_sh};
use crate::probe::{SILENCE, connect, datagrams, is_alive, is_echoed, tcp};

pub(crate) const TRIALS: &[Trial] = &[
    ("a_change_cuts_what_it_forbids_and_nothing_else", flows),
    ("a_cut_flow_does_not_come_back_as_one_that_came_in", push),
    ("flows_by_name_outlive_a_change_that_keeps_the_name", by_name),
    ("a_change_that_fails_changes_nothing", failure),
    ("a_new_supervisor_takes_a_gate_over", takeover),
    ("a_gate_goes_without_a_trace", unmake),
];

fn flows() {
    let container = Container::new("public");
    let inner = &container.inner;
    let mut kept = connect(inner, "93.184.216.34:80").unwrap();
    let mut cut = connect(inner, "93.184.216.35:80").unwrap();
    let mut cut6 = connect(inner, "[2606:2800::1]:80").unwrap();
    let (kept_udp, cut_udp) = (datagrams(inner, "93.184.216.34:80"), datagrams(inner, "93.184.216.35:80"));
    let mut inbound = connect(&namespace("internet"), "45.0.0.1:8080").unwrap();
    assert!(is_alive(&mut kept) && is_alive(&mut cut) && is_alive(&mut cut6) && is_alive(&mut inbound));
    assert!(is_echoed(&kept_udp) && is_echoed(&cut_udp));

    container.change("allow:93.184.216.34").unwrap();
    assert!(is_alive(&mut kept) && is_echoed(&kept_udp), "what both policies allow goes on");
    assert!(
        !is_alive(&mut cut) && !is_alive(&mut cut6) && !is_echoed(&cut_udp),
        "what the new one forbids is cut"
    );
    assert!(is_alive(&mut inbound), "what came in goes on");

    container.change("none").unwrap();
    assert!(!is_alive(&mut kept) && !is_echoed(&kept_udp) && is_alive(&mut inbound));
    container.change("public").unwrap();
    assert!(is_echoed(&cut_udp), "what is allowed again goes on, where it was not ended");
    assert!(tcp(inner, "93.184.216.35:80"));
}

/// The other side speaks, and the container's kernel would answer.
fn push() {
    let container = Container::new("public");
    let at: std::net::SocketAddr = "8.8.8.8:7000".parse().unwrap();
    let listener = enter(&namespace("internet"), move || TcpListener::bind(at)).unwrap();
    let mut flow = connect(&container.inner, "8.8.8.8:7000").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"x").unwrap();
    let mut one = [0; 1];
    flow.read_exact(&mut one).unwrap();

    flow.set_read_timeout(Some(SILENCE)).unwrap();
    container.change("none").unwrap();
    server.write_all(b"y").unwrap();
    assert!(flow.read_exact(&mut one).is_err(), "nothing comes in on a flow that was cut");
    // The host forgets nothing, so its packets arrive; the gate has lost its memory of the flow.
    sh("ip netns exec gate sh -c 'echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established'
        ip netns exec gate nft add rule inet cofferdam forward ct state new counter");
    server.write_all(b"z").unwrap();
    assert!(flow.read_exact(&mut one).is_err(), "nor as a new one");

    container.change("allow:8.8.8.8:7000").unwrap();
    let mut rest = [0; 2];
    flow.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    flow.read_exact(&mut rest).unwrap();
    assert_eq!(rest, *b"yz", "and where it is allowed again, the other side may speak first");
}

fn by_name() {
    let world = World::start();
    world.add("api.example", &["api.example 93.184.216.34"], 60);
    world.add("b.example", &["b.example 93.184.216.35"], 60);
    let container = Container::new("allow:api.example:80,b.example");
    let _served = container.serve();
    for name in ["api.example", "b.example"] {
        assert_eq!(container.addresses(name).len(), 1);
    }
    let mut kept = connect(&container.inner, "93.184.216.34:80").unwrap();
    let mut cut = connect(&container.inner, "93.184.216.35:80").unwrap();
    // Its entry has run out: the flow stands for itself.
    let sets = sh("ip netns exec gate nft list sets inet | grep -o 'name[0-9a-f]*v4'");
    container.change("allow:api.example:80,api.example:443").unwrap();
    assert!(is_alive(&mut kept) && !is_alive(&mut cut));
    assert!(tcp(&container.inner, "93.184.216.34:443"), "what was answered is open at the new port");
    for set in sets.lines() {
        let _ = try_sh(&format!("ip netns exec gate nft flush set inet cofferdam {set}"));
    }
    container.change("allow:api.example:80").unwrap();
    assert!(is_alive(&mut kept), "the rule is the same, so the flow goes on");
    assert!(!tcp(&container.inner, "93.184.216.34:80"));
}

fn failure() {
    let container = Container::new("allow:93.184.216.34:80");
    let mut flow = connect(&container.inner, "93.184.216.34:80").unwrap();
    container.programs.is_broken.store(true, Ordering::Relaxed);
    let error = container.change("allow:8.8.8.8:80").unwrap_err().to_string();
    assert!(error.contains("nft in /run/netns/gate failed (exit code 1)"), "{error}");
    assert_eq!(container.gate.policy().to_string(), "allow:93.184.216.34:80");
    assert!(is_alive(&mut flow) && tcp(&container.inner, "93.184.216.34:80"));
    assert!(!tcp(&container.inner, "8.8.8.8:80"));
    container.programs.is_broken.store(false, Ordering::Relaxed);
    container.change("allow:8.8.8.8:80").unwrap();
    assert!(!is_alive(&mut flow) && tcp(&container.inner, "8.8.8.8:80"));
}

fn takeover() {
    let world = World::start();
    world.add("api.example", &["api.example 93.184.216.34"], 60);
    world.add("b.example", &["b.example 93.184.216.35"], 60);
    let container = Container::new("allow:api.example:80,b.example:80,8.8.8.8:80");
    let served = container.serve();
    assert_eq!(container.addresses("api.example").len(), 1);
    let mut flows = ["93.184.216.34:80", "8.8.8.8:80"].map(|to| connect(&container.inner, to).unwrap());
    drop(served);
    let Container { inner, outer, gate, programs } = container;
    let policy = gate.policy();
    drop(gate);
    assert!(
        tcp(&inner, "93.184.216.34:80") && !tcp(&inner, "8.8.8.8:443"),
        "nobody is needed for what is open"
    );

    let gate = wait(Gate::open(programs.clone(), &outer, &policy)).unwrap();
    let container = Container { inner, outer, gate, programs };
    let _served = container.serve();
    assert!(flows.iter_mut().all(is_alive), "flows go on");
    assert!(tcp(&container.inner, "93.184.216.34:80"), "so does what was open by name");
    assert_eq!(container.addresses("b.example").len(), 1);
    assert!(tcp(&container.inner, "93.184.216.35:80"));
}

fn unmake() {
    let container = Container::new("public");
    let Container { inner, outer, programs, .. } = container;
    let mac = |name: &str| sh(&format!("ip -n {name} -o link show eth0 | grep -o 'ether [0-9a-f:]*'"));
    assert_eq!(mac("inner"), mac("gate"));
    wait(Gate::unmake(programs.clone(), &outer)).unwrap();
    assert!(!tcp(&inner, "93.184.216.34:80"));
    let addresses = sh("ip -n gate -o addr show dev eth0 scope global | awk '{print $4}'");
    assert_eq!(addresses, "10.88.0.2/16\nfd88::2/64");
    assert_eq!(sh("ip netns exec gate nft list tables"), "");
    assert_eq!(sh("ip -n gate -o link | wc -l"), "2");
    assert_eq!(sh("ip -n inner -o link | wc -l"), "1");
    wait(Gate::unmake(programs.clone(), &outer)).unwrap();
    wait(Gate::unmake(programs.clone(), &namespace("nowhere"))).unwrap();
    assert!(wait(Gate::open(programs, &outer, &Policy::Public)).unwrap_err().to_string().contains("no gate"));
}
