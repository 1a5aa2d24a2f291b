//! A host for one test: a network and mounts of its own, which go with it.
//!
//! Invariant: nothing that runs on it changes the machine's own network, or the places where CNI's plugins and cofferdam
//! write down what they gave to whom.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::command::{Finished, finish, new_command};

/// Covers what is of the machine. The route leads nowhere; a bridge wants to know by which link packets leave.
const SET_UP: &str = "ip link set lo up
mkdir -p /run/cofferdam /var/lib/cni
mount -t tmpfs tmpfs /run/cofferdam
mount -t tmpfs tmpfs /var/lib/cni
ip link add out type veth peer name outside
ip address add 198.51.100.2/24 dev out
ip link set out up
ip link set outside up
ip route add default via 198.51.100.1
echo ready
exec cat";

/// The host; dropped, it goes when nothing runs on it.
#[derive(Debug)]
pub struct PrivateHost {
    /// Ends when its input does: with the test, however that ends.
    holder: Child,
}

impl PrivateHost {
    /// Makes one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let mut command = new_command("unshare");
        // What the machine unmounts is unmounted here, too, and nothing the other way round.
        command.args(["--net", "--mount", "--propagation", "slave", "sh", "-ec", SET_UP]);
        let mut holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut line = String::new();
        let said = holder.stdout.take().map(|said| BufReader::new(said).read_line(&mut line));
        assert!(matches!(said, Some(Ok(_))) && line == "ready\n", "no private host: {line}");
        Self { holder }
    }

    /// A command on it, not started yet.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = new_command("nsenter");
        command.arg(format!("--target={}", self.holder.id())).args(["--net", "--mount", "--"]).arg(program);
        command.stdin(Stdio::null());
        // They lead off this host.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a shell's script on it to its end.
    #[must_use]
    pub fn shell(&self, script: &str) -> Finished {
        let mut command = self.command("sh");
        command.args(["-ec", script]);
        finish(command)
    }

    /// The mounts on it below a directory.
    #[must_use]
    pub fn mounts_below(&self, directory: &Path) -> Vec<String> {
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id()));
        let below = format!(" {}/", directory.display());
        let table = table.unwrap_or_default();
        table.lines().filter(|line| line.contains(&below)).map(|line| format!("mount {line}")).collect()
    }
}

impl Default for PrivateHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PrivateHost {
    fn drop(&mut self) {
        // It may have died by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
