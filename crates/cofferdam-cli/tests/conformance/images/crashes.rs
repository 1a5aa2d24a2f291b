//! SIGKILL at any moment of a pull, a run and a removal: the store is whole, and nothing stays.

use std::time::{Duration, Instant};

use cofferdam_testkit::lab::{Lab, Running};
use rustix::process::Signal;

use super::{is_one_of_each, is_runc, stored, tool};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("images::a_pull_killed_at_any_moment", a_pull_killed).only(is_runc),
    case("images::a_run_killed_at_any_moment", a_run_killed).only(is_one_of_each),
    case("images::a_removal_killed_at_any_moment", a_removal_killed).only(is_runc),
];

/// How often something is killed: COFFERDAM_TEST_BULK, or a fifth of what was measured by hand; half as often under gVisor,
/// which takes its time to be cleared away.
fn kills(lab: &Lab) -> u32 {
    let told = std::env::var("COFFERDAM_TEST_BULK").ok().and_then(|text| text.parse().ok());
    let kills = told.unwrap_or(20);
    if lab.choice.is_gvisor() { kills / 2 } else { kills }
}

/// Moments spread over the whole of what takes so long, in an order that has none.
fn moments(lab: &Lab, whole: Duration) -> impl Iterator<Item = Duration> {
    let kills = kills(lab);
    (0..kills).map(move |at| whole.mul_f64(f64::from((at * 7) % kills + 1) / f64::from(kills)))
}

fn kill_after(running: Running, moment: Duration) {
    std::thread::park_timeout(moment);
    running.signal(Signal::KILL);
    drop(running.finish());
}

fn a_pull_killed(lab: &Lab) {
    let tool = tool(lab);
    let pull = || Running::start(lab.command(["pull", "--quiet", &tool]));
    let start = Instant::now();
    drop(pull().finish().expect_code(0));
    let whole = start.elapsed();
    let empty = || {
        drop(lab.cofferdam(&["image", "prune", "--all", "--force"]).expect_code(0));
        let left = lab.cofferdam(&["image", "verify"]).expect_code(0).stderr;
        let nothing = "0 blobs have their digests, 0 layers are unpacked, 0 things are left over, 0 broken";
        assert!(left.contains(nothing), "{left}");
    };
    for moment in moments(lab, whole) {
        empty();
        kill_after(pull(), moment);
        drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
        drop(lab.cofferdam(&["gc"]).expect_code(0));
    }
    drop(lab.run_image(&["--rm"], &[&tool, "true"]).expect_code(0));
    empty();
    lab.expect_clean();
}

fn a_removal_killed(lab: &Lab) {
    let tool = tool(lab);
    stored(lab, &tool, "app:1");
    let remove = || Running::start(lab.command(["rmi", "app:1"]));
    let start = Instant::now();
    drop(remove().finish().expect_code(0));
    for moment in moments(lab, start.elapsed()) {
        stored(lab, &tool, "app:1");
        kill_after(remove(), moment);
        drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
        drop(lab.cofferdam(&["gc"]).expect_code(0));
        let listed = lab.cofferdam(&["images", "-q"]).expect_code(0).text();
        if !listed.is_empty() {
            // It is all there, or nothing of it is.
            drop(lab.run_image(&["--rm", "--pull", "never"], &[&listed, "true"]).expect_code(0));
            drop(lab.cofferdam(&["rmi", "--force", &listed]).expect_code(0));
        }
        let left = lab.cofferdam(&["image", "verify"]).expect_code(0).stderr;
        assert!(
            left.contains("0 blobs have their digests, 0 layers are unpacked, 0 things are left over"),
            "{left}"
        );
    }
    lab.expect_clean();
}

fn a_run_killed(lab: &Lab) {
    let tool = tool(lab);
    let run = || {
        Running::start(lab.command(lab.image_args(
            "run",
            &["--rm"],
            &[&tool, "sh", "-c", "echo x > /data/x"],
        )))
    };
    drop(run().finish().expect_code(0));
    let start = Instant::now();
    drop(run().finish().expect_code(0));
    for moment in moments(lab, start.elapsed()) {
        kill_after(run(), moment);
        for id in lab.cofferdam(&["ps", "-a", "-q", "--own"]).expect_code(0).text().lines() {
            drop(lab.cofferdam(&["rm", "--force", id]).expect_code(0));
        }
        drop(lab.cofferdam(&["gc"]).expect_code(0));
        lab.expect_clean();
    }
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    drop(run().finish().expect_code(0));
    lab.expect_clean();
}
