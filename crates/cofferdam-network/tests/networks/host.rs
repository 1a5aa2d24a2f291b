//! A host for one trial: its own network, mounts and processes, all of which go with the trial.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_network::bridge::BridgeOptions;
use cofferdam_network::{AttachRequest, Networks, Places};
use cofferdam_testkit::lab::new_command;

use crate::own_host::TRIAL;
pub(crate) use crate::own_host::{command, run_inside, sh, trial_inside, try_sh};
use crate::programs::TokioPrograms;

/// A link to the directory of fake plugins, for all processes of a host.
pub(crate) const FAKES: &str = "/run/fakes";
/// How long something may take to become true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Starts this binary again on the same host, to be killed. It attaches a container again and again.
pub(crate) fn start_attacher(id: &str, network: &str) -> std::process::Child {
    let mut command = new_command(std::env::current_exe().unwrap());
    command.env(TRIAL, crate::gc::ATTACHER).env("ID", id).env("NETWORK", network).spawn().unwrap()
}

/// Covers what plugins would write to on the machine.
pub(crate) fn prepare() {
    for (kind, target) in [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("sysfs", "/sys")] {
        sh(&format!("mount -t {kind} {kind} {target}"));
    }
    sh("ip link set lo up");
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        cofferdam_testkit::lab::breathe();
    }
}

/// Where networks are: those of a fake plugin if [`FAKES`] leads to one.
pub(crate) fn places() -> Places {
    let fakes = std::fs::read_link(FAKES).ok();
    let usual = Places::usual(PathBuf::new(), fakes.as_ref().map(|path| path.as_os_str()));
    let configurations = fakes.map_or(usual.configurations, |path| vec![path]);
    Places { state: "/run/state".into(), configurations, ..usual }
}

pub(crate) fn networks() -> Networks {
    networks_at(places())
}

pub(crate) fn networks_at(places: Places) -> Networks {
    Networks::open(places, BridgeOptions::default(), Arc::new(TokioPrograms)).unwrap()
}

pub(crate) fn request(network: &str) -> AttachRequest {
    AttachRequest { network: network.into(), ..AttachRequest::default() }
}

/// Runs a future to its end, on several threads.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A web server in a namespace; answers with `body`.
#[expect(clippy::zombie_processes, reason = "it goes with the host's first process, which is this one")]
pub(crate) fn serve(namespace: &Path, body: &str) {
    let root = format!("/run/www-{body}");
    sh(&format!("mkdir -p {root} && echo {body} > {root}/index.html"));
    let enter = format!("--net={}", namespace.display());
    command("nsenter", &[&enter, "busybox", "httpd", "-f", "-p", "[::]:80", "-h", &root]).spawn().unwrap();
}

/// What a web server at `ADDRESS:PORT` answers, or `None`.
pub(crate) fn get(address: &str) -> Option<String> {
    let fetch = || -> std::io::Result<String> {
        let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = fetch().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.trim().to_owned())
}

/// The same from inside of a namespace.
pub(crate) fn get_from(namespace: &Path, address: &str) -> Option<String> {
    let address = address.to_owned();
    cofferdam_network::namespace::enter(namespace, move || Ok(get(&address))).unwrap()
}

/// All that a container can leave on a host: links, rules, leases, namespaces, mounts, records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left(BTreeSet<String>);

impl Left {
    pub(crate) fn now() -> Self {
        let mut all = BTreeSet::new();
        let scripts = [
            "ip -o link | cut -d: -f2 | cut -d@ -f1",
            "for t in iptables ip6tables; do $t-save | grep -v '^#' | sed 's/\\[.*\\]//'; done",
            "find /var/lib/cni /run/cofferdam /run/state -mindepth 1 ! -name '*lock' ! -name 'last_reserved*' ! -name pool ! -path '*/pool/bridge' 2>/dev/null || true",
            "cut -d' ' -f5 /proc/self/mountinfo",
        ];
        for script in scripts {
            all.extend(sh(script).lines().map(|line| line.trim().to_owned()));
        }
        Self(all)
    }

    pub(crate) fn more_than(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Waits until nothing more is there than before; the kernel takes links of a namespace away after it.
    #[track_caller]
    pub(crate) fn settle(before: &Self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let more = Self::now().more_than(before);
            if more.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left: {more:#?}");
            cofferdam_testkit::lab::breathe();
        }
    }
}
