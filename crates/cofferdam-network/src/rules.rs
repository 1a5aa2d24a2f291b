//! Rules of iptables that plugins left behind, and calls of iptables.
//!
//! The plugins bridge, ptp and portmap put the container's id into a comment of the rule that leads to the container's
//! own chain: `-A POSTROUTING … --comment "name: \"N\" id: \"ID\"" -j CNI-…`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

use crate::cni::client::{PATH, find_program};
use crate::error::NetworkError;
use crate::networks::Networks;
use crate::programs::{ProgramCall, ProgramStatus};

/// How long iptables may wait for its lock, in seconds, as its option takes it.
pub(crate) const LOCK_SECONDS: &str = "10";
/// How long a call of iptables may take: the wait for its lock, and as much again.
const LIMIT: Duration = Duration::from_secs(20);
/// How much of its output is kept, in bytes: rules of some ten thousand containers.
const OUTPUT_LIMIT_BYTES: usize = 32 << 20;
/// The programs, for both families.
const FAMILIES: [&str; 2] = ["iptables", "ip6tables"];
/// What names of chains of one container begin with.
const OWN_CHAINS: &str = "CNI-";
/// Chains that all containers share.
const SHARED_CHAINS: [&str; 3] = ["CNI-HOSTPORT-", "CNI-FORWARD", "CNI-ADMIN"];

impl Networks {
    /// Ids with our prefix in all rules. Without iptables there are none.
    pub(crate) async fn ids_in_rules(&self) -> Result<BTreeSet<String>, NetworkError> {
        let mut all = BTreeSet::new();
        for family in FAMILIES {
            all.extend(ids(&self.saved(family).await?, &self.prefix));
        }
        Ok(all)
    }

    /// All rules of a family, as they are saved; none where its programs are missing.
    async fn saved(&self, family: &str) -> Result<String, NetworkError> {
        match self.iptables(&format!("{family}-save"), &[], "").await {
            Err(NetworkError::ProgramMissing { .. }) => Ok(String::new()),
            saved => saved,
        }
    }

    /// Removes rules with one of the ids, and the chains that they lead to.
    pub(crate) async fn remove_rules(&self, ids: &BTreeSet<String>) -> Result<(), NetworkError> {
        for family in FAMILIES {
            let script = removal(&self.saved(family).await?, ids);
            if !script.is_empty() {
                self.iptables(&format!("{family}-restore"), &["-w", LOCK_SECONDS, "--noflush"], &script)
                    .await?;
            }
        }
        Ok(())
    }

    /// Calls a program of iptables, and gives what it writes.
    pub(crate) async fn iptables(
        &self,
        program: &str,
        args: &[&str],
        stdin: &str,
    ) -> Result<String, NetworkError> {
        let path = find_program(program)?;
        let call = ProgramCall {
            program: path.clone(),
            args: args.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), PATH.into())],
            stdin: stdin.into(),
            limit: LIMIT,
            output_limit_bytes: OUTPUT_LIMIT_BYTES,
        };
        let end =
            self.programs.run(call).await.map_err(|source| NetworkError::Start { program: path, source })?;
        if end.status == ProgramStatus::Exited(0) {
            return Ok(String::from_utf8_lossy(&end.stdout).into_owned());
        }
        let reason = format!("{:?}: {}", end.status, String::from_utf8_lossy(&end.stderr).trim());
        Err(NetworkError::Program { program: program.to_owned(), reason })
    }
}

/// Ids that begin with a prefix, in what `iptables-save` writes.
fn ids(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_inner = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-');
    let found = text.match_indices(prefix).map(|(at, _)| &text[at..]);
    found.map(|rest| rest.split(|char| !is_inner(char)).next().unwrap_or_default().to_owned()).collect()
}

/// A script for `iptables-restore --noflush` that removes rules with one of the ids and the chains that they lead to;
/// empty when there are none.
fn removal(saved: &str, ids: &BTreeSet<String>) -> String {
    let mut script = String::new();
    // What stands before the first table is a comment.
    for table in format!("\n{saved}").split("\n*").skip(1) {
        let (name, rest) = table.split_once('\n').unwrap_or((table, ""));
        let is_doomed = |line: &&str| ids.iter().any(|id| line.contains(&format!("\\\"{id}\\\"")));
        let rules: Vec<&str> =
            rest.lines().filter(|line| line.starts_with("-A ")).filter(is_doomed).collect();
        let chains: BTreeSet<&str> = rules.iter().filter_map(|rule| own_chain(rule)).collect();
        if rules.is_empty() {
            continue;
        }
        let _ = writeln!(script, "*{name}");
        for rule in rules {
            let chain = rule.split(' ').nth(1).unwrap_or_default();
            if !chains.contains(chain) {
                let _ = writeln!(script, "-D {}", &rule["-A ".len()..]);
            }
        }
        for verb in ["-F", "-X"] {
            for chain in &chains {
                let _ = writeln!(script, "{verb} {chain}");
            }
        }
        script.push_str("COMMIT\n");
    }
    script
}

/// The chain of one container that a rule leads to.
fn own_chain(rule: &str) -> Option<&str> {
    let target = rule.split_once(" -j ")?.1.split(' ').next()?;
    let is_own =
        target.starts_with(OWN_CHAINS) && !SHARED_CHAINS.iter().any(|shared| target.starts_with(shared));
    is_own.then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by iptables-save 1.8.9 after ADD of bridge and portmap 1.1.1, with another container's id.
    const SAVED: &str = r#"# Generated by iptables-save v1.8.9 (nf_tables) on Thu Nov 26 22:22:50 2026
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-DN-c0f01d097728718fbc10f - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-c0f01d097728718fbc10fe72 - [0:0]
:CNI-0000000000000000000000ff - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -s 10.97.0.2/32 -m comment --comment "name: \"bridge\" id: \"us-1\"" -j CNI-c0f01d097728718fbc10fe72
-A POSTROUTING -s 10.97.0.9/32 -m comment --comment "name: \"bridge\" id: \"us-11\"" -j CNI-0000000000000000000000ff
-A CNI-DN-c0f01d097728718fbc10f -d 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.97.0.2:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"bridge\" id: \"us-1\"" -m multiport --dports 8080 -j CNI-DN-c0f01d097728718fbc10f
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-c0f01d097728718fbc10fe72 -d 10.97.0.0/24 -m comment --comment "name: \"bridge\" id: \"us-1\"" -j ACCEPT
-A CNI-c0f01d097728718fbc10fe72 ! -d 224.0.0.0/4 -m comment --comment "name: \"bridge\" id: \"us-1\"" -j MASQUERADE
COMMIT
# Completed on Thu Nov 26 22:22:50 2026
*filter
:INPUT ACCEPT [0:0]
COMMIT
"#;

    #[test]
    fn rules_of_one_container_are_removed_with_its_chains() {
        assert_eq!(ids(SAVED, "us-"), BTreeSet::from(["us-1".to_owned(), "us-11".to_owned()]));
        assert_eq!(
            removal(SAVED, &BTreeSet::from(["us-1".to_owned()])),
            r#"*nat
-D POSTROUTING -s 10.97.0.2/32 -m comment --comment "name: \"bridge\" id: \"us-1\"" -j CNI-c0f01d097728718fbc10fe72
-D CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"bridge\" id: \"us-1\"" -m multiport --dports 8080 -j CNI-DN-c0f01d097728718fbc10f
-F CNI-DN-c0f01d097728718fbc10f
-F CNI-c0f01d097728718fbc10fe72
-X CNI-DN-c0f01d097728718fbc10f
-X CNI-c0f01d097728718fbc10fe72
COMMIT
"#
        );
        assert_eq!(removal(SAVED, &BTreeSet::from(["us".to_owned()])), "");
    }
}
