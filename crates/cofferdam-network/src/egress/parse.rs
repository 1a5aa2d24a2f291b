//! Reads a policy from the text of a flag.
//!
//! Invariant: pure; what is not understood is refused, with the entry, the part of it, and what to write instead.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use super::policy::{Name, Policy, Ports, Rule, Target, Transport};

/// The most rules in a policy: each is one rule of the packet filter, which a new connection goes through in turn.
const MOST_RULES: usize = 256;

/// The longest name, and the longest label of one (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// The part of a policy that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The word that a policy begins with.
    Kind,
    /// The list as a whole.
    List,
    /// An address.
    Address,
    /// The length of a network's prefix.
    Prefix,
    /// A name.
    Name,
    /// A port.
    Port,
    /// The protocol after a port.
    Protocol,
}

impl Part {
    fn word(self) -> &'static str {
        match self {
            Self::Kind => "policy",
            Self::List => "list",
            Self::Address => "address",
            Self::Prefix => "prefix length",
            Self::Name => "name",
            Self::Port => "port",
            Self::Protocol => "protocol",
        }
    }
}

/// A policy that is not one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{entry}` is not allowed as an egress {}: {why}", part.word())]
pub struct ParseError {
    /// The entry of the list, or the whole text, as it was given.
    pub entry: String,
    /// Which part of it is wrong.
    pub part: Part,
    /// Why, and what to write instead.
    pub why: String,
}

type Wrong = (Part, String);

fn wrong<T>(part: Part, why: impl Into<String>) -> Result<T, Wrong> {
    Err((part, why.into()))
}

impl Policy {
    /// Reads `none`, `public` or `allow:ENTRY,…`, where an entry is `CIDR`, `HOST` or `*.DOMAIN`, with `:PORT` or
    /// `:PORT/udp` after it. An IPv6 network stands in brackets with its prefix length: `[2001:db8::/32]:443`.
    ///
    /// # Errors
    /// Whatever is not understood. Equal entries are taken as one.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let whole = |(part, why)| ParseError { entry: text.to_owned(), part, why };
        let list = match text {
            "none" => return Ok(Self::None),
            "public" => return Ok(Self::Public),
            _ => text.strip_prefix("allow:").ok_or_else(|| {
                whole((Part::Kind, "write none, public, or allow: with what is allowed after it".into()))
            })?,
        };
        if list.is_empty() {
            return Err(whole((Part::List, "nothing is listed; write none to allow nothing".into())));
        }
        let mut rules: Vec<Rule> = Vec::new();
        for entry in list.split(',') {
            let rule = entry_to_rule(entry).map_err(|(part, why)| ParseError {
                entry: entry.to_owned(),
                part,
                why,
            })?;
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        if rules.len() > MOST_RULES {
            let why = format!("{} rules are more than {MOST_RULES}; name networks, or domains", rules.len());
            return Err(ParseError { entry: "allow:…".into(), part: Part::List, why });
        }
        Ok(Self::Allow(rules))
    }
}

impl Name {
    /// Reads a name, with or without a dot at its end, in any case.
    ///
    /// # Errors
    /// What is not a name of a host or a service.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        name(text).map_err(|(part, why)| ParseError { entry: text.to_owned(), part, why })
    }
}

impl std::str::FromStr for Policy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn entry_to_rule(entry: &str) -> Result<Rule, Wrong> {
    if entry.is_empty() {
        return wrong(Part::List, "an entry is empty; take the extra comma away");
    }
    if entry.contains("://") {
        return wrong(Part::Name, "a URL is more than can be told of a packet; write the host and the port");
    }
    if let Some(rest) = entry.strip_prefix('[') {
        let Some((inside, after)) = rest.split_once(']') else {
            return wrong(Part::Address, "the bracket is not closed");
        };
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None if after.starts_with('/') => {
                return wrong(Part::Prefix, format!("write it inside of the brackets: [{inside}{after}]"));
            }
            None => return wrong(Part::Port, "only a colon and a port may follow the bracket"),
        };
        return Ok(Rule { target: Target::Net(ipv6_net(inside)?), ports: ports(port)? });
    }
    if entry.matches(':').count() > 1 {
        return wrong(Part::Address, "an IPv6 address stands in brackets: [2001:db8::1]:443");
    }
    let (host, port) = match entry.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (entry, None),
    };
    let target = if let Some(parent) = host.strip_prefix("*.") {
        Target::Below(name(parent)?)
    } else if looks_like_ipv4(host) {
        Target::Net(ipv4_net(host)?)
    } else {
        Target::Host(name(host)?)
    };
    Ok(Rule { target, ports: ports(port)? })
}

/// Whether the last label is a number: no name of the internet ends so, and resolvers take `127.1` for an address.
fn looks_like_ipv4(host: &str) -> bool {
    let address = host.split_once('/').map_or(host, |(address, _)| address);
    let last = address.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let digits = last.strip_prefix("0x").unwrap_or(last);
    !last.is_empty() && (last.bytes().all(|byte| byte.is_ascii_digit()) || digits.len() < last.len())
}

fn ipv4_net(text: &str) -> Result<IpNet, Wrong> {
    let (address, length) = split_length(text);
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        return wrong(Part::Address, "write four numbers up to 255: 192.0.2.1");
    };
    let length = prefix_length(length, 32)?;
    let net = Ipv4Net::new(address, length).map_err(|error| (Part::Prefix, error.to_string()))?;
    without_host_bits(IpNet::V4(net))
}

fn ipv6_net(text: &str) -> Result<IpNet, Wrong> {
    let (address, length) = split_length(text);
    if address.contains('%') {
        return wrong(Part::Address, "a zone has no meaning in a policy; take it away");
    }
    let Ok(address) = address.parse::<Ipv6Addr>() else {
        return wrong(Part::Address, "inside of the brackets stands an IPv6 address: [2001:db8::1]");
    };
    if let Some(inner) = address.to_ipv4_mapped() {
        return wrong(Part::Address, format!("it is an IPv4 address in another dress; write {inner}"));
    }
    let length = prefix_length(length, 128)?;
    let net = Ipv6Net::new(address, length).map_err(|error| (Part::Prefix, error.to_string()))?;
    without_host_bits(IpNet::V6(net))
}

fn split_length(text: &str) -> (&str, Option<&str>) {
    text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)))
}

fn prefix_length(text: Option<&str>, most: u8) -> Result<u8, Wrong> {
    let Some(text) = text else { return Ok(most) };
    let number = number(text).and_then(|number| u8::try_from(number).ok()).filter(|length| *length <= most);
    number.ok_or_else(|| (Part::Prefix, format!("it is a number from 0 to {most}")))
}

fn without_host_bits(net: IpNet) -> Result<IpNet, Wrong> {
    let exact = net.trunc();
    if exact == net {
        return Ok(net);
    }
    let meant = Target::Net(exact);
    let alone = Target::Net(IpNet::from(net.addr()));
    wrong(
        Part::Address,
        format!("it has bits beyond its prefix: write {meant} for the network, {alone} for the address"),
    )
}

fn ports(text: Option<&str>) -> Result<Ports, Wrong> {
    let Some(text) = text else { return Ok(Ports::All) };
    let (port, transport) = match text.split_once('/') {
        None => (text, Transport::Tcp),
        Some((port, "tcp")) => (port, Transport::Tcp),
        Some((port, "udp")) => (port, Transport::Udp),
        Some(_) => return wrong(Part::Protocol, "it is tcp or udp"),
    };
    let port = number(port).and_then(|number| u16::try_from(number).ok()).and_then(NonZeroU16::new);
    match port {
        Some(port) => Ok(Ports::One(port, transport)),
        None => wrong(Part::Port, "it is a number from 1 to 65535; leave it out to allow all"),
    }
}

/// A number of digits alone: `parse` would take a plus sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn name(text: &str) -> Result<Name, Wrong> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return wrong(Part::Name, "it is empty");
    }
    if text.contains('*') {
        return wrong(
            Part::Name,
            "a star stands for all that comes before a domain: *.example.org; for the internet write public",
        );
    }
    if !text.is_ascii() {
        return wrong(Part::Name, "write it in ASCII, as xn--…");
    }
    if text.len() > LONGEST_NAME {
        return wrong(Part::Name, format!("it is longer than {LONGEST_NAME} bytes"));
    }
    for label in text.split('.') {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if label.is_empty() || label.len() > LONGEST_LABEL {
            return wrong(Part::Name, format!("each part between dots has 1 to {LONGEST_LABEL} bytes"));
        }
        if !label.bytes().all(is_letter) || label.starts_with('-') || label.ends_with('-') {
            return wrong(
                Part::Name,
                format!("`{label}` is no part of a name: letters, digits, hyphens inside"),
            );
        }
    }
    Ok(Name(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn policies_are_read_and_said_back() {
        let same = [
            "none",
            "public",
            "allow:10.0.0.0/8",
            "allow:0.0.0.0/0",
            "allow:93.184.216.34:80",
            "allow:93.184.216.34:53/udp",
            "allow:[2001:db8::/32]:443",
            "allow:[2001:db8::1]",
            "allow:api.example.com:443,*.example.org",
            "allow:intranet,_srv.example.org:5000/udp",
            "allow:1password.com,3com.example",
        ];
        for text in same {
            assert_eq!(Policy::parse(text).unwrap().to_string(), text);
        }
        let canonical = [
            ("allow:10.1.2.3/32:80/tcp", "allow:10.1.2.3:80"),
            ("allow:API.Example.COM.", "allow:api.example.com"),
            ("allow:[2001:DB8:0::1/128]:443/tcp", "allow:[2001:db8::1]:443"),
            ("allow:a.example,a.example,A.example", "allow:a.example"),
            ("allow:a.example:080", "allow:a.example:80"),
        ];
        for (text, said) in canonical {
            assert_eq!(Policy::parse(text).unwrap().to_string(), said);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_part_and_a_reason() {
        let cases = [
            ("", Part::Kind, "write none, public"),
            ("all", Part::Kind, "write none, public"),
            ("None", Part::Kind, "write none, public"),
            ("allow:", Part::List, "nothing is listed"),
            ("allow:a.example,", Part::List, "extra comma"),
            ("allow:10.1.2.3/8", Part::Address, "write 10.0.0.0/8 for the network, 10.1.2.3 for the address"),
            ("allow:10.0.0.0/33", Part::Prefix, "0 to 32"),
            ("allow:10.0.0.0/", Part::Prefix, "0 to 32"),
            ("allow:10.0.0.0/+8", Part::Prefix, "0 to 32"),
            ("allow:999.1.1.1", Part::Address, "four numbers"),
            ("allow:127.1", Part::Address, "four numbers"),
            ("allow:2130706433", Part::Address, "four numbers"),
            ("allow:0x7f.0x1", Part::Address, "four numbers"),
            ("allow:010.0.0.1", Part::Address, "four numbers"),
            ("allow:2001:db8::1", Part::Address, "in brackets"),
            ("allow:[2001:db8::1", Part::Address, "not closed"),
            ("allow:[2001:db8::]/32", Part::Prefix, "[2001:db8::/32]"),
            ("allow:[2001:db8::]x", Part::Port, "colon and a port"),
            ("allow:[fe80::1%eth0]", Part::Address, "zone"),
            ("allow:[::ffff:10.0.0.1]", Part::Address, "write 10.0.0.1"),
            ("allow:[example.org]", Part::Address, "IPv6 address"),
            ("allow:a.example:0", Part::Port, "1 to 65535"),
            ("allow:a.example:65536", Part::Port, "1 to 65535"),
            ("allow:a.example:https", Part::Port, "1 to 65535"),
            ("allow:a.example:", Part::Port, "1 to 65535"),
            ("allow:a.example:80/sctp", Part::Protocol, "tcp or udp"),
            ("allow:*", Part::Name, "write public"),
            ("allow:a.*.example", Part::Name, "a star stands"),
            ("allow:*.", Part::Name, "empty"),
            ("allow:a..example", Part::Name, "between dots"),
            ("allow:-a.example", Part::Name, "hyphens inside"),
            ("allow:a b.example", Part::Name, "no part of a name"),
            ("allow:exämple.org", Part::Name, "xn--"),
            ("allow:https://example.org", Part::Name, "the host and the port"),
        ];
        for (text, part, reason) in cases {
            match Policy::parse(text) {
                Ok(policy) => panic!("{text} was read as {policy}"),
                Err(error) => {
                    assert_eq!(error.part, part, "{text}: {error}");
                    assert!(error.to_string().contains(reason), "{text}: {error}");
                }
            }
        }
        let many: Vec<String> = (0..=MOST_RULES).map(|index| format!("h{index}.example")).collect();
        assert_eq!(Policy::parse(&format!("allow:{}", many.join(","))).unwrap_err().part, Part::List);
    }

    #[test]
    fn a_star_covers_what_is_below_at_any_depth_and_not_the_domain_itself() {
        let policy = Policy::parse("allow:*.example.org:443,*.example.org:80,api.example.org").unwrap();
        let count = |name: &str| policy.targets_of(name).len();
        assert_eq!((count("a.example.org"), count("a.b.example.org"), count("api.example.org")), (1, 1, 2));
        assert_eq!((count("example.org"), count(".example.org"), count("badexample.org")), (0, 0, 0));
    }

    fn rules() -> impl Strategy<Value = Rule> {
        let net4 = (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, length)| IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap().trunc()));
        let net6 = (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, length)| IpNet::V6(Ipv6Net::new(bits.into(), length).unwrap().trunc()))
            .prop_filter("mapped", |net| match net.addr() {
                IpAddr::V6(address) => address.to_ipv4_mapped().is_none(),
                IpAddr::V4(_) => false,
            });
        let name = "[a-z][a-z0-9]{0,10}(\\.[a-z][a-z0-9-]{0,8}[a-z]){0,3}";
        let target = prop_oneof![
            net4.prop_map(Target::Net),
            net6.prop_map(Target::Net),
            name.prop_map(|text| Target::Host(Name(text))),
            name.prop_map(|text| Target::Below(Name(text))),
        ];
        let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
        let one = (1..=u16::MAX, transport)
            .prop_map(|(port, transport)| Ports::One(NonZeroU16::new(port).unwrap(), transport));
        (target, prop_oneof![Just(Ports::All), one]).prop_map(|(target, ports)| Rule { target, ports })
    }

    proptest! {
        #[test]
        fn what_is_said_is_read_as_the_same(rule in rules()) {
            let policy = Policy::Allow(vec![rule]);
            prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(allow:)?[-a-z0-9.:/*,\\[\\]%_ä]{0,60}") {
            if let Ok(policy) = Policy::parse(&text) {
                prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy));
            }
        }
    }
}
