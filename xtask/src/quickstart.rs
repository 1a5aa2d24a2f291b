//! From a clone to a container under runc and one under gVisor.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cofferdam_testkit::{fixture, lab};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::{packages, step};

/// Programs that are needed, with Debian's packages of them.
const NEEDED: [(&str, &str); 3] = [("runc", "runc"), ("runsc", "runsc"), ("busybox", "busybox-static")];
/// What the container does.
const SCRIPT: &str = "echo \"hello from Linux $(uname -r) in a container\"; exit 7";

pub(crate) fn run(shell: &Shell) -> Result<()> {
    let began = Instant::now();
    packages::install(shell, &NEEDED)?;
    step("building cofferdam");
    cmd!(shell, "cargo build --release --package cofferdam-cli").quiet().run()?;
    let binary = shell.current_dir().join("target/release/cofferdam");
    // Short: the state directory holds sockets.
    let home = tempfile::Builder::new().prefix("cofferdam-").tempdir_in("/tmp")?;
    let bundle = fixture::bundle(home.path(), "bundle", &fixture::spec(&["/bin/sh", "-c", SCRIPT]));
    std::os::unix::fs::symlink("busybox", bundle.join("rootfs/bin/uname")).context("the bundle is ours")?;
    for runtime in ["runc", "gvisor"] {
        step(&format!("cofferdam run --runtime {runtime} --network none --bundle BUNDLE"));
        one(&binary, home.path(), &bundle, runtime)?;
    }
    println!();
    println!(
        "Both ran the same bundle, in {:.0} s all in all. Nothing of them is left.",
        began.elapsed().as_secs_f64()
    );
    println!("The binary is {}. What next:", binary.display());
    println!("  {} doctor          what this host can do, and how to mend what it cannot", binary.display());
    println!(
        "  {} run --help      docker's grammar, for an image, a bundle or a root filesystem",
        binary.display()
    );
    println!("  docs/src/guide/quick-start.md      the same by hand, step by step");
    Ok(())
}

fn one(binary: &Path, home: &Path, bundle: &Path, runtime: &str) -> Result<()> {
    let cofferdam = |args: &[&str]| {
        let sudo = packages::sudo();
        let mut words = sudo.iter().map(std::ffi::OsStr::new).chain([binary.as_os_str()]);
        let mut command = lab::new_command(words.next().unwrap_or_default());
        command.args(words).arg("--state-dir").arg(home.join("state")).args(args);
        lab::finish(command)
    };
    let bundle = bundle.to_string_lossy();
    let options = ["--timings", "--network", "none", "--runtime", runtime, "--name", runtime];
    let args: Vec<&str> = ["run"].iter().chain(&options).copied().chain(["--bundle", &bundle]).collect();
    let done = cofferdam(&args);
    println!("    output:     {}", done.text());
    for line in done.stderr.lines() {
        println!("    timings:    {}", line.trim_start_matches("cofferdam: "));
    }
    ensure!(done.code == Some(7), "it should have ended with 7: {done:?}");
    let report: Value = serde_json::from_slice(&cofferdam(&["wait", "--format", "json", runtime]).stdout)?;
    println!("    exit code:  {}", done.code.unwrap_or_default());
    println!("    cause:      {}", report["cause"]);
    for fact in
        report["evidence"].as_array().into_iter().flatten().filter(|fact| fact["kind"] == "wait_status")
    {
        println!("    evidence:   {fact}");
    }
    let removed = cofferdam(&["rm", runtime]);
    ensure!(removed.code == Some(0), "it could not be removed: {removed:?}");
    Ok(())
}
