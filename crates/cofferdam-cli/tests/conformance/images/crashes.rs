//! SIGKILL at any moment of a pull and of a run: the store is whole, and nothing stays.

use std::time::{Duration, Instant};

use cofferdam_testkit::lab::{Lab, Running};
use rustix::process::Signal;

use super::{is_one_of_each, is_runc, tool};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("images::a_pull_killed_at_any_moment", a_pull_killed).only(is_runc),
    case("images::a_run_killed_at_any_moment", a_run_killed).only(is_one_of_each),
];

/// How often something is killed; half as often under gVisor, which takes its time to be cleared away.
const KILLS: u32 = 20;

/// Moments spread over the whole of what takes so long, in an order that has none.
fn moments(lab: &Lab, whole: Duration) -> impl Iterator<Item = Duration> {
    let kills = if lab.choice.is_gvisor() { KILLS / 2 } else { KILLS };
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
