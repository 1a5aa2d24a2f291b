//! The rules of a gate, as text for `nft`.
//!
//! Invariant: pure; each script is one transaction, after which the gate holds exactly this policy, or the one before.
//! A flow carries the number of the rule that let it through as its mark, and passes while that rule is alive. So a
//! change of the policy cuts what it forbids, in both directions, and nothing else.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::guards::Guards;
use super::policy::{Policy, Ports, Rule, Target, Transport};

/// The gate's end of the link to the container.
pub(super) const INNER_LINK: &str = "gate0";

/// Where the resolver listens. Link-local, so that no network has it; it is the gate's own, and never forwarded.
pub(super) const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

/// The same, for containers without IPv4.
pub(super) const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6f66, 0x6665, 0, 0, 0, 0, 0x53);

/// The group that refused packets are logged to: one of this namespace's own.
pub(super) const LOG_GROUP: u16 = 1;

/// Bytes of a refused packet that are logged: the headers of IPv6 and of its transport, with room for extensions.
const LOGGED_BYTES: u16 = 128;

/// How long one refused destination is not told again.
const TOLD_SECONDS: u16 = 60;

/// Refused destinations that are remembered as told, for each kind. More are told again, within the rate.
const MOST_TOLD: u16 = 1024;

/// New refused destinations that are told in a second, and at once: a scan must not keep a process busy.
const TOLD_PER_SECOND: u16 = 20;
const TOLD_AT_ONCE: u16 = 100;

/// Addresses that are let in at a time, of all names and domains together.
pub(super) const MOST_ADDRESSES: usize = 4096;

/// The mark of connections that came in.
const INBOUND: u32 = 1;

/// The bit that marks of rules have; those of anything else do not.
const RULE_BIT: u32 = 0x4000_0000;

/// What the gate's own packets carry where they leave it. Nothing else leaves: a container with `CAP_NET_ADMIN` can
/// put a device of its own on the gate's outer link, through the peer of its link, but cannot guess 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Secret {
    pub(super) mark: u32,
    pub(super) priority: u32,
}

/// What the rules are about.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// The gate's link to the container network.
    pub(super) outer_link: &'a str,
    /// The container's addresses.
    pub(super) addresses: &'a [IpAddr],
    pub(super) policy: &'a Policy,
    pub(super) guards: &'a Guards,
    pub(super) secret: Secret,
}

/// The script that makes a gate hold a policy, whatever it held before. `before` is what is taken away of.
pub(super) fn script(scene: &Scene<'_>, before: &Policy) -> String {
    let mut text = String::new();
    declare(&mut text, scene);
    let gone = targets(before).into_iter().filter(|target| !targets(scene.policy).contains(target));
    text.push_str("flush table inet cofferdam\nflush table netdev cofferdam\n");
    for set in ["guard4", "guard6", "alive", "told4", "told6", "told4any", "told6any"] {
        line(&mut text, format_args!("flush set inet cofferdam {set}"));
    }
    for set in gone.flat_map(set_names) {
        line(&mut text, format_args!("delete set inet cofferdam {set}"));
    }
    text.push_str("table inet cofferdam {\n");
    let ids = judge(&mut text, scene);
    refuse(&mut text);
    forward(&mut text, scene);
    own_traffic(&mut text, scene);
    text.push_str("}\n");
    elements(&mut text, scene, &ids);
    egress(&mut text, scene);
    text
}

/// The script that lets addresses of targets in for a time. Entries that are there get the new time: an `add` alone
/// would leave them the old one.
pub(super) fn entries(added: &[(&Target, IpAddr, Duration)]) -> String {
    let mut text = String::new();
    for (target, address, time) in added {
        let [v4, v6] = set_names(target);
        let set = if address.is_ipv4() { v4 } else { v6 };
        let seconds = time.as_secs().max(1);
        line(&mut text, format_args!("add element inet cofferdam {set} {{ {address} timeout {seconds}s }}"));
        line(&mut text, format_args!("delete element inet cofferdam {set} {{ {address} }}"));
        line(&mut text, format_args!("add element inet cofferdam {set} {{ {address} timeout {seconds}s }}"));
    }
    text
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{what}");
}

/// The targets by name, each once.
fn targets(policy: &Policy) -> Vec<&Target> {
    let mut found = Vec::new();
    for rule in policy.rules() {
        if rule.target.is_by_name() && !found.contains(&&rule.target) {
            found.push(&rule.target);
        }
    }
    found
}

/// The sets of a target's addresses. Names of sets are short, so a digest stands for the name.
fn set_names(target: &Target) -> [String; 2] {
    let digest = crc32fast::hash(target.to_string().as_bytes());
    [format!("name{digest:08x}v4"), format!("name{digest:08x}v6")]
}

/// The number of a rule: the same for the same rule, so that flows outlive a change that keeps their rule.
fn mark_of(rule: &str, guards: &Guards) -> u32 {
    (crc32fast::hash(format!("{rule} {guards:?}").as_bytes()) & (RULE_BIT - 1)) | RULE_BIT
}

fn declare(text: &mut String, scene: &Scene<'_>) {
    text.push_str("table inet cofferdam {\n");
    for (set, kind) in [("guard4", "ipv4_addr"), ("guard6", "ipv6_addr")] {
        line(text, format_args!("set {set} {{ type {kind}; flags interval; }}"));
    }
    text.push_str("set alive { type mark; }\ncounter lost { }\n");
    for (set, kind) in [
        ("told4", "ipv4_addr . inet_proto . inet_service"),
        ("told6", "ipv6_addr . inet_proto . inet_service"),
        ("told4any", "ipv4_addr . inet_proto"),
        ("told6any", "ipv6_addr . inet_proto"),
    ] {
        line(
            text,
            format_args!(
                "set {set} {{ type {kind}; flags dynamic,timeout; timeout {TOLD_SECONDS}s; size {MOST_TOLD}; }}"
            ),
        );
    }
    for target in targets(scene.policy) {
        for (set, kind) in set_names(target).iter().zip(["ipv4_addr", "ipv6_addr"]) {
            line(text, format_args!("set {set} {{ type {kind}; flags timeout; size {MOST_ADDRESSES}; }}"));
        }
    }
    for chain in ["judge", "refuse", "tell", "answer", "inbound", "pass"] {
        line(text, format_args!("chain {chain} {{ }}"));
    }
    for hook in ["forward", "input", "output"] {
        line(text, format_args!("chain {hook} {{ type filter hook {hook} priority 0; policy drop; }}"));
    }
    let link = scene.outer_link;
    line(
        text,
        format_args!(
            "}}\ntable netdev cofferdam {{\nchain egress {{ type filter hook egress device \"{link}\" priority 0; \
             policy drop; }}\n}}"
        ),
    );
}

/// Which flows of the container pass. All is asked of the flow's first direction, so that an answer is judged as its
/// question is.
fn judge(text: &mut String, scene: &Scene<'_>) -> Vec<u32> {
    let mut ids = Vec::new();
    text.push_str("chain judge {\n");
    match scene.policy {
        Policy::None => {}
        Policy::Public => {
            let id = mark_of("public", scene.guards);
            ids.push(id);
            for (family, set) in [("ip", "guard4"), ("ip6", "guard6")] {
                line(text, format_args!("ct original {family} daddr != @{set} ct mark set {id} goto pass"));
            }
        }
        Policy::Allow(rules) => {
            for rule in rules {
                let id = mark_of(&rule.to_string(), scene.guards);
                ids.push(id);
                for matched in matches(rule, scene.guards) {
                    line(text, format_args!("{matched}ct mark set {id} goto pass"));
                }
            }
        }
    }
    text.push_str("}\n");
    ids
}

fn matches(rule: &Rule, guards: &Guards) -> Vec<String> {
    let ports = match rule.ports {
        Ports::All => String::new(),
        Ports::One(port, Transport::Tcp) => format!("meta l4proto tcp ct original proto-dst {port} "),
        Ports::One(port, Transport::Udp) => format!("meta l4proto udp ct original proto-dst {port} "),
    };
    match &rule.target {
        Target::Net(net) => {
            let family = if net.addr().is_ipv4() { "ip" } else { "ip6" };
            let within: Vec<String> = guards.within(net).iter().map(ToString::to_string).collect();
            let except = if within.is_empty() {
                String::new()
            } else {
                format!("ct original {family} daddr != {{ {} }} ", within.join(", "))
            };
            vec![format!("ct original {family} daddr {net} {except}{ports}")]
        }
        Target::Host(_) | Target::Below(_) => {
            let [v4, v6] = set_names(&rule.target);
            // The guards once more: an answer is no reason to reach what the resolver should have held back.
            vec![
                format!("ct original ip daddr @{v4} ct original ip daddr != @guard4 {ports}"),
                format!("ct original ip6 daddr @{v6} ct original ip6 daddr != @guard6 {ports}"),
            ]
        }
    }
}

fn refuse(text: &mut String) {
    line(
        text,
        format_args!(
            "chain refuse {{\n\
             ct direction reply drop\n\
             meta l4proto {{ tcp, udp }} ip daddr . meta l4proto . th dport @told4 goto answer\n\
             meta l4proto {{ tcp, udp }} ip6 daddr . meta l4proto . th dport @told6 goto answer\n\
             meta l4proto != {{ tcp, udp }} ip daddr . meta l4proto @told4any goto answer\n\
             meta l4proto != {{ tcp, udp }} ip6 daddr . meta l4proto @told6any goto answer\n\
             limit rate {TOLD_PER_SECOND}/second burst {TOLD_AT_ONCE} packets jump tell\n\
             counter name lost goto answer\n\
             }}\n\
             chain tell {{\n\
             log group {LOG_GROUP} snaplen {LOGGED_BYTES} queue-threshold 1\n\
             meta l4proto {{ tcp, udp }} add @told4 {{ ip daddr . meta l4proto . th dport }}\n\
             meta l4proto {{ tcp, udp }} add @told6 {{ ip6 daddr . meta l4proto . th dport }}\n\
             meta l4proto != {{ tcp, udp }} add @told4any {{ ip daddr . meta l4proto }}\n\
             meta l4proto != {{ tcp, udp }} add @told6any {{ ip6 daddr . meta l4proto }}\n\
             goto answer\n\
             }}\n\
             chain answer {{\n\
             meta l4proto tcp reject with tcp reset\n\
             reject with icmpx admin-prohibited\n\
             }}"
        ),
    );
}

fn forward(text: &mut String, scene: &Scene<'_>) {
    let outer = scene.outer_link;
    text.push_str("chain forward {\n");
    line(text, format_args!("iifname \"{outer}\" oifname != \"{INNER_LINK}\" drop"));
    line(text, format_args!("iifname \"{INNER_LINK}\" oifname != \"{outer}\" drop"));
    line(text, format_args!("iifname != {{ \"{outer}\", \"{INNER_LINK}\" }} drop"));
    for (family, addresses) in families(scene) {
        let all = addresses.join(", ");
        if addresses.is_empty() {
            let protocol = if family == "ip" { "ipv4" } else { "ipv6" };
            line(text, format_args!("meta nfproto {protocol} drop"));
        } else {
            line(text, format_args!("iifname \"{INNER_LINK}\" {family} saddr != {{ {all} }} drop"));
        }
    }
    text.push_str("ct state invalid drop\nct mark @alive goto pass\n");
    for (family, addresses) in families(scene) {
        for address in addresses {
            line(text, format_args!("ct original {family} saddr {address} jump judge"));
        }
    }
    line(text, format_args!("iifname \"{INNER_LINK}\" goto refuse"));
    for (family, addresses) in families(scene) {
        for address in addresses {
            line(text, format_args!("ct state new ct original {family} daddr {address} goto inbound"));
        }
    }
    // Only a SYN begins a connection that came in: a server's next packet in a flow that was cut must not begin one.
    line(
        text,
        format_args!(
            "}}\n\
             chain inbound {{\n\
             tcp flags & (fin | syn | rst | ack) != syn drop\n\
             meta l4proto {{ tcp, udp, icmp, icmpv6 }} ct mark set {INBOUND} goto pass\n\
             }}\n\
             chain pass {{\n\
             oifname \"{outer}\" {} accept\n\
             oifname \"{INNER_LINK}\" accept\n\
             }}",
            stamp(scene.secret)
        ),
    );
}

/// The gate's own traffic: the resolver, and finding neighbours.
fn own_traffic(text: &mut String, scene: &Scene<'_>) {
    let neighbours = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }";
    text.push_str("chain input {\n");
    line(text, format_args!("{neighbours} accept"));
    if *scene.policy != Policy::None {
        for (family, resolver) in [("ip", IpAddr::from(RESOLVER_V4)), ("ip6", IpAddr::from(RESOLVER_V6))] {
            line(
                text,
                format_args!(
                    "iifname \"{INNER_LINK}\" {family} daddr {resolver} meta l4proto {{ tcp, udp }} th dport 53 accept"
                ),
            );
        }
    }
    line(text, format_args!("iifname \"{INNER_LINK}\" goto answer\n}}\nchain output {{"));
    line(text, format_args!("oifname \"{INNER_LINK}\" accept"));
    line(
        text,
        format_args!("oifname \"{}\" {neighbours} {} accept\n}}", scene.outer_link, stamp(scene.secret)),
    );
}

fn elements(text: &mut String, scene: &Scene<'_>, ids: &[u32]) {
    let marks: Vec<String> = std::iter::once(&INBOUND).chain(ids).map(ToString::to_string).collect();
    let v4: Vec<String> = scene.guards.v4().iter().map(ToString::to_string).collect();
    let v6: Vec<String> = scene.guards.v6().iter().map(ToString::to_string).collect();
    for (set, all) in [("alive", marks), ("guard4", v4), ("guard6", v6)] {
        line(text, format_args!("add element inet cofferdam {set} {{ {} }}", all.join(", ")));
    }
}

/// What leaves on the outer link: what the rules above stamped, and looking for neighbours as nobody else.
fn egress(text: &mut String, scene: &Scene<'_>) {
    let Secret { mark, priority } = scene.secret;
    let own: Vec<String> =
        scene.addresses.iter().filter(|address| address.is_ipv4()).map(ToString::to_string).collect();
    let own = std::iter::once("0.0.0.0".to_owned()).chain(own).collect::<Vec<_>>().join(", ");
    line(
        text,
        format_args!(
            "table netdev cofferdam {{\n\
             chain egress {{\n\
             meta mark {mark:#x} meta priority {priority:#x} accept\n\
             arp htype 1 arp ptype ip arp saddr ip {{ {own} }} accept\n\
             }}\n\
             }}"
        ),
    );
}

fn stamp(secret: Secret) -> String {
    format!("meta mark set {:#x} meta priority set {:#x}", secret.mark, secret.priority)
}

fn families(scene: &Scene<'_>) -> [(&'static str, Vec<String>); 2] {
    let of = |is_v4: bool| {
        let own = scene.addresses.iter().filter(|address| address.is_ipv4() == is_v4);
        own.map(ToString::to_string).collect()
    };
    [("ip", of(true)), ("ip6", of(false))]
}
