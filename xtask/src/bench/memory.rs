//! How much memory the supervision of a container costs.

use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use cofferdam_testkit::lab::{self, breathe};
use serde_json::Value;

use super::ratio::median;
use super::{Bench, Row};

/// Containers that run at the same time while they are measured.
const COUNT: usize = 8;

/// Memory of one process, in KiB.
struct Memory {
    /// Its share of everything that it maps.
    proportional: u64,
    /// What nobody shares with it.
    private: u64,
    /// The most that it had at once, shared pages counted whole.
    peak: u64,
}

/// The foreground process of a running container.
pub(super) fn of_a_foreground(bench: &Bench, runtime: &str) -> Result<Row> {
    let mut children: Vec<Child> = Vec::new();
    for index in 0..COUNT {
        let mut command = bench.cofferdam();
        command.args(["run", "--rm", "--network", "none", "--runtime", runtime]);
        command.args(["--name", &format!("m{index}"), "--rootfs"]).arg(bench.bundle.join("rootfs"));
        command.args(["sleep", "1000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        children.push(command.spawn()?);
    }
    let pids: Vec<u32> = children.iter().map(Child::id).collect();
    let row = measure(bench, &format!("memory of `run`, {runtime}"), &pids)?;
    for mut child in children {
        child.wait()?;
    }
    Ok(row)
}

/// The monitor of a container in the background.
pub(super) fn of_a_monitor(bench: &Bench, runtime: &str) -> Result<Row> {
    for index in 0..COUNT {
        let mut command = bench.cofferdam();
        command.args(["run", "--detach", "--rm", "--network", "none", "--runtime", runtime]);
        command.args(["--name", &format!("m{index}"), "--rootfs"]).arg(bench.bundle.join("rootfs"));
        command.args(["sleep", "1000"]);
        let done = lab::finish(command);
        anyhow::ensure!(done.code == Some(0), "{done:?}");
    }
    let mut pids = Vec::new();
    for index in 0..COUNT {
        pids.push(supervisor_of(bench, &format!("m{index}")).context("it runs")?);
    }
    measure(bench, &format!("memory of a monitor, {runtime}"), &pids)
}

/// Measures processes once their containers run, and ends the containers.
fn measure(bench: &Bench, what: &str, pids: &[u32]) -> Result<Row> {
    for index in 0..COUNT {
        let deadline = std::time::Instant::now() + lab::PATIENCE;
        while supervisor_of(bench, &format!("m{index}")).is_none() {
            anyhow::ensure!(std::time::Instant::now() < deadline, "m{index} does not run");
            breathe();
        }
    }
    let memory: Vec<Memory> = pids.iter().filter_map(|pid| memory_of(*pid)).collect();
    for index in 0..COUNT {
        let mut command = bench.cofferdam();
        command.args(["rm", "--force", &format!("m{index}")]);
        let done = lab::finish(command);
        anyhow::ensure!(done.code == Some(0), "{done:?}");
    }
    let middle = |field: fn(&Memory) -> u64| median(memory.iter().map(field).collect::<Vec<_>>());
    let proportional = middle(|memory| memory.proportional);
    Ok(Row {
        what: what.to_owned(),
        ours: format!(
            "{proportional} KiB proportional, {} KiB private, {} KiB peak",
            middle(|memory| memory.private),
            middle(|memory| memory.peak)
        ),
        theirs: "conmon: 1118 KiB, 944 private; containerd's shim: 3642 KiB, 2360 private (measured once)"
            .into(),
        ratio: None,
    })
}

/// The supervisor's pid of a container that runs.
fn supervisor_of(bench: &Bench, name: &str) -> Option<u32> {
    let mut command = bench.cofferdam();
    command.args(["inspect", name]);
    let value: Value = serde_json::from_slice(&lab::finish(command).stdout).ok()?;
    let container = value.get(0)?;
    (container["state"]["status"] == "running").then_some(())?;
    u32::try_from(container["supervisor"]["pid"].as_u64()?).ok()
}

fn memory_of(pid: u32) -> Option<Memory> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let (rollup, status) = (read("smaps_rollup")?, read("status")?);
    let field = |text: &str, name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    Some(Memory {
        proportional: field(&rollup, "Pss:")?,
        private: field(&rollup, "Private_Clean:")? + field(&rollup, "Private_Dirty:")?,
        peak: field(&status, "VmHWM:")?,
    })
}
