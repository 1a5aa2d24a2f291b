//! All tests, and what they need.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use xshell::{Shell, cmd};

use crate::{packages, runtimes, step, vm};

/// Programs that the tests use, with Debian's packages of them.
const NEEDED: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("crun", "crun"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("script", "bsdutils"),
    ("catatonit", "catatonit"),
    ("faketime", "faketime"),
    ("tmux", "tmux"),
    ("journalctl", "systemd"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("mkfs.ext4", "e2fsprogs"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("htpasswd", "apache2-utils"),
    ("unshare", "util-linux"),
];

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Install nothing: what is missing is skipped, visibly
    #[arg(long)]
    no_install: bool,
    /// host: everything, on this machine. vm: what needs cgroup v2 or crun, in an emulator. vm-systemd: the same, where
    /// systemd is the first process
    #[arg(long, value_enum, default_value = "host")]
    tier: Tier,
    /// Run those tests alone whose name contains this
    filter: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tier {
    Host,
    Vm,
    VmSystemd,
}

pub(crate) fn run(shell: &Shell, args: &TestArgs) -> Result<()> {
    if !packages::is_root() {
        bail!("the tests run containers: run them as root (sudo --preserve-env=PATH,HOME cargo xtask test)");
    }
    match args.tier {
        Tier::Host => {}
        Tier::Vm => return vm::run(shell, vm::Init::Script, &args.filter),
        Tier::VmSystemd => return vm::run(shell, vm::Init::Systemd, &args.filter),
    }
    if !args.no_install {
        packages::install(shell, NEEDED)?;
        runtimes::fetch_debian(shell)?;
        if let Err(error) = runtimes::build_head(shell) {
            println!("runsc of today is skipped: {error:#}");
        }
        if let Err(error) = runtimes::build_toolkit(shell) {
            println!("NVIDIA's container toolkit is skipped: {error:#}");
        }
    }
    step("building");
    cmd!(shell, "cargo build --package cofferdam-testkit --bins").quiet().run()?;
    step("running the tests");
    let filter = &args.filter;
    let features = "cofferdam-cli/failpoints";
    cmd!(shell, "cargo test --workspace --features {features} -- {filter...}").quiet().run()?;
    Ok(())
}
