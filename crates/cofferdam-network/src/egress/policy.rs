//! The policy as a value: what `--egress` says, and how it is said back.
//!
//! Invariant: `Policy::parse(policy.to_string())` is the same policy. Which addresses a rule opens is decided by
//! `guards`, not here.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

/// What a container may reach of its own accord. Connections that come in, and answers to them, are another matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    None,
    /// The internet: no private, local or reserved address, nothing of this host, no other container.
    Public,
    /// What these rules name; never empty.
    Allow(Vec<Rule>),
}

/// One entry of a list of what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The addresses, or the names.
    pub target: Target,
    /// The ports there.
    pub ports: Ports,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A network, or one address.
    Net(IpNet),
    /// A name, and whatever public address it has at the time.
    Host(Name),
    /// Every name below this one, at any depth; not this one itself.
    Below(Name),
}

/// Which ports of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every protocol, and every port of those that have ports.
    All,
    /// One port of one protocol.
    One(NonZeroU16, Transport),
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A name of the domain name system: lower case, in ASCII, without the last dot, at most 253 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(pub(super) String);

impl Name {
    /// The name as text, without a dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Policy {
    /// The rules; none where the policy is not a list.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        match self {
            Self::None | Self::Public => &[],
            Self::Allow(rules) => rules,
        }
    }

    /// The targets by name that a name falls under. The name is in lower case, without a dot at its end.
    #[must_use]
    pub fn targets_of(&self, name: &str) -> Vec<&Target> {
        let mut found: Vec<&Target> = Vec::new();
        for rule in self.rules() {
            if rule.target.covers_name(name) && !found.contains(&&rule.target) {
                found.push(&rule.target);
            }
        }
        found
    }

    /// Whether names are looked up for the container at all.
    #[must_use]
    pub fn has_names(&self) -> bool {
        match self {
            Self::None => false,
            Self::Public => true,
            Self::Allow(rules) => rules.iter().any(|rule| rule.target.is_by_name()),
        }
    }
}

impl Rule {
    /// The narrowest rule that allows one address.
    #[must_use]
    pub fn for_address(address: IpAddr, ports: Ports) -> Self {
        Self { target: Target::Net(IpNet::from(address)), ports }
    }
}

impl Target {
    /// Whether it is known by name, and its addresses from answers alone.
    #[must_use]
    pub fn is_by_name(&self) -> bool {
        match self {
            Self::Net(_) => false,
            Self::Host(_) | Self::Below(_) => true,
        }
    }

    fn covers_name(&self, name: &str) -> bool {
        match self {
            Self::Net(_) => false,
            Self::Host(host) => host.0 == name,
            Self::Below(parent) => name
                .strip_suffix(parent.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Public => f.write_str("public"),
            Self::Allow(rules) => {
                f.write_str("allow:")?;
                for (index, rule) in rules.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{rule}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.target, self.ports)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => {
                let is_one = net.prefix_len() == net.max_prefix_len();
                match (net.addr(), is_one) {
                    (IpAddr::V4(address), true) => write!(f, "{address}"),
                    (IpAddr::V4(_), false) => write!(f, "{net}"),
                    (IpAddr::V6(address), true) => write!(f, "[{address}]"),
                    (IpAddr::V6(_), false) => write!(f, "[{net}]"),
                }
            }
            Self::Host(name) => f.write_str(name.as_str()),
            Self::Below(name) => write!(f, "*.{}", name.as_str()),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::One(port, Transport::Tcp) => write!(f, ":{port}"),
            Self::One(port, Transport::Udp) => write!(f, ":{port}/udp"),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
