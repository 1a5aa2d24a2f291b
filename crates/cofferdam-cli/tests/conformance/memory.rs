//! Out-of-memory kills while the container lives, and what it uses.

use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_testkit::lab::{Lab, eventually};
use cofferdam_testkit::oom_latency::measure;
use cofferdam_testkit::process::signal_process;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::keeper::kill_supervisor;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("memory::a_kill_is_told_while_it_lives", a_kill_is_told_while_it_lives).only(has_one_process_killed),
    case("memory::a_kill_is_told_once", a_kill_is_told_once).only(has_one_process_killed),
    case("memory::a_sandbox_that_is_killed_is_told", a_sandbox_that_is_killed_is_told)
        .only(Choice::is_gvisor),
    case("memory::many_at_once", many_at_once).only(is_one_of_each),
    case("memory::every_kill_is_told_soon", every_kill_is_told_soon).only(is_one_of_each),
    case("memory::what_is_used_is_shown", what_is_used_is_shown).real(),
];

/// Under gVisor the kernel kills the sandbox as a whole.
fn has_one_process_killed(choice: &Choice) -> bool {
    choice.is_real() && !choice.is_gvisor()
}

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Crun | Choice::Runsc(RUNSC_DEBIAN))
}

/// The out-of-memory kills of a container by its events.
fn told(lab: &Lab, id: &str) -> Vec<u64> {
    let container = format!("container={id}");
    let args = ["events", "--since", "1h", "--until", "0s", "--format", "json"];
    let filters = ["--filter", "event=oom", "--filter", &container];
    let done = lab.cofferdam(&[&args[..], &filters].concat()).expect_code(0);
    let events = done.text();
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.map(|event| event["kills"].as_u64().unwrap()).collect()
}

/// Has a child killed for each SIGUSR1, and ends with 3 at SIGTERM.
const KILLED_CHILDREN: &str =
    "trap 'exit 3' TERM; trap 'tail /dev/zero' USR1; echo up; while :; do sleep 0.05; done";

fn start(lab: &Lab) -> String {
    let id = lab.run_detached(&["-m", "32m", "--oom-kill", "single"], &["sh", "-c", KILLED_CHILDREN]);
    eventually("it has its traps", || lab.cofferdam(&["logs", &id]).text() == "up");
    id
}

fn a_kill_is_told_while_it_lives(lab: &Lab) {
    let id = start(lab);
    for kills in 1..=3_usize {
        drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
        eventually("it is told", || told(lab, &id).len() == kills);
        // It is told before it is written down.
        eventually("it is counted", || lab.inspect(&id)["state"]["oom_kills"] == kills);
        assert_eq!(lab.inspect(&id)["state"]["status"], "running");
    }
    drop(lab.cofferdam(&["stop", &id]).expect_code(0));
    let report = lab.report(&id);
    assert_eq!(report["cause"], json!({ "kind": "exited", "code": 3 }), "{report:#}");
    assert_eq!(told(lab, &id), [1, 1, 1], "and not again at its end");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_kill_is_told_once(lab: &Lab) {
    let id = start(lab);
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    eventually("it is told", || told(lab, &id) == [1]);
    kill_supervisor(lab, &id);
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    eventually("the next supervisor tells of the next", || told(lab, &id) == [1, 1]);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    assert_eq!(told(lab, &id), [1, 1]);
    lab.expect_clean();
}

fn a_sandbox_that_is_killed_is_told(lab: &Lab) {
    let id = lab.run_detached(&["-m", "64m"], &["tail", "/dev/zero"]);
    let report = lab.report(&id);
    assert_eq!(report["cause"], json!({ "kind": "oom_killed", "victim": "init" }), "{report:#}");
    let kills: u64 = told(lab, &id).iter().sum();
    assert!(kills > 0, "{report:#}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

/// What happens to one of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its memory runs out at once.
    OutOfMemory,
    /// Somebody kills it, under a limit.
    Killed,
    /// A child's memory runs out, and it ends with 3.
    ChildThenOwn,
    /// It hands on what its child got.
    ChildHandedOn,
}

impl End {
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::OutOfMemory => &["tail", "/dev/zero"],
            Self::Killed => &["sleep", "1000"],
            Self::ChildThenOwn => &["sh", "-c", "tail /dev/zero; exit 3"],
            Self::ChildHandedOn => &["sh", "-c", "tail /dev/zero; exit $?"],
        }
    }

    /// Its cause, and whether there is an event.
    fn expected(self) -> (Value, bool) {
        match self {
            Self::OutOfMemory => (json!({ "kind": "oom_killed", "victim": "init" }), true),
            Self::Killed => (json!({ "kind": "signaled", "signal": "SIGKILL" }), false),
            Self::ChildThenOwn => (json!({ "kind": "exited", "code": 3 }), true),
            Self::ChildHandedOn => (json!({ "kind": "oom_killed", "victim": "child" }), true),
        }
    }
}

/// As many of the first two, and a fifth of that of the others.
fn many_at_once(lab: &Lab) {
    let count = bulk(50);
    let mut ends = [vec![End::OutOfMemory; count], vec![End::Killed; count]].concat();
    if !lab.choice.is_gvisor() {
        ends.extend([vec![End::ChildThenOwn; count / 5], vec![End::ChildHandedOn; count / 5]].concat());
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(end) = ends.get(next.fetch_add(1, Ordering::Relaxed)) {
                    expect_end(lab, *end);
                }
            });
        }
    });
    lab.expect_clean();
}

fn expect_end(lab: &Lab, end: End) {
    let alone = matches!(end, End::ChildThenOwn | End::ChildHandedOn);
    // Little under gVisor, whose guest takes its time to fill it.
    let memory = if lab.choice.is_gvisor() { "24m" } else { "64m" };
    let options = ["-m", memory, "--oom-kill", "single"];
    let id = lab.run_detached(if alone { &options } else { &options[..2] }, end.command());
    if end == End::Killed {
        signal_process(crate::exit::pid_of(lab, &id), Signal::KILL);
    }
    let report = lab.report(&id);
    let (cause, is_told) = end.expected();
    assert_eq!(report["cause"], cause, "{end:?}: {report:#}");
    assert_eq!(!told(lab, &id).is_empty(), is_told, "{end:?}: {report:#}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
}

/// How soon is printed; that none is missed is what must be so.
#[expect(clippy::print_stderr, reason = "a measurement, for whoever looks")]
fn every_kill_is_told_soon(lab: &Lab) {
    let count = bulk(10);
    let told = measure(lab, count);
    let (median, most) =
        (told.percentile_ms(50).unwrap_or_default(), told.percentile_ms(99).unwrap_or_default());
    eprintln!(
        "{}: {count} kills told after {median:.2} ms (median), {most:.2} ms (99th percentile); missed {}, and {} by a \
         poller of 500 ms",
        lab.choice, told.missed, told.missed_by_poller
    );
    assert_eq!(told.missed, 0);
    lab.expect_clean();
}

/// How many of something there are: COFFERDAM_TEST_BULK, or a tenth of what was measured by hand.
fn bulk(usual: usize) -> usize {
    std::env::var("COFFERDAM_TEST_BULK").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

const MIB: u64 = 1 << 20;

fn what_is_used_is_shown(lab: &Lab) {
    // dd has read its block, and waits for a reader of it.
    let script = "dd if=/dev/zero bs=64M count=1 2>/dev/null | sleep 1000 & while :; do :; done";
    let id = lab.run_detached(&["-m", "256m", "--pids-limit", "100"], &["sh", "-c", script]);
    let stats = || lab.cofferdam(&["stats", "--format", "json", &id]).expect_code(0).json();
    let mut row = Value::Null;
    eventually("it has touched its memory", || {
        row = stats();
        row["memory"]["working_set_bytes"].as_u64().unwrap() >= 64 * MIB
    });
    let memory = &row["memory"];
    // The sandbox's own comes on top.
    let most = if lab.choice.is_gvisor() { 128 } else { 72 };
    assert!(memory["working_set_bytes"].as_u64().unwrap() < most * MIB, "{row:#}");
    let limit = 256 * MIB + crate::limits::headroom(lab, 256 * MIB);
    assert_eq!((&memory["limit_bytes"], &memory["oom_kills"]), (&json!(limit), &json!(0)), "{row:#}");
    assert_eq!(row["pids"]["limit"], 100, "{row:#}");
    assert!(row["pids"]["current"].as_u64() >= Some(3), "{row:#}");
    assert!(row["cpu"]["usage_us"].as_u64() > Some(0) && row["cpu_percent"].as_f64() > Some(1.0), "{row:#}");
    assert_eq!(row["network"]["received_bytes"], 0, "{row:#}");
    let table = lab.cofferdam(&["stats"]).expect_code(0).text();
    assert!(
        table.starts_with("CONTAINER ID") && table.contains(&id[..12]) && table.contains(".0 MiB"),
        "{table}"
    );
    let name = lab.cofferdam(&["stats", "--format", "{{.name}} {{.memory.limit_bytes}}", &id]).text();
    assert!(name.ends_with(&format!(" {limit}")), "{name}");
    drop(lab.cofferdam(&["stats", "nope"]).expect_error("E0103"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    assert_eq!(lab.cofferdam(&["stats"]).expect_code(0).text().lines().count(), 1, "titles alone");
    lab.expect_clean();
}
