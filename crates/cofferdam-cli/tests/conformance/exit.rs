//! How containers end, and what is said of it.

use std::os::unix::fs::PermissionsExt;

use cofferdam_testkit::fixture::file;
use cofferdam_testkit::lab::{Lab, eventually};
use cofferdam_testkit::process::signal_process;
use cofferdam_testkit::runtimes::Choice;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("exit::codes_arrive", codes_arrive),
    case("exit::what_cannot_be_found_is_127", what_cannot_be_found_is_127),
    case("exit::what_cannot_be_executed_is_126", what_cannot_be_executed_is_126),
    case("exit::a_kill_from_outside_is_a_signal", a_kill_from_outside_is_a_signal),
    case("exit::a_handler_that_exits_143_has_exited", a_handler_that_exits_143_has_exited),
    case(
        "exit::a_handler_of_a_signal_that_we_sent_has_exited",
        a_handler_of_a_signal_that_we_sent_has_exited,
    )
    .only(|choice| !choice.is_gvisor()),
    case("exit::stop_says_that_it_was_asked_for", stop_says_that_it_was_asked_for),
    case("exit::the_time_limit_is_124", the_time_limit_is_124),
    case("exit::out_of_memory_has_its_evidence", out_of_memory_has_its_evidence).real(),
    case("exit::a_kill_under_a_limit_is_not_out_of_memory", a_kill_under_a_limit_is_not_out_of_memory).real(),
    case("exit::a_child_out_of_memory_is_told_apart", a_child_out_of_memory_is_told_apart)
        .only(|choice| matches!(choice, Choice::Runc | Choice::Crun)),
    case(
        "exit::a_kill_after_a_childs_death_is_not_out_of_memory",
        a_kill_after_a_childs_death_is_not_out_of_memory,
    )
    .only(|choice| matches!(choice, Choice::Runc | Choice::Crun)),
    case("exit::too_little_memory_to_start_in", too_little_memory_to_start_in).real(),
    case("exit::a_signal_inside_the_guest_is_ambiguous", a_signal_inside_the_guest_is_ambiguous)
        .only(Choice::is_gvisor),
];

/// The pid that a container's record names.
pub(crate) fn pid_of(lab: &Lab, container: &str) -> i32 {
    let pid = lab.inspect(container)["state"]["pid"].as_i64().expect("it runs");
    i32::try_from(pid).expect("a pid fits")
}

/// Waits until a container that another process is making runs.
pub(crate) fn until_running(lab: &Lab, name: &str) {
    let status = || lab.cofferdam(&["inspect", name, "--format", "{{.State.Status}}"]).text();
    eventually("it runs", || status() == "running");
}

/// The memory counter among the evidence.
fn oom_kills(report: &Value) -> Option<u64> {
    let evidence = report["evidence"].as_array().into_iter().flatten();
    evidence.into_iter().find(|fact| fact["kind"] == "memory").and_then(|fact| fact["oom_kill"].as_u64())
}

fn too_little_memory_to_start_in(lab: &Lab) {
    let done = lab.run(&["--rm", "-m", "6m"], &["true"]);
    // runc's own needs differ by release, and so does what is charged to the container.
    if lab.choice.is_gvisor() {
        let done = done.expect_code(125).expect_error("E0101");
        assert!(done.stderr.contains("at least 24.0 MiB"), "{}", done.stderr);
        drop(lab.run(&["--rm", "-m", "24m"], &["true"]).expect_code(0));
    } else {
        // Where it fails, it may have removed the cgroup, and the counter with it, before it says so.
        let is_told = done.stderr.contains("E0209") || done.stderr.contains("E0204");
        assert!(done.code == Some(0) || is_told, "{done:?}");
    }
    lab.expect_clean();
}

fn has_evidence(report: &Value, kind: &str) -> bool {
    report["evidence"].as_array().into_iter().flatten().any(|fact| fact["kind"] == kind)
}

fn codes_arrive(lab: &Lab) {
    for code in [0, 1, 7, 128, 255] {
        let name = format!("c{code}");
        let done = lab.run(&["--name", &name], &["sh", "-c", &format!("exit {code}")]).expect_code(code);
        assert_eq!(done.stderr, "", "a plain exit needs no words");
        let report = lab.report(&name);
        assert_eq!(report["cause"], json!({ "kind": "exited", "code": code }), "{report:#}");
        assert_eq!(report["stdio"]["truncated"], false);
    }
    lab.expect_no_leftovers();
}

fn what_cannot_be_found_is_127(lab: &Lab) {
    for command in ["nope", "/bin/nope", "no-interpreter", "./nope"] {
        drop(lab.run(&[], &[command]).expect_code(127).expect_error("E0120"));
    }
    lab.expect_clean();
}

fn what_cannot_be_executed_is_126(lab: &Lab) {
    // An ELF header of a machine that this one is not.
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[16] = 2;
    elf[18] = 243;
    std::fs::write(lab.rootfs.join("bin/foreign"), elf).unwrap();
    std::fs::set_permissions(lab.rootfs.join("bin/foreign"), PermissionsExt::from_mode(0o755)).unwrap();
    for command in ["not-executable", "/etc", "no-format", "/bin/foreign"] {
        drop(lab.run(&[], &[command]).expect_code(126).expect_error("E0121"));
    }
    drop(lab.run(&["--rm"], &["script"]).expect_code(9));
    lab.expect_clean();
}

fn a_kill_from_outside_is_a_signal(lab: &Lab) {
    let id = lab.run_detached(&["--name", "victim"], &["sleep", "1000"]);
    signal_process(pid_of(lab, &id), Signal::KILL);
    assert_eq!(lab.cofferdam(&["wait", &id]).expect_code(0).text(), "137");
    let report = lab.report(&id);
    assert_eq!(report["cause"], json!({ "kind": "signaled", "signal": "SIGKILL" }), "{report:#}");
    assert!(report.get("asked_by").is_none_or(Value::is_null), "{report:#}");
    lab.expect_no_leftovers();

    // The same in the foreground: the line on standard error says it.
    let running = lab.start_run(&["--name", "front", "--rm"], &["sleep", "1000"]);
    until_running(lab, "front");
    signal_process(pid_of(lab, "front"), Signal::KILL);
    let done = running.finish().expect_code(137);
    assert!(done.stderr.contains("SIGKILL from outside"), "{}", done.stderr);
    drop(lab.cofferdam(&["rm", "victim"]).expect_code(0));
    lab.expect_clean();
}

fn a_handler_that_exits_143_has_exited(lab: &Lab) {
    let script = "trap 'exit 143' TERM; kill -TERM $$; sleep 1000";
    drop(lab.run(&["--name", "trap"], &["sh", "-c", script]).expect_code(143));
    let report = lab.report("trap");
    assert_eq!(report["cause"], json!({ "kind": "exited", "code": 143 }), "{report:#}");
    assert_eq!(has_evidence(&report, "ambiguous"), lab.choice.is_gvisor(), "{report:#}");
}

fn a_handler_of_a_signal_that_we_sent_has_exited(lab: &Lab) {
    let script = "trap 'exit 143' TERM; touch /tmp/ready; while :; do sleep 0.1; done";
    let id = lab.run_detached(&[], &["sh", "-c", script]);
    eventually("the handler is there", || lab.rootfs.join("tmp/ready").exists());
    drop(lab.cofferdam(&["kill", "-s", "TERM", &id]).expect_code(0));
    let report = lab.report(&id);
    assert_eq!(report["cause"], json!({ "kind": "exited", "code": 143 }), "{report:#}");
    assert_eq!(report["asked_by"], "kill");
}

fn stop_says_that_it_was_asked_for(lab: &Lab) {
    let id = lab.run_detached(&["--stop-timeout", "1s"], &["sleep", "1000"]);
    drop(lab.cofferdam(&["stop", &id]).expect_code(0));
    let report = lab.report(&id);
    assert_eq!(report["cause"]["kind"], "signaled", "{report:#}");
    assert_eq!(report["asked_by"], "stop");
    // Stopping what has stopped does nothing.
    drop(lab.cofferdam(&["stop", &id]).expect_code(0));
    assert_eq!(lab.report(&id), report);
    lab.expect_no_leftovers();
}

fn the_time_limit_is_124(lab: &Lab) {
    let options = ["--rm", "--timeout", "500ms", "--stop-timeout", "500ms"];
    let done = lab.run(&options, &["sleep", "1000"]).expect_code(124);
    assert!(done.stderr.contains("time limit of 500ms"), "{}", done.stderr);
    // A container that ends in time has its own code.
    drop(lab.run(&["--rm", "--timeout", "100s"], &["sh", "-c", "exit 3"]).expect_code(3));
    lab.expect_clean();
}

fn out_of_memory_has_its_evidence(lab: &Lab) {
    let done = lab.run(&["--name", "oom", "-m", "64m"], &["tail", "/dev/zero"]).expect_code(137);
    assert!(done.stderr.contains("out of memory: limit 64.0 MiB"), "{}", done.stderr);
    let report = lab.report("oom");
    assert_eq!(report["cause"], json!({ "kind": "oom_killed", "victim": "init" }), "{report:#}");
    assert!(lab.choice.is_gvisor() || has_evidence(&report, "kernel_log"), "{report:#}");
    let counters =
        report["evidence"].as_array().unwrap().iter().find(|fact| fact["kind"] == "memory").unwrap();
    assert!(matches!(counters["scope"]["kind"].as_str(), Some("own") | None), "{report:#}");
    assert!(oom_kills(&report).is_some_and(|kills| kills > 0), "{report:#}");
    assert!(lab.inspect("oom")["state"]["oom_killed"].as_bool().unwrap());
    lab.expect_no_leftovers();
}

fn a_kill_under_a_limit_is_not_out_of_memory(lab: &Lab) {
    let id = lab.run_detached(&["-m", "64m"], &["sleep", "1000"]);
    signal_process(pid_of(lab, &id), Signal::KILL);
    let report = lab.report(&id);
    assert_eq!(report["cause"], json!({ "kind": "signaled", "signal": "SIGKILL" }), "{report:#}");
    assert_eq!(oom_kills(&report), Some(0), "{report:#}");
}

fn a_child_out_of_memory_is_told_apart(lab: &Lab) {
    let own_code = "tail /dev/zero; exit 3";
    drop(
        lab.run(&["--name", "own", "-m", "32m", "--oom-kill", "single"], &["sh", "-c", own_code])
            .expect_code(3),
    );
    assert_eq!(lab.report("own")["cause"], json!({ "kind": "exited", "code": 3 }));
    let handed_on = "tail /dev/zero; exit $?";
    drop(
        lab.run(&["--name", "handed", "-m", "32m", "--oom-kill", "single"], &["sh", "-c", handed_on])
            .expect_code(137),
    );
    assert_eq!(lab.report("handed")["cause"], json!({ "kind": "oom_killed", "victim": "child" }));
}

fn a_kill_after_a_childs_death_is_not_out_of_memory(lab: &Lab) {
    let id = lab.run_detached(
        &["-m", "32m", "--oom-kill", "single"],
        &["sh", "-c", "tail /dev/zero; touch /data/killed; sleep 1000"],
    );
    eventually("the child was killed", || lab.rootfs.join("data/killed").exists());
    signal_process(pid_of(lab, &id), Signal::KILL);
    let report = lab.report(&id);
    assert!(oom_kills(&report).is_some_and(|kills| kills > 0), "{report:#}");
    assert_eq!(report["cause"], json!({ "kind": "signaled", "signal": "SIGKILL" }), "{report:#}");
}

fn a_signal_inside_the_guest_is_ambiguous(lab: &Lab) {
    // The guest's first process dies of a fault of its own: the sandbox reports 128+11.
    file(&lab.rootfs, "bin/crash", "#!/bin/sh\nulimit -c 0\nkill -SEGV $$\nsleep 1000\n", 0o755);
    let done = lab.run(&["--name", "crash"], &["crash"]);
    let report = lab.report("crash");
    assert_eq!(done.code, Some(139), "{done:?}");
    assert_eq!(report["cause"], json!({ "kind": "exited", "code": 139 }), "{report:#}");
    assert!(has_evidence(&report, "ambiguous"), "{report:#}");
    assert!(done.stderr.contains("SIGSEGV"), "what cannot be told apart is said to be so: {}", done.stderr);
}
