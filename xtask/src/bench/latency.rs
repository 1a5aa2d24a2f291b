//! How long things take.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use cofferdam_testkit::lab;

use super::contenders::succeed;
use super::ratio::{compare, median, ms};
use super::{Bench, Row};

/// Rounds of many at once: each is as many runs as there are containers in it.
const ROUNDS: usize = 9;

/// One container after the other, against the bare runtime; and where the time goes.
pub(super) fn one_at_a_time(bench: &Bench, runtime: &str) -> Result<Vec<Row>> {
    let pair = compare(
        bench.runs,
        || succeed(bench.cofferdam_run(runtime)),
        || succeed(bench.bare_run(runtime, "x")),
    )?;
    let mut steps: Vec<Vec<Duration>> = vec![vec![]; STEPS.len()];
    for _ in 0..bench.runs {
        let mut command = bench.cofferdam_run(runtime);
        command.arg("--timings");
        let timings = parse_timings(&lab::finish(command).stderr).context("--timings prints the steps")?;
        for (step, took) in steps.iter_mut().zip(timings) {
            step.push(took);
        }
    }
    let medians: Vec<Duration> = steps.into_iter().map(median).collect();
    let last = medians.last().copied().unwrap_or_default();
    let bare = format!("{runtime} run: {}", ms(pair.theirs));
    let to_report = pair.ours.saturating_sub(last);
    let inside: Duration = medians.iter().sum();
    let mut parts: Vec<String> =
        STEPS.iter().zip(&medians).map(|(name, took)| format!("{name} {}", ms(*took))).collect();
    parts.insert(0, format!("start of the process {}", ms(pair.ours.saturating_sub(inside))));
    Ok(vec![
        Row {
            what: format!("run of `true`, {runtime}, to the report"),
            ours: ms(to_report),
            theirs: bare.clone(),
            ratio: Some(to_report.as_secs_f64() / pair.theirs.as_secs_f64()),
        },
        Row {
            what: format!("run of `true`, {runtime}, with clean-up"),
            ours: ms(pair.ours),
            theirs: bare,
            ratio: Some(pair.ratio()),
        },
        Row { what: "  where it goes".into(), ours: parts.join("\n"), theirs: String::new(), ratio: None },
    ])
}

/// The steps that `--timings` prints, in order.
const STEPS: [&str; 4] = ["prepare", "create and start", "run", "report and clean up"];

/// Reads the line of `--timings`.
fn parse_timings(text: &str) -> Option<Vec<Duration>> {
    let line = text.lines().find(|line| line.contains("prepare "))?;
    STEPS.iter().map(|step| line.split(" | ").find_map(|part| parse_span(part.split_once(step)?.1))).collect()
}

/// Reads `1s 12ms 300µs`.
fn parse_span(text: &str) -> Option<Duration> {
    text.split_whitespace()
        .map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = part[..digits].parse().ok()?;
            Some(match &part[digits..] {
                "s" => Duration::from_secs(number),
                "ms" => Duration::from_millis(number),
                "µs" => Duration::from_micros(number),
                _ => return None,
            })
        })
        .sum()
}

/// Many containers at once, against as many bare ones.
pub(super) fn at_once(bench: &Bench, runtime: &str, count: usize) -> Result<Row> {
    let together = |make: &(dyn Fn(usize) -> std::process::Command + Sync)| -> Result<()> {
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..count).map(|index| scope.spawn(move || succeed(make(index)))).collect();
            started
                .into_iter()
                .try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a thread died")))
        })
    };
    let pair = compare(
        ROUNDS,
        || together(&|_| bench.cofferdam_run(runtime)),
        || together(&|index| bench.bare_run(runtime, &format!("x{index}"))),
    )?;
    let rate = |took: Duration| format!("{:.1} a second", count as f64 / took.as_secs_f64());
    Ok(Row {
        what: format!("{count} at once, {runtime}"),
        ours: format!("{} ({})", ms(pair.ours), rate(pair.ours)),
        theirs: format!("{runtime} run: {} ({})", ms(pair.theirs), rate(pair.theirs)),
        ratio: Some(pair.ratio()),
    })
}

pub(super) fn against_podman(bench: &Bench, runtime: &str) -> Result<Row> {
    let pair = compare(
        bench.runs,
        || succeed(bench.cofferdam_run(runtime)),
        || succeed(bench.podman_run(runtime)?),
    )?;
    Ok(Row {
        what: format!("run of `true`, {runtime}, against podman"),
        ours: ms(pair.ours),
        theirs: format!("podman run --rootfs: {}", ms(pair.theirs)),
        ratio: Some(pair.ratio()),
    })
}

/// How often the runtime is started in the life of one container: each costs the start of a Go program.
pub(super) fn calls_of_the_runtime(bench: &Bench, runtime: &str) -> Result<Row> {
    let home = bench.directory(&format!("counting-{runtime}"));
    std::fs::create_dir(&home)?;
    let (wrapper, calls) = (home.join(runtime), home.join("calls"));
    std::fs::write(
        &wrapper,
        format!("#!/bin/sh\necho call >> {}\nexec /usr/bin/env {runtime} \"$@\"\n", calls.display()),
    )?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    let wrapper = wrapper.to_string_lossy().into_owned();
    // The first run probes the binary as well.
    succeed(bench.cofferdam_run(&wrapper))?;
    std::fs::remove_file(&calls)?;
    succeed(bench.cofferdam_run(&wrapper))?;
    let count = std::fs::read_to_string(&calls)?.lines().count();
    Ok(Row {
        what: format!("starts of {runtime} for one container"),
        ours: count.to_string(),
        theirs: "create, start, wait, delete: 4".into(),
        ratio: None,
    })
}

/// `ps` with a hundred containers that have ended, against the runtime's own list of as many.
pub(super) fn list_of_a_hundred(bench: &Bench) -> Result<Row> {
    const COUNT: usize = 100;
    for index in 0..COUNT {
        let mut command = bench.cofferdam();
        command.args(["run", "--network", "none", "--bundle"]).arg(&bench.bundle);
        succeed(command)?;
        let mut command = bench.bare("runc");
        command.args(["run", "--detach", "--bundle"]).arg(&bench.bundle).arg(format!("l{index}"));
        // Its streams go to the container, which must not hold a pipe that somebody reads to its end.
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let status = command.stderr(std::process::Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "{command:?}");
    }
    let ours = || {
        let mut command = bench.cofferdam();
        command.args(["ps", "--all"]);
        command
    };
    let theirs = || {
        let mut command = bench.bare("runc");
        command.arg("list");
        command
    };
    let pair = compare(bench.runs, || succeed(ours()), || succeed(theirs()))?;
    for index in 0..COUNT {
        let mut command = bench.bare("runc");
        command.args(["delete", "--force", &format!("l{index}")]);
        succeed(command)?;
    }
    Ok(Row {
        what: format!("ps with {COUNT} stopped containers"),
        ours: ms(pair.ours),
        theirs: format!("runc list: {}", ms(pair.theirs)),
        ratio: Some(pair.ratio()),
    })
}
