//! What cofferdam costs, as ratios against the bare runtimes and podman in the same run.
//!
//! Invariant: what is compared is measured in turn (A B A B …), so that a machine that becomes slower slows both; the
//! median is what is printed. No test rests on these numbers.

mod contenders;
mod images;
mod latency;
mod logs;
mod memory;
mod oom;
mod ratio;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use cofferdam_testkit::fixture;
use comfy_table::{Table, presets};
use xshell::{Shell, cmd};

use crate::{packages, runtimes, step};

/// A line of the table.
pub(crate) struct Row {
    what: String,
    ours: String,
    theirs: String,
    ratio: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// How often each thing is measured
    #[arg(long, default_value_t = 40)]
    runs: usize,
    /// Measure cofferdam and the bare runtimes alone, not podman
    #[arg(long)]
    no_podman: bool,
    /// Measure images alone: fetching 1 GB against skopeo with umoci and podman, and runs of what is here
    #[arg(long, conflicts_with = "no_podman")]
    images: bool,
}

/// Everything that the measurements share.
pub(crate) struct Bench {
    runs: usize,
    cofferdam: PathBuf,
    bundle: PathBuf,
    home: tempfile::TempDir,
}

impl Bench {
    /// A directory of this name in the scratch directory.
    fn directory(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

pub(crate) fn run(shell: &Shell, args: &BenchArgs) -> Result<()> {
    ensure!(packages::is_root(), "the measurements run containers: run them as root");
    packages::install(shell, &[("runc", "runc"), ("runsc", "runsc"), ("busybox", "busybox-static")])?;
    runtimes::fetch_debian(shell)?;
    if !args.no_podman {
        packages::install(shell, &[("podman", "podman")])?;
    }
    if args.images {
        let peers = ["skopeo", "umoci", "docker-registry", "time"].map(|name| (name, name));
        packages::install(shell, &peers)?;
    }
    step("building");
    cmd!(shell, "cargo build --release --package cofferdam-cli").quiet().run()?;
    // State of runtimes is on a tmpfs where they are used; /run of a development machine may be on a disk.
    let home = tempfile::Builder::new().prefix("cfb").tempdir_in("/dev/shm")?;
    let bundle = fixture::bundle(home.path(), "bundle", &fixture::spec(&["/bin/true"]));
    let cofferdam = shell.current_dir().join("target/release/cofferdam");
    let bench = Bench { runs: args.runs, cofferdam, bundle, home };
    step(&format!("measuring, {} runs of each", args.runs));
    if args.images {
        let mut rows = images::fetched(&bench)?;
        rows.push(images::second_run(&bench)?);
        print(&rows);
        return Ok(());
    }
    let mut rows = Vec::new();
    for runtime in ["runc", "runsc"] {
        rows.extend(latency::one_at_a_time(&bench, runtime)?);
        rows.push(latency::at_once(&bench, runtime, 8)?);
        rows.push(latency::at_once(&bench, runtime, 16)?);
        if !args.no_podman {
            rows.push(latency::against_podman(&bench, runtime)?);
        }
        rows.push(memory::of_a_foreground(&bench, runtime)?);
        rows.push(memory::of_a_monitor(&bench, runtime)?);
        rows.push(latency::calls_of_the_runtime(&bench, runtime)?);
        rows.push(oom::told(&bench, runtime));
    }
    rows.extend(logs::throughput(&bench, "runc")?);
    rows.push(latency::list_of_a_hundred(&bench)?);
    print(&rows);
    Ok(())
}

fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "what",
        "cofferdam",
        "compared with",
        "ratio",
    ]);
    for row in rows {
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        table.add_row([row.what.clone(), row.ours.clone(), row.theirs.clone(), ratio]);
    }
    println!("{table}");
}
