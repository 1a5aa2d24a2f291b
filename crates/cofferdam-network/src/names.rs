//! Names in a container: the contents of /etc/resolv.conf, /etc/hosts and /etc/hostname, as docker makes them.
//!
//! All functions are pure: what the host has comes in as text.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cni::Dns;
use crate::error::NetworkError;

/// Files of the host that say who resolves names, in the order that they are asked: systemd-resolved's own is wanted when
/// the usual one names but a resolver on the host's loopback, which no container reaches.
pub const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The address in `--add-host NAME:ADDRESS` that means the host's, as the container sees it.
const HOST_GATEWAY: &str = "host-gateway";
/// How many resolvers the C libraries ask; more are without effect.
const NAMESERVERS_LIMIT: usize = 3;
/// How long a host's name may be (sethostname: 64), and a name of DNS.
const HOSTNAME_LIMIT: usize = 64;
const DOMAIN_LIMIT: usize = 253;
const LABEL_LIMIT: usize = 63;
/// How long an option of the resolver may be. The longest that there is has 22 characters.
const OPTION_LIMIT: usize = 64;

/// What is asked for about names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameRequest {
    /// Resolvers, in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Domains to search, in place of the host's; a single `.` for none.
    pub search: Vec<String>,
    /// Options of the resolver, in place of the host's.
    pub options: Vec<String>,
    /// Additional names.
    pub hosts: Vec<HostEntry>,
}

/// An additional name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address; `None` for the host's, as the container sees it.
    pub address: Option<IpAddr>,
}

impl HostEntry {
    /// Reads `NAME:ADDRESS`, `NAME:[ADDRESS]`, `NAME=ADDRESS`, or `NAME:host-gateway`.
    ///
    /// # Errors
    /// [`NetworkError::Invalid`].
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let refused = |reason: &str| invalid("the additional host", text, reason);
        let at = text.find([':', '=']).ok_or_else(|| refused("it is not NAME:ADDRESS"))?;
        let (name, address) = (&text[..at], &text[at + 1..]);
        check_domain(name).map_err(|reason| refused(&format!("the name {reason}")))?;
        if address == HOST_GATEWAY {
            return Ok(Self { name: name.into(), address: None });
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address =
            bare.parse().map_err(|_| refused("what follows the name is no address, nor host-gateway"))?;
        Ok(Self { name: name.into(), address: Some(address) })
    }
}

impl NameRequest {
    /// Refuses what would make a file mean something else.
    ///
    /// # Errors
    /// [`NetworkError::Invalid`].
    pub fn check(&self) -> Result<(), NetworkError> {
        for domain in &self.search {
            if domain != "." {
                check_domain(domain)
                    .map_err(|reason| invalid("the search domain", domain, &format!("it {reason}")))?;
            }
        }
        for option in &self.options {
            let is_inner = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | ':' | '.');
            if option.is_empty() || option.len() > OPTION_LIMIT || !option.chars().all(is_inner) {
                return Err(invalid(
                    "the resolver's option",
                    option,
                    "it has other characters than A-Z a-z 0-9 - _ : .",
                ));
            }
        }
        for entry in &self.hosts {
            check_domain(&entry.name)
                .map_err(|reason| invalid("the additional host", &entry.name, &format!("it {reason}")))?;
        }
        if self.dns.len() > NAMESERVERS_LIMIT {
            return Err(invalid(
                "the resolvers",
                &self.dns.len().to_string(),
                "the C libraries ask the first 3 alone",
            ));
        }
        Ok(())
    }
}

/// The contents of /etc/resolv.conf.
///
/// `network` is what the CNI network says, and `host` the contents of [`RESOLVER_FILES`], empty where one is missing. What
/// is asked for counts before what the network says, and that before the host's. Resolvers on the host's loopback are
/// left out, unless the container has the host's network.
#[must_use]
pub fn resolv_conf(request: &NameRequest, network: &Dns, host: [&str; 2], has_host_network: bool) -> String {
    let found = Resolver::of_host(host, has_host_network);
    let from_network =
        || network.nameservers.iter().filter_map(|text| text.parse().ok()).collect::<Vec<IpAddr>>();
    let nameservers = first_filled([request.dns.clone(), from_network(), found.nameservers]);
    let domain = Some(network.domain.clone()).filter(|domain| !domain.is_empty());
    let searched =
        if network.search.is_empty() { domain.into_iter().collect() } else { network.search.clone() };
    let search = first_filled([request.search.clone(), searched, found.search]);
    let options = first_filled([request.options.clone(), network.options.clone(), found.options]);
    let mut text = String::new();
    for address in nameservers.iter().take(NAMESERVERS_LIMIT) {
        text += &format!("nameserver {address}\n");
    }
    if !search.is_empty() && search != ["."] {
        text += &format!("search {}\n", search.join(" "));
    }
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    text
}

/// The contents of /etc/hosts. `addresses` are the container's own, `names` what it is called: its host name first.
/// `host` is the host's address as the container sees it: the gateway of its network.
///
/// # Errors
/// [`NetworkError::Invalid`]: the host's address was asked for, and there is none.
pub fn hosts(
    request: &NameRequest,
    addresses: &[IpAddr],
    names: &[String],
    host: Option<IpAddr>,
) -> Result<String, NetworkError> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for entry in &request.hosts {
        let address = entry.address.or(host).ok_or_else(|| {
            invalid(
                "the additional host",
                &entry.name,
                "host-gateway needs a network with a gateway to the host",
            )
        })?;
        text += &format!("{address}\t{}\n", entry.name);
    }
    // A container without a network reaches itself nevertheless.
    let alone = [IpAddr::from([127, 0, 1, 1])];
    for address in if addresses.is_empty() { &alone } else { addresses } {
        text += &format!("{address}\t{}\n", names.join(" "));
    }
    Ok(text)
}

/// The contents of /etc/hostname.
///
/// # Errors
/// [`NetworkError::Invalid`].
pub fn hostname(name: &str) -> Result<String, NetworkError> {
    let refused = |reason: &str| invalid("the host name", name, reason);
    if name.len() > HOSTNAME_LIMIT {
        return Err(refused("it has more than 64 bytes, the limit of the kernel"));
    }
    check_domain(name).map_err(|reason| refused(&format!("it {reason}")))?;
    Ok(format!("{name}\n"))
}

/// What a host's resolv.conf says that is of use.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn of_host([usual, resolved]: [&str; 2], has_loopback: bool) -> Self {
        let mut found = Self::parse(usual);
        if has_loopback {
            return found;
        }
        let named_any = !found.nameservers.is_empty();
        found.nameservers.retain(|address| !address.is_loopback());
        if named_any && found.nameservers.is_empty() {
            let behind = Self::parse(resolved);
            found.nameservers =
                behind.nameservers.into_iter().filter(|address| !address.is_loopback()).collect();
            // systemd's stub resolver needs them, and its servers may not know them.
            found.options.retain(|option| option != "trust-ad" && option != "edns0");
        }
        found
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                // An address with a zone is of one interface of the host.
                Some("nameserver") => {
                    found.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                // The last one counts.
                Some("search" | "domain") => {
                    found.search =
                        words.filter(|word| check_domain(word).is_ok()).map(str::to_owned).collect();
                }
                Some("options") => found.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }
}

/// The resolvers that a `resolv.conf` names.
pub(crate) fn nameservers(text: &str) -> Vec<IpAddr> {
    Resolver::parse(text).nameservers
}

fn first_filled<T>(lists: [Vec<T>; 3]) -> Vec<T> {
    lists.into_iter().find(|list| !list.is_empty()).unwrap_or_default()
}

/// Refuses what is no name of DNS. The underscore is none by the letter, and in use.
fn check_domain(name: &str) -> Result<(), &'static str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > DOMAIN_LIMIT {
        return Err("is empty or too long");
    }
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=LABEL_LIMIT).contains(&label.len()) && label.bytes().all(is_inner) && !label.starts_with('-')
    };
    if name.split('.').all(is_label) {
        Ok(())
    } else {
        Err("is no name: labels of A-Z a-z 0-9 - _, parted by dots")
    }
}

fn invalid(what: &'static str, text: &str, reason: &str) -> NetworkError {
    NetworkError::Invalid { what, text: text.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str =
        "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n";
    const BEHIND: &str =
        "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nsearch corp.example\n";

    fn request(dns: &[&str], search: &[&str], options: &[&str]) -> NameRequest {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        NameRequest {
            dns: dns.iter().map(|text| text.parse().unwrap()).collect(),
            search: texts(search),
            options: texts(options),
            hosts: Vec::new(),
        }
    }

    #[test]
    fn resolvers_of_the_request_the_network_and_the_host_in_this_order() {
        let none = Dns::default();
        let network =
            Dns { nameservers: vec!["10.1.0.1".into()], domain: "net.example".into(), ..Dns::default() };
        let plain = "nameserver 192.0.2.9 # ours\n;nameserver 192.0.2.8\nsearch a.example b.example\noptions ndots:2\n";
        let four = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let nothing = request(&[], &[], &[]);
        let table = [
            (
                &nothing,
                &none,
                [plain, ""],
                "nameserver 192.0.2.9\nsearch a.example b.example\noptions ndots:2\n",
            ),
            (
                &nothing,
                &none,
                [STUB, BEHIND],
                "nameserver 192.0.2.1\nnameserver 2001:db8::53\nsearch corp.example\n",
            ),
            (&nothing, &none, [STUB, ""], "search corp.example\n"),
            (&nothing, &none, ["nameserver ::1\nnameserver 192.0.2.7\n", BEHIND], "nameserver 192.0.2.7\n"),
            (&nothing, &none, ["", BEHIND], ""),
            (&nothing, &none, ["garbage\0\nnameserver\nnameserver x\nsearch ../x\n", ""], ""),
            (&nothing, &none, ["search a.example\ndomain b.example\n", ""], "search b.example\n"),
            (
                &nothing,
                &none,
                [four, ""],
                "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n",
            ),
            (&nothing, &network, [plain, ""], "nameserver 10.1.0.1\nsearch net.example\noptions ndots:2\n"),
            (
                &request(&["127.0.0.1"], &["x.example"], &["timeout:1"]),
                &network,
                [plain, ""],
                "nameserver 127.0.0.1\nsearch x.example\noptions timeout:1\n",
            ),
            (
                &request(&["1.1.1.1"], &["."], &[]),
                &network,
                [plain, ""],
                "nameserver 1.1.1.1\noptions ndots:2\n",
            ),
        ];
        for (request, network, host, expected) in table {
            assert_eq!(
                resolv_conf(request, network, host, false),
                expected,
                "{request:?} {network:?} {host:?}"
            );
        }
        assert_eq!(
            resolv_conf(&nothing, &none, [STUB, BEHIND], true),
            "nameserver 127.0.0.53\nsearch corp.example\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn a_container_finds_itself_and_what_was_added() {
        let mut asked = request(&[], &[], &[]);
        for text in ["db:10.0.0.9", "six:[fd00::9]", "six2=fd00::8", "host.docker.internal:host-gateway"] {
            asked.hosts.push(HostEntry::parse(text).unwrap());
        }
        asked.check().unwrap();
        let own = ["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let names = ["web.example".to_owned(), "web".to_owned()];
        let text = hosts(&asked, &own, &names, Some("10.1.0.1".parse().unwrap())).unwrap();
        let ours: Vec<&str> = text.lines().skip(6).collect();
        assert_eq!(text.lines().next(), Some("127.0.0.1\tlocalhost"));
        assert_eq!(
            ours,
            [
                "10.0.0.9\tdb",
                "fd00::9\tsix",
                "fd00::8\tsix2",
                "10.1.0.1\thost.docker.internal",
                "10.1.0.5\tweb.example web",
                "fd00::5\tweb.example web",
            ]
        );
        assert!(hosts(&asked, &own, &names, None).is_err());
        let alone = hosts(&request(&[], &[], &[]), &[], &names[1..], None).unwrap();
        assert_eq!(alone.lines().last(), Some("127.0.1.1\tweb"));
    }

    #[test]
    fn what_would_break_out_of_its_line_is_refused() {
        for text in
            ["", "db", ":1.1.1.1", "db:", "db:x", "d b:1.1.1.1", "db\n:1.1.1.1", "-db:1.1.1.1", "db:[::1"]
        {
            assert!(HostEntry::parse(text).is_err(), "{text:?}");
        }
        for name in ["", "a b", "a\nb", "-a", "a..b", &"a".repeat(64), &"a.".repeat(40), "ä"] {
            assert!(hostname(name).is_err(), "{name:?}");
        }
        assert_eq!(hostname("web-1.example").unwrap(), "web-1.example\n");
        assert!(request(&[], &["a b"], &[]).check().is_err());
        assert!(request(&[], &[], &["a b"]).check().is_err());
        assert!(request(&[], &[], &["a\nnameserver:1"]).check().is_err());
        assert!(request(&["1.1.1.1"; 4], &[], &[]).check().is_err());
    }
}
