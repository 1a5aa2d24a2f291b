//! Containers that are started again after their end, whoever dies meanwhile.

use cofferdam_testkit::lab::{Lab, Running, eventually, finish};
use cofferdam_testkit::process::signal_process;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::deaths::{cause, supervisor_of};
use crate::keeper::kill_supervisor;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("restarts::as_often_as_they_may", as_often_as_they_may),
    case("restarts::not_after_success_nor_a_stop", not_after_success_nor_a_stop),
    case("restarts::a_stop_in_a_pause_is_the_end", a_stop_in_a_pause_is_the_end).only(is_one_of_each),
    case("restarts::a_start_ends_a_pause", a_start_ends_a_pause).only(is_one_of_each),
    case("restarts::who_is_attached_sees_every_run", who_is_attached_sees_every_run).only(is_one_of_each),
    case("restarts::a_monitor_killed_in_a_pause", a_monitor_killed_in_a_pause).only(is_one_of_each),
    case("restarts::all_of_it_killed", all_of_it_killed).only(is_one_of_each),
    case("restarts::what_cannot_start_again", what_cannot_start_again).only(is_one_of_each),
    case("restarts::are_cut_short", are_cut_short).only(wants_failpoints),
    case("restarts::what_makes_no_sense", what_makes_no_sense).only(is_one_of_each),
    case("restarts::waiting_for_the_start", waiting_for_the_start),
    case("restarts::a_life_is_limited", a_life_is_limited).only(is_one_of_each),
    case("restarts::who_is_idle_is_ended", who_is_idle_is_ended).only(is_one_of_each),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

fn wants_failpoints(choice: &Choice) -> bool {
    is_one_of_each(choice) && cfg!(feature = "failpoints")
}

/// The words of the events of a container, without those of its adoption.
fn life(lab: &Lab, id: &str) -> Vec<String> {
    let args = ["events", "--since", "1h", "--until", "0s", "--filter"];
    let filter = format!("container={id}");
    let done = lab.cofferdam(&[&args[..], &[&filter, "--format", "{{.event}}"]].concat()).expect_code(0);
    done.text().lines().filter(|word| *word != "adopt").map(str::to_owned).collect()
}

fn expect_runs(lab: &Lab, id: &str, runs: usize) {
    let words = life(lab, id);
    let count = |word: &str| words.iter().filter(|other| *other == word).count();
    assert_eq!((count("create"), count("exit"), count("restart")), (runs, runs, runs - 1), "{words:?}");
}

fn state(lab: &Lab, id: &str) -> (Value, u64) {
    let value = lab.inspect(id);
    (value["state"]["status"].clone(), value["restarts"]["count"].as_u64().unwrap_or(0))
}

/// Waits until it has been started again so often and waits for the next time.
fn until_in_a_pause(lab: &Lab, id: &str, count: u64) {
    eventually("it waits to be started again", || {
        let (status, restarts) = state(lab, id);
        status == "restarting" && restarts >= count
    });
}

fn as_often_as_they_may(lab: &Lab) {
    let script = "echo run; echo error >&2; exit 3";
    let id = lab.run_detached(&["--restart", "on-failure:2"], &["sh", "-c", script]);
    let report = lab.report(&id);
    assert_eq!(report["cause"], json!({ "kind": "exited", "code": 3 }), "{report:#}");
    assert_eq!(report["restarts"], 2);
    let log = lab.cofferdam(&["logs", &id]).expect_code(0);
    assert_eq!((log.text().as_str(), log.stderr.as_str()), ("run\nrun\nrun", "error\nerror\nerror\n"));
    let run = ["create", "start", "exit"];
    let expected = [&run[..], &["restart"], &run, &["restart"], &run].concat();
    assert_eq!(life(lab, &id), expected);
    let value = lab.inspect(&id);
    assert_eq!(value["restarts"], json!({ "policy": "on-failure:2", "count": 2, "pause": "200ms" }));
    assert_eq!(value["last_report"]["restarts"], 1);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn not_after_success_nor_a_stop(lab: &Lab) {
    let id = lab.run_detached(&["--restart", "on-failure"], &["true"]);
    assert_eq!(lab.report(&id)["cause"], json!({ "kind": "exited", "code": 0 }));
    let stopped = lab.run_detached(&["--restart", "always"], &["sleep", "1000"]);
    drop(lab.cofferdam(&["stop", "-t", "0", &stopped]).expect_code(0));
    assert_eq!(state(lab, &stopped), (json!("stopped"), 0));
    let killed = lab.run_detached(&["--restart", "unless-stopped"], &["sleep", "1000"]);
    drop(lab.cofferdam(&["kill", &killed]).expect_code(0));
    assert_eq!(lab.report(&killed)["asked_by"], "kill");
    let late = lab.run_detached(&["--restart", "always", "--timeout", "300ms"], &["sleep", "1000"]);
    assert_eq!(cause(&lab.report(&late)), "timed_out");
    for id in [id, stopped, killed, late] {
        expect_runs(lab, &id, 1);
        drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    }
    lab.expect_clean();
}

fn a_stop_in_a_pause_is_the_end(lab: &Lab) {
    for end in [&["stop"][..], &["kill", "-s", "TERM"]] {
        let id = lab.run_detached(&["--restart", "always"], &["sh", "-c", "exit 5"]);
        until_in_a_pause(lab, &id, 3);
        drop(lab.cofferdam(&["pause", &id]).expect_error("E0501"));
        drop(lab.cofferdam(&["exec", &id, "true"]).expect_error("E0501"));
        drop(lab.cofferdam(&["rm", &id]).expect_error("E0501"));
        drop(lab.cofferdam(&[end, &[&id]].concat()).expect_code(0));
        let report = lab.report(&id);
        assert_eq!(report["cause"], json!({ "kind": "exited", "code": 5 }), "of its last run");
        expect_runs_with_one_unused(lab, &id);
        drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    }
    let id = lab.run_detached(&["--restart", "always"], &["true"]);
    until_in_a_pause(lab, &id, 2);
    drop(lab.cofferdam(&["rm", "--force", &id]).expect_code(0));
    lab.expect_clean();
}

/// Each run has its events, and the restart that was announced last did not come.
fn expect_runs_with_one_unused(lab: &Lab, id: &str) {
    let words = life(lab, id);
    let count = |word: &str| words.iter().filter(|other| *other == word).count();
    assert_eq!((count("create"), count("restart")), (count("exit"), count("exit")), "{words:?}");
}

fn a_start_ends_a_pause(lab: &Lab) {
    let id = lab.run_detached(&["--restart", "on-failure:8"], &["false"]);
    // The last pauses are of 6.4 and 12.8 seconds.
    until_in_a_pause(lab, &id, 3);
    loop {
        drop(lab.cofferdam(&["start", &id]));
        if state(lab, &id).0 == "stopped" {
            break;
        }
    }
    assert_eq!(lab.report(&id)["restarts"], 8);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn who_is_attached_sees_every_run(lab: &Lab) {
    let id = lab.run_detached(
        &["--restart", "on-failure:2"],
        &["sh", "-c", "trap 'echo bye; exit 4' USR1; echo up; while :; do sleep 0.05; done"],
    );
    let caller = Running::start(lab.command(["attach", "--no-stdin", id.as_str()]));
    for run in 0..=2 {
        let up = || lab.cofferdam(&["logs", &id]).text().matches("up").count() == run + 1;
        eventually("it has its trap", up);
        crate::attach::until_attached(lab, &id, 1);
        drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    }
    let done = caller.finish();
    assert_eq!((done.code, done.text().matches("bye").count()), (Some(4), 3), "{done:?}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_monitor_killed_in_a_pause(lab: &Lab) {
    let id = lab.run_detached(&["--restart", "on-failure:6"], &["sh", "-c", "echo run; exit 6"]);
    until_in_a_pause(lab, &id, 4);
    kill_supervisor(lab, &id);
    let report = lab.report(&id);
    assert_eq!((&report["cause"], &report["restarts"]), (&json!({ "kind": "exited", "code": 6 }), &json!(6)));
    assert_eq!(lab.cofferdam(&["logs", &id]).text().lines().count(), 7);
    expect_runs(lab, &id, 7);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn all_of_it_killed(lab: &Lab) {
    let id = lab.run_detached(&["--restart", "always"], &["sleep", "1000"]);
    let pid = lab.inspect(&id)["state"]["pid"].as_i64().unwrap();
    signal_process(supervisor_of(lab, &id), Signal::KILL);
    signal_process(i32::try_from(pid).unwrap(), Signal::KILL);
    eventually("it runs again", || state(lab, &id) == (json!("running"), 1));
    let last = lab.inspect(&id)["last_report"].take();
    assert!(["runtime_lost", "signaled"].contains(&cause(&last)), "{last:#}");
    drop(lab.cofferdam(&["rm", "--force", &id]).expect_code(0));
    lab.expect_clean();
}

fn what_cannot_start_again(lab: &Lab) {
    let script = "trap 'exit 1' USR1; echo up; while :; do sleep 0.05; done";
    let id = lab.run_detached(&["--restart", "on-failure:2"], &["sh", "-c", script]);
    eventually("it has its trap", || lab.cofferdam(&["logs", &id]).text() == "up");
    // A shell that is none.
    let shell = lab.rootfs.join("bin/sh");
    let kept = lab.rootfs.join("bin/kept");
    std::fs::rename(&shell, &kept).unwrap();
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    let report = lab.report(&id);
    std::fs::rename(&kept, &shell).unwrap();
    assert_eq!((cause(&report), &report["restarts"]), ("start_failed", &json!(2)), "{report:#}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn are_cut_short(lab: &Lab) {
    for step in ["restart.reported", "restart.cleared", "launch.made", "launch.claimed"] {
        // The second time: the first is the container's own launch. It runs long enough for its maker to be answered.
        let first = if step.starts_with("launch") { "1*off->" } else { "" };
        let mut command = lab.command(lab.launch_args(
            "run",
            &["--detach", "--restart", "on-failure:2"],
            &["sh", "-c", "echo run; sleep 0.5; exit 7"],
        ));
        command.env("FAILPOINTS", format!("{step}={first}1*return(kill)->off"));
        let id = finish(command).expect_code(0).text();
        let report = lab.report(&id);
        assert_eq!(report["restarts"], 2, "{step}: {report:#}");
        assert_eq!(report["cause"], json!({ "kind": "exited", "code": 7 }), "{step}: {report:#}");
        let words = life(lab, &id);
        let exits = words.iter().filter(|word| *word == "exit").count();
        assert_eq!(exits, 3, "{step}: {words:?}");
        drop(lab.cofferdam(&["rm", &id]).expect_code(0));
        lab.expect_no_leftovers();
    }
    lab.expect_clean();
}

fn what_makes_no_sense(lab: &Lab) {
    for policy in ["yes", "on-failure:x", "always:3", ""] {
        let args = lab.launch_args("run", &["--detach", "--restart", policy], &["true"]);
        drop(finish(lab.command(args)).expect_error("E0101"));
    }
    let args = lab.launch_args("run", &["--detach", "--rm", "--restart", "always"], &["true"]);
    drop(finish(lab.command(args)).expect_error("E0101"));
    drop(lab.run(&["--restart", "always"], &["true"]).expect_error("E0101"));
    lab.expect_clean();
}

fn waiting_for_the_start(lab: &Lab) {
    let id = finish(lab.command(lab.launch_args("create", &[], &["sleep", "1000"]))).expect_code(0).text();
    let never = ["wait", "--for", "running", "--timeout", "100ms", &id];
    assert_eq!(lab.cofferdam(&never).code, Some(124));
    let waiting = Running::start(lab.command(["wait", "--for", "running", id.as_str()]));
    drop(lab.cofferdam(&["start", &id]).expect_code(0));
    assert_eq!(waiting.finish().expect_code(0).text(), "");
    drop(lab.cofferdam(&["wait", "--for", "running", &id]).expect_code(0));
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    drop(lab.cofferdam(&["wait", "--for", "running", &id]).expect_error("E0501"));
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_life_is_limited(lab: &Lab) {
    let options = ["--restart", "always", "--ttl", "2s", "--stop-timeout", "0"];
    let short = lab.run_detached(&options, &["sh", "-c", "echo run; sleep 0.4"]);
    let long = lab.run_detached(&options, &["sleep", "1000"]);
    let created = finish(lab.command(lab.launch_args("create", &["--ttl", "1s"], &["true"])));
    let created = created.expect_code(0).text();
    for id in [&short, &long, &created] {
        let report = lab.report(id);
        // The end may come in a pause, after a run that ended by itself.
        if cause(&report) == "timed_out" {
            assert_eq!(report["asked_by"], "ttl", "{report:#}");
        } else {
            assert!(id == &short && cause(&report) == "exited", "{report:#}");
        }
        drop(lab.cofferdam(&["rm", id]).expect_code(0));
    }
    lab.expect_clean();
}

fn who_is_idle_is_ended(lab: &Lab) {
    let options = ["--idle-timeout", "1s", "--stop-timeout", "0"];
    let idle = lab.run_detached(&options, &["sleep", "1000"]);
    let busy = lab.run_detached(&options, &["sh", "-c", "while :; do echo x; sleep 0.2; done"]);
    let used = lab.run_detached(&options, &["sleep", "1000"]);
    let exec = Running::start(lab.command(["exec", &used, "sleep", "1000"]));
    let report = lab.report(&idle);
    assert_eq!((cause(&report), &report["asked_by"]), ("timed_out", &json!("idle")), "{report:#}");
    assert_eq!(report["cause"]["limit_ms"], 1000);
    // Twice the time of idleness after its own start.
    drop(lab.cofferdam(&["wait", "--timeout", "2s", &used]).expect_code(124));
    assert_eq!(state(lab, &busy).0, "running");
    exec.signal(Signal::KILL);
    drop(exec.finish());
    assert_eq!(lab.report(&used)["asked_by"], "idle");
    drop(lab.cofferdam(&["rm", "--force", &idle, &busy, &used]).expect_code(0));
    lab.expect_clean();
}
