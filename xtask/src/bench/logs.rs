//! How fast a container's output comes into its log, against a bare pipe into a file.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cofferdam_testkit::lab::{finish, new_command};
use jiff::Timestamp;
use serde_json::Value;

use super::ratio::median;
use super::{Bench, Row};

/// The file that is printed, in bytes, and how often it is.
const FILE_BYTES: usize = 64 << 20;
const TIMES: usize = 4;
/// Length of its lines, their end included.
const LINE: usize = 100;
/// How often each is measured: a run takes a quarter of a second.
const RUNS: usize = 5;

/// Through the monitor into a log, in each of the formats.
pub(super) fn throughput(bench: &Bench, runtime: &str) -> Result<Vec<Row>> {
    let file = bench.bundle.join("rootfs/data/lines");
    let mut line = vec![b'x'; LINE - 1];
    line.push(b'\n');
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file)?);
    for _ in 0..FILE_BYTES / LINE {
        out.write_all(&line)?;
    }
    out.flush()?;
    let size = FILE_BYTES / LINE * LINE * TIMES;
    let drivers = ["cri", "json-file"];
    let (mut bare, mut ours) = (Vec::new(), vec![Vec::new(); drivers.len()]);
    for _ in 0..RUNS {
        bare.push(through_a_pipe(bench, &file.to_string_lossy())?);
        for (driver, took) in drivers.iter().zip(&mut ours) {
            took.push(through_a_monitor(bench, runtime, driver)?);
        }
    }
    std::fs::remove_file(file)?;
    let speed = |took: Duration| size as f64 / took.as_secs_f64() / 1e6;
    let theirs = speed(median(bare));
    let rows = drivers.iter().zip(ours).map(|(driver, took)| {
        let ours = speed(median(took));
        Row {
            what: format!("output into a log, {driver}, {runtime}"),
            ours: format!("{ours:.0} MB/s"),
            theirs: format!("`cat | cat >file`: {theirs:.0} MB/s"),
            ratio: Some(ours / theirs),
        }
    });
    Ok(rows.collect())
}

fn through_a_pipe(bench: &Bench, file: &str) -> Result<Duration> {
    let out = bench.directory("piped");
    let files = [file; TIMES].join(" ");
    let mut command = new_command("sh");
    command.args(["-c", &format!("busybox cat {files} | cat >{}", out.display())]);
    let began = Instant::now();
    let done = finish(command);
    let took = began.elapsed();
    ensure!(done.code == Some(0), "{done:?}");
    std::fs::remove_file(out)?;
    Ok(took)
}

/// From the start of the container's process to its end, by its report.
fn through_a_monitor(bench: &Bench, runtime: &str, driver: &str) -> Result<Duration> {
    let mut command = bench.cofferdam();
    command.args(["run", "--detach", "--network", "none", "--runtime", runtime, "--log-driver", driver]);
    command.args(["--log-opt", "max-size=2g", "--rootfs"]).arg(bench.bundle.join("rootfs"));
    command.arg("cat").args(["/data/lines"; TIMES]);
    let done = finish(command);
    ensure!(done.code == Some(0), "{done:?}");
    let id = done.text();
    let mut command = bench.cofferdam();
    command.args(["wait", "--format", "json", &id]);
    let report: Value = finish(command).json();
    ensure!(report["exit_code"] == 0, "{report}");
    let mut command = bench.cofferdam();
    command.args(["rm", &id]);
    ensure!(finish(command).code == Some(0), "it can be removed");
    let moment = |key: &str| -> Result<Timestamp> {
        report[key].as_str().context("the report has times")?.parse().map_err(Into::into)
    };
    Ok(moment("ended")?.duration_since(moment("started")?).try_into()?)
}
