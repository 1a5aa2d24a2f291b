//! What was denied, as it is told.
//!
//! Invariant: what is told is bounded, and what is not told is counted.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::policy::{Name, Ports, Rule, Target, Transport};

/// How long a denied name is not told again.
const NAME_AGAIN: Duration = Duration::from_secs(60);

/// Denied names that are remembered as told. A container that asks for more within the time has the rest counted.
const MOST_NAMES: usize = 256;

/// Something that a gate tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something was denied. The same is told again after a minute at the earliest.
    Denied(Denial),
    /// So many more were denied, and are not told each.
    Lost(u64),
}

/// Something that was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// A packet to somewhere.
    Packet {
        /// Where it was to go.
        address: IpAddr,
        /// By which protocol.
        protocol: Protocol,
        /// To which port, where the protocol has ports.
        port: Option<NonZeroU16>,
        /// The name that the container was last told to be there, if it was.
        name: Option<String>,
    },
    /// A question for a name.
    Name {
        /// The name.
        name: String,
    },
    /// An allowed name has this address, which is guarded: private, or this host's. It was left out of the answer.
    Address {
        /// The name.
        name: String,
        /// The address.
        address: IpAddr,
    },
}

/// The protocol of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, of either version.
    Icmp,
    /// Another, by its number.
    Other(u8),
}

impl Denial {
    /// The narrowest rule that would allow it: by name where that would do.
    ///
    /// Nothing for a name that cannot be written in a rule.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Packet { address, protocol, port, name } => {
                let ports = match (protocol, port) {
                    (Protocol::Tcp, Some(port)) => Ports::One(*port, Transport::Tcp),
                    (Protocol::Udp, Some(port)) => Ports::One(*port, Transport::Udp),
                    (Protocol::Tcp | Protocol::Udp, None) | (Protocol::Icmp | Protocol::Other(_), _) => {
                        Ports::All
                    }
                };
                let by_name = name.as_deref().and_then(|name| Name::parse(name).ok());
                Some(match by_name {
                    Some(name) => Rule { target: Target::Host(name), ports },
                    None => Rule::for_address(*address, ports),
                })
            }
            Self::Name { name } => {
                Name::parse(name).ok().map(|name| Rule { target: Target::Host(name), ports: Ports::All })
            }
            Self::Address { address, .. } => Some(Rule::for_address(*address, Ports::All)),
        }
    }

    /// The flag that would allow it, to be copied.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        self.rule().map(|rule| format!("--egress allow:{rule}"))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet { address, protocol, port, name } => {
                match port {
                    Some(port) => {
                        write!(f, "{} {protocol}", std::net::SocketAddr::new(*address, port.get()))?
                    }
                    None => write!(f, "{address} {protocol}")?,
                }
                name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
            }
            Self::Name { name } => write!(f, "{name}"),
            Self::Address { name, address } => write!(f, "{name} at {address}"),
        }
    }
}

/// Tells denials to whoever listens, and counts what nobody took.
#[derive(Debug)]
pub(super) struct Teller {
    sender: mpsc::Sender<Told>,
    lost: AtomicU64,
    names: Mutex<HashMap<String, Instant>>,
}

impl Teller {
    pub(super) fn new(sender: mpsc::Sender<Told>) -> Self {
        Self { sender, lost: AtomicU64::new(0), names: Mutex::default() }
    }

    /// Tells a denial of the filter, which does not repeat itself.
    pub(super) fn tell(&self, denial: Denial) {
        if self.sender.try_send(Told::Denied(denial)).is_err() {
            self.lose(1);
        }
    }

    /// Tells a denial of the resolver, where it is not the same as one a moment ago.
    pub(super) fn tell_once(&self, denial: Denial) {
        let now = Instant::now();
        let key = denial.to_string();
        {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.get(&key).is_some_and(|told| now.duration_since(*told) < NAME_AGAIN) {
                return;
            }
            if names.len() >= MOST_NAMES {
                names.retain(|_, told| now.duration_since(*told) < NAME_AGAIN);
            }
            if names.len() >= MOST_NAMES {
                return self.lose(1);
            }
            names.insert(key, now);
        }
        self.tell(denial);
    }

    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// Tells how many were lost since the last time, where there is room to say it.
    pub(super) fn tell_lost(&self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && self.sender.try_send(Told::Lost(lost)).is_err() {
            self.lose(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(address: &str, protocol: Protocol, port: u16, name: Option<&str>) -> Denial {
        let (address, name) = (address.parse().unwrap(), name.map(str::to_owned));
        Denial::Packet { address, protocol, port: NonZeroU16::new(port), name }
    }

    #[test]
    fn a_denial_says_what_would_allow_it() {
        let cases = [
            (packet("93.184.216.34", Protocol::Tcp, 80, None), "93.184.216.34:80 tcp", "93.184.216.34:80"),
            (
                packet("2606:2800::1", Protocol::Udp, 53, None),
                "[2606:2800::1]:53 udp",
                "[2606:2800::1]:53/udp",
            ),
            (packet("8.8.8.8", Protocol::Icmp, 0, None), "8.8.8.8 icmp", "8.8.8.8"),
            (
                packet("8.8.8.8", Protocol::Tcp, 80, Some("a.example")),
                "8.8.8.8:80 tcp (a.example)",
                "a.example:80",
            ),
            (Denial::Name { name: "a.example".into() }, "a.example", "a.example"),
        ];
        for (denial, said, rule) in cases {
            assert_eq!(
                (denial.to_string(), denial.flag().unwrap()),
                (said.into(), format!("--egress allow:{rule}"))
            );
        }
        assert_eq!(Denial::Name { name: "a b".into() }.flag(), None);
    }

    #[test]
    fn the_same_is_told_once_and_what_is_too_much_is_counted() {
        let (sender, mut receiver) = mpsc::channel(MOST_NAMES + 10);
        let teller = Teller::new(sender);
        for _ in 0..3 {
            for index in 0..MOST_NAMES {
                teller.tell_once(Denial::Name { name: format!("h{index}") });
            }
        }
        teller.tell_once(Denial::Name { name: "one.more".into() });
        teller.tell_lost();
        teller.tell_lost();
        let mut told = Vec::new();
        while let Ok(one) = receiver.try_recv() {
            told.push(one);
        }
        assert_eq!((told.len(), told.last()), (MOST_NAMES + 1, Some(&Told::Lost(1))));
    }
}
