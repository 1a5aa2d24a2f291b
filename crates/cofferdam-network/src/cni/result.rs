//! What plugins answer: results of ADD of all versions as one type, and errors.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CniVersion;

/// The result of ADD. Fields of newer versions are empty when the plugin is older.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AddResult {
    /// Interfaces, also those on the host.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpAddress>,
    /// Routes inside of the container.
    pub routes: Vec<Route>,
    /// Who resolves names.
    pub dns: Dns,
}

impl AddResult {
    /// The addresses of the container's interface. One without an interface belongs to the only one inside.
    pub(crate) fn own_addresses(&self, name: &str) -> impl Iterator<Item = &IpAddress> {
        let is_own = move |index: usize| self.interfaces.get(index).is_some_and(|one| one.is_inside(name));
        self.ips.iter().filter(move |ip| ip.interface.is_none_or(is_own))
    }
}

/// An interface that a plugin made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its MTU, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path; empty on the host.
    pub sandbox: String,
}

impl Interface {
    /// Whether it is that of the container with this name.
    pub(crate) fn is_inside(&self, name: &str) -> bool {
        !self.sandbox.is_empty() && self.name == name
    }
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpAddress {
    /// With the length of its prefix.
    pub address: IpNet,
    /// Who forwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// Over whom; the gateway of an address when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Who resolves names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of resolvers.
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to search.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// An error in a plugin's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginError {
    /// Below 100 the specification says what it means.
    pub code: u32,
    /// Short.
    #[serde(default)]
    pub msg: String,
    /// Longer.
    #[serde(default)]
    pub details: String,
}

impl PluginError {
    /// The plugin does not speak the configuration's version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The container is unknown: nothing of it has to be taken away.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// It may work later.
    pub const TRY_AGAIN: u32 = 11;
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.msg.trim())?;
        if !self.details.trim().is_empty() {
            write!(f, ": {}", self.details.trim())?;
        }
        write!(f, " (code {})", self.code)
    }
}

/// Reads a result; `Err` says what is wrong with it. It may be of another version than was asked for, if that is one
/// which is known: `asked` is for the words of an error alone.
///
/// Versions 0.3.0 to 1.1.0 differ in fields that are not kept (an address's `version`) or that are absent, so that one
/// reading does for all. Before 0.3.0 a result had another form.
pub(crate) fn read(value: &Value, asked: CniVersion) -> Result<AddResult, String> {
    let Some(object) = value.as_object() else { return Err("its result is not an object".into()) };
    match object.get("cniVersion").map(|version| version.as_str().and_then(CniVersion::parse)) {
        // Some plugins leave it out, as libcni allows.
        None | Some(Some(_)) => {}
        Some(None) => {
            return Err(format!("its result is of the version {}, not {asked}", object["cniVersion"]));
        }
    }
    // Go writes an empty list as null.
    let present = object.iter().filter(|(_, value)| !value.is_null());
    let present: serde_json::Map<_, _> = present.map(|(key, value)| (key.clone(), value.clone())).collect();
    let result: AddResult = serde_json::from_value(Value::Object(present))
        .map_err(|error| format!("its result cannot be read: {error}"))?;
    let known = result.interfaces.len();
    match result.ips.iter().filter_map(|ip| ip.interface).find(|index| *index >= known) {
        Some(index) => Err(format!("its result has an address of interface {index}, and {known} interfaces")),
        None => Ok(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_containers_interface_are_told_from_others() {
        let text = r#"{"interfaces":[{"name":"eth0"},{"name":"eth0","sandbox":"/run/netns/a"},{"name":"x","sandbox":"/run/netns/a"}],
            "ips":[{"address":"10.1.0.1/16","interface":0},{"address":"10.1.0.5/16","interface":1},
                   {"address":"10.1.0.6/16","interface":2},{"address":"10.1.0.7/16"}]}"#;
        let result = read(&serde_json::from_str(text).unwrap(), CniVersion::V1_0_0).unwrap();
        let own: Vec<String> = result.own_addresses("eth0").map(|ip| ip.address.to_string()).collect();
        assert_eq!(own, ["10.1.0.5/16", "10.1.0.7/16"]);
    }

    #[test]
    fn results_of_all_versions_are_read_alike() {
        let texts = [
            r#"{"cniVersion":"0.3.1","interfaces":[{"name":"eth0","sandbox":"/run/netns/a","mac":"02:00:00:00:00:01"}],
                "ips":[{"version":"4","address":"10.1.0.5/16","gateway":"10.1.0.1","interface":0}],
                "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.1.0.1"]}}"#,
            r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/a","mac":"02:00:00:00:00:01"}],
                "ips":[{"version":"4","address":"10.1.0.5/16","gateway":"10.1.0.1","interface":0}],
                "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.1.0.1"]}}"#,
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/a","mac":"02:00:00:00:00:01"}],
                "ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1","interface":0}],
                "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.1.0.1"]}}"#,
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/a","mac":"02:00:00:00:00:01",
                "socketPath":"/x"}],"ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1","interface":0}],
                "routes":[{"dst":"0.0.0.0/0","mtu":1400,"priority":5}],"dns":{"nameservers":["10.1.0.1"]}}"#,
        ];
        let read = |text: &str| read(&serde_json::from_str(text).unwrap(), CniVersion::NEWEST).unwrap();
        let first = read(texts[0]);
        assert_eq!(first.ips[0].address, "10.1.0.5/16".parse().unwrap());
        for text in texts {
            assert_eq!(read(text), first);
        }
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for text in [
            "[]",
            "1",
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}"#,
            r#"{"cniVersion":"9.0.0"}"#,
            r#"{"cniVersion":1}"#,
            r#"{"ips":[{"address":"10.0.0.300/24"}]}"#,
            r#"{"ips":[{"address":"10.0.0.3"}]}"#,
            r#"{"interfaces":[],"ips":[{"address":"10.0.0.3/24","interface":0}]}"#,
            r#"{"ips":[{"address":"10.0.0.3/24","interface":-1}]}"#,
            r#"{"ips":"none"}"#,
        ] {
            assert!(read(&serde_json::from_str(text).unwrap(), CniVersion::NEWEST).is_err(), "{text}");
        }
        let nulls = r#"{"cniVersion":"1.0.0","interfaces":null,"ips":null,"routes":null,"dns":{}}"#;
        assert_eq!(read(&serde_json::from_str(nulls).unwrap(), CniVersion::NEWEST), Ok(AddResult::default()));
    }
}
