//! Rules of the host for the network `bridge`: one set for all of its containers.
//!
//! The plugin bridge would masquerade with a chain per container and family: that takes longer than all the rest of an
//! attachment, and DEL leaves it behind when gVisor has taken the interface's addresses. The plugin firewall would let
//! traffic through in the same way. One set does for all, as every container is on one link and in one subnet.
//!
//! All rules carry a comment with a checksum of the set, so that a set that is incomplete (somebody flushed a table), or
//! of another subnet, is seen with one call of `iptables-save`, and replaced.

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::bridge::{LINK, subnets};
use crate::cni::NetworkConfig;
use crate::error::NetworkError;
use crate::lock::{Hold, Lock};
use crate::networks::Networks;
use crate::rules::LOCK_SECONDS;

/// What comments of these rules begin with.
const MARK: &str = "cofferdam-bridge-";

/// A table and a rule in it, without its comment: before `-j`, and the target.
type Rule = (&'static str, String, &'static str);

impl Networks {
    /// Sees that the rules are there, and complete.
    pub(crate) async fn ensure_bridge_rules(&self, network: &NetworkConfig) -> Result<(), NetworkError> {
        for subnet in subnets(network) {
            let family = if subnet.addr().is_ipv4() { "iptables" } else { "ip6tables" };
            let save = format!("{family}-save");
            let rules = rules(subnet);
            if script(&self.iptables(&save, &[], "").await?, &rules).is_empty() {
                continue;
            }
            let path = self.places.runtime.join("bridge.lock");
            let failed = |source| NetworkError::Record { path: path.clone(), what: "locked", source };
            let _lock = Lock::file_async(path.clone(), Hold::Alone).await.map_err(failed)?;
            let script = script(&self.iptables(&save, &[], "").await?, &rules);
            if !script.is_empty() {
                self.iptables(&format!("{family}-restore"), &["-w", LOCK_SECONDS, "--noflush"], &script)
                    .await?;
            }
        }
        Ok(())
    }
}

fn rules(subnet: IpNet) -> Vec<Rule> {
    let mut all = vec![
        ("nat", format!("POSTROUTING -s {subnet} ! -o {LINK}"), "MASQUERADE"),
        // At the end, for a host that drops what nobody lets through, as docker makes it. Rules of the host count first.
        ("filter", format!("FORWARD -i {LINK}"), "ACCEPT"),
        ("filter", format!("FORWARD -o {LINK} -m conntrack --ctstate RELATED,ESTABLISHED"), "ACCEPT"),
        ("filter", format!("FORWARD -o {LINK} -m conntrack --ctstate DNAT"), "ACCEPT"),
    ];
    if subnet.addr().is_ipv4() {
        // For ports on 127.0.0.1 portmap sets route_localnet on the bridge, and the kernel then takes packets to the
        // host's loopback from it: a container that can send raw ones would reach all that listens there
        // (CVE-2020-8558). Answers of published ports are not dropped: they go to the bridge's own address.
        all.push(("raw", format!("PREROUTING -i {LINK} -d 127.0.0.0/8"), "DROP"));
    }
    all
}

/// A script for `iptables-restore --noflush` that makes the rules be there once; empty when they are.
fn script(saved: &str, rules: &[Rule]) -> String {
    let text: String =
        rules.iter().map(|(table, rule, target)| format!("{table} {rule} {target}\n")).collect();
    let mark = format!("{MARK}{:08x}", crc32fast::hash(text.as_bytes()));
    // What stands before the first table is a comment.
    let with_tables = format!("\n{saved}");
    let present: Vec<(&str, &str)> = with_tables
        .split("\n*")
        .skip(1)
        .flat_map(|part| {
            let (table, lines) = part.split_once('\n').unwrap_or((part, ""));
            lines
                .lines()
                .filter(|line| line.starts_with("-A ") && line.contains(MARK))
                .map(move |line| (table, line))
        })
        .collect();
    if present.len() == rules.len() && present.iter().all(|(_, line)| line.contains(&mark)) {
        return String::new();
    }
    let mut script = String::new();
    for table in ["raw", "nat", "filter"] {
        let mut lines = String::new();
        for (_, line) in present.iter().filter(|(of, _)| *of == table) {
            let _ = writeln!(lines, "-D {}", &line["-A ".len()..]);
        }
        for (_, rule, target) in rules.iter().filter(|(of, ..)| *of == table) {
            let _ = writeln!(lines, "-A {rule} -m comment --comment {mark} -j {target}");
        }
        // A kernel may be without a table that nothing is asked of.
        if !lines.is_empty() {
            let _ = write!(script, "*{table}\n{lines}COMMIT\n");
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_made_once_and_replaced_when_it_is_not_whole() {
        let rules = rules("10.213.0.0/20".parse().unwrap());
        let fresh =
            script("# a comment\n*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j OTHER\nCOMMIT\n", &rules);
        assert_eq!(fresh.matches("-A ").count(), rules.len());
        assert!(!fresh.contains("-D "));
        // The kernel's tables then have the same lines, in whatever order.
        assert_eq!(script(&format!("# a comment\n{fresh}"), &rules), "");
        let flushed = fresh.replacen("-A PREROUTING", "#", 1);
        let mended = script(&flushed, &rules);
        assert_eq!(
            (mended.matches("-D ").count(), mended.matches("-A ").count()),
            (rules.len() - 1, rules.len())
        );
        let other = super::rules("10.59.0.0/20".parse().unwrap());
        assert_eq!(script(&fresh, &other).matches("-D ").count(), rules.len());
        let six = super::rules("fd00::/64".parse().unwrap());
        assert!(six.iter().all(|(table, ..)| *table != "raw"));
        let fresh = script("", &six);
        assert_eq!((fresh.matches('*').count(), fresh.matches("COMMIT\n").count()), (2, 2), "{fresh}");
        assert!(!fresh.contains("*raw"), "{fresh}");
    }
}
