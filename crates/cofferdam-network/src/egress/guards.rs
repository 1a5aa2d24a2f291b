//! Which addresses are guarded: reached by nothing but a rule that names them.
//!
//! Invariant: a network of a rule opens a guarded address only where it lies within every guard around that address.
//! So `10.0.0.0/8` opens private addresses and neither this host's nor those of its containers, and `0.0.0.0/0` opens
//! what `public` opens.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::policy::{Policy, Target};

/// Ranges of IPv4 that are no part of the internet, or are another machine's metadata (IANA's registry of special
/// addresses, RFC 6890, and what clouds document).
const SPECIAL_V4: [&str; 18] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "100.100.100.200/32", // Alibaba's metadata.
    "127.0.0.0/8",
    "168.63.129.16/32", // Azure's host, at an address like any other.
    "169.254.0.0/16",
    "169.254.169.254/32", // Metadata nearly everywhere.
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.192/32", // Oracle's metadata.
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3", // Multicast, reserved, and broadcast.
];

/// The same of IPv6: all but 2000::/3, and in it what stands for something else.
const SPECIAL_V6: [&str; 13] = [
    "::/3",      // Unspecified, loopback, and IPv4 within: ::ffff:0:0/96, 64:ff9b::/96.
    "2001::/23", // Teredo has IPv4 within.
    "2001:db8::/32",
    "2002::/16", // 6to4 has IPv4 within.
    "3fff::/20",
    "4000::/2",
    "8000::/1",
    "fc00::/7",
    "fd00:ec2::254/128", // Amazon's metadata.
    "fd20:ce::254/128",  // Google's metadata.
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// Everything that is guarded from one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guards {
    nets: Vec<IpNet>,
}

impl Guards {
    /// The special ranges, and what belongs to this host: its addresses, and the networks of its containers.
    pub(super) fn new(of_this_host: impl IntoIterator<Item = IpNet>) -> Self {
        let special = SPECIAL_V4.iter().chain(&SPECIAL_V6).filter_map(|text| text.parse().ok());
        let mut nets: Vec<IpNet> = special.chain(of_this_host.into_iter().map(|net| net.trunc())).collect();
        nets.sort();
        nets.dedup();
        Self { nets }
    }

    /// Whether an address is guarded.
    pub(super) fn cover(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|guard| guard.contains(&address))
    }

    /// Whether a network of the policy names this guarded address closely enough. Ports are not looked at.
    pub(super) fn are_opened_by(&self, policy: &Policy, address: IpAddr) -> bool {
        policy.rules().iter().any(|rule| match &rule.target {
            Target::Net(net) => {
                net.contains(&address)
                    && self
                        .nets
                        .iter()
                        .filter(|guard| guard.contains(&address))
                        .all(|guard| guard.contains(net))
            }
            Target::Host(_) | Target::Below(_) => false,
        })
    }

    /// The parts of a network that a rule for it does not open: guards within it, and narrower.
    pub(super) fn within(&self, net: &IpNet) -> Vec<IpNet> {
        let narrower = self.nets.iter().filter(|guard| net.contains(*guard) && *guard != net);
        IpNet::aggregate(&narrower.copied().collect())
    }

    /// All guarded IPv4 networks; none lies within another.
    pub(super) fn v4(&self) -> Vec<Ipv4Net> {
        Ipv4Net::aggregate(&self.nets.iter().filter_map(v4).collect())
    }

    /// All guarded IPv6 networks; none lies within another.
    pub(super) fn v6(&self) -> Vec<Ipv6Net> {
        Ipv6Net::aggregate(&self.nets.iter().filter_map(v6).collect())
    }
}

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    }
}

fn v6(net: &IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(*net),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guards() -> Guards {
        let of_this_host =
            ["10.88.0.0/16", "10.88.0.1/32", "93.184.216.1/32", "2606:2800::5/128", "fd88::/64"];
        Guards::new(of_this_host.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn every_special_range_is_one() {
        assert_eq!(Guards::new([]).nets.len(), SPECIAL_V4.len() + SPECIAL_V6.len());
    }

    #[test]
    fn the_internet_is_open_and_nothing_else() {
        for open in ["93.184.216.34", "8.8.8.8", "2606:2800::1", "2a00:1450::1", "100.128.0.1", "11.0.0.1"] {
            assert!(!guards().cover(open.parse().unwrap()), "{open}");
        }
        let guarded = [
            "93.184.216.1",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:a9fe:a9fe::1",
            "2001:0:1::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "2606:2800::5",
            "4000::1",
        ];
        for address in guarded {
            assert!(guards().cover(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_network_opens_what_it_names_closely_enough() {
        let opened = |policy: &str, address: &str| {
            guards().are_opened_by(&Policy::parse(policy).unwrap(), address.parse().unwrap())
        };
        assert!(opened("allow:10.0.0.0/8", "10.1.2.3"));
        assert!(opened("allow:10.88.0.0/16", "10.88.0.3"));
        assert!(opened("allow:10.88.0.1", "10.88.0.1"));
        assert!(opened("allow:169.254.0.0/16", "169.254.53.1"));
        assert!(opened("allow:0.0.0.0/0", "8.8.8.8"));
        for (policy, address) in [
            ("allow:10.0.0.0/8", "10.88.0.3"),
            ("allow:10.88.0.0/16", "10.88.0.1"),
            ("allow:0.0.0.0/0", "10.1.2.3"),
            ("allow:0.0.0.0/0", "169.254.169.254"),
            ("allow:169.254.0.0/16", "169.254.169.254"),
            ("allow:[::/0]", "fd00::1"),
            ("allow:[fd00::/8]", "fd00:ec2::254"),
            ("allow:[2000::/3]", "2606:2800::5"),
            ("allow:localtest.example", "127.0.0.1"),
        ] {
            assert!(!opened(policy, address), "{policy} {address}");
        }
    }

    proptest! {
        /// What the packet filter is told (a network without the guards within it) is what the rule says.
        #[test]
        fn what_is_within_a_network_is_what_it_does_not_open(bits: u32, length in 0..=32_u8, other: u32, near: bool) {
            let net = Ipv4Net::new(bits.into(), length).unwrap().trunc();
            let host_part = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let address: IpAddr =
                std::net::Ipv4Addr::from(if near { (bits & !host_part) | (other & host_part) } else { other }).into();
            let policy = Policy::parse(&format!("allow:{net}")).unwrap();
            let by_filter = net.contains(&address_v4(address))
                && !guards().within(&net.into()).iter().any(|guard| guard.contains(&address));
            prop_assert_eq!(guards().are_opened_by(&policy, address), by_filter);
        }
    }

    fn address_v4(address: IpAddr) -> std::net::Ipv4Addr {
        match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => panic!("only IPv4 is made here"),
        }
    }
}
