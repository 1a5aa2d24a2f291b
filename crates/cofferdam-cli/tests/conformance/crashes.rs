//! SIGKILL to each process at each step: the command that was called, its monitor, the runtime's own process, the container
//! or its sandbox. Afterwards there is nothing, or a container that is supervised, or the truth about its end.

use cofferdam_testkit::lab::{Lab, Running, eventually};
use cofferdam_testkit::process::{kill_process, signal_process};
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::deaths::{cause, kernel_keeps_exits};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("crashes::of_the_command_at_each_step", |lab| at_each_step(lab, Victim::Command))
        .only(wants_failpoints),
    case("crashes::of_the_monitor_at_each_step", |lab| at_each_step(lab, Victim::Monitor))
        .only(wants_failpoints),
    case("crashes::of_the_runtime_at_each_step", |lab| at_each_step(lab, Victim::Runtime))
        .only(wants_failpoints),
    case("crashes::of_the_container_at_each_step", |lab| at_each_step(lab, Victim::Container))
        .only(wants_failpoints),
];

fn wants_failpoints(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN)) && cfg!(feature = "failpoints")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Command,
    Monitor,
    Runtime,
    Container,
}

fn at_each_step(lab: &Lab, victim: Victim) {
    // The runtime is a process of its own only while it is called.
    let steps: Vec<&str> = match victim {
        Victim::Runtime => vec!["runtime.called"],
        _ => std::iter::once("runtime.called").chain(cofferdam::fault::STEPS).collect(),
    };
    for step in steps {
        crash(lab, victim, step);
    }
}

fn crash(lab: &Lab, victim: Victim, step: &str) {
    let ends = step.starts_with("end.");
    let script = if ends { "exit 7" } else { "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done" };
    let mut command =
        lab.command(lab.launch_args("run", &["--detach", "--name", "n"], &["sh", "-c", script]));
    command.env("FAILPOINTS", format!("{step}=1*return(stop)"));
    let mut caller = Running::start(command);
    let monitor = stopped_monitor(lab, &mut caller);
    let hit = match victim {
        // By the end it has long been answered.
        Victim::Command => {
            let is_there = caller.child.try_wait().unwrap().is_none();
            if is_there {
                caller.signal(Signal::KILL);
            }
            is_there
        }
        Victim::Monitor => kill(monitor),
        Victim::Runtime => children_of(monitor).into_iter().any(kill),
        Victim::Container => containers_process(lab).is_some_and(kill),
    };
    if victim != Victim::Monitor {
        signal_process(monitor, Signal::CONT);
    }
    drop(caller.finish());
    settle(lab, victim, step, hit);
    drop(lab.cofferdam(&["rm", "--force", "n"]));
    lab.expect_clean();
}

/// Sees to it that what is left is in order, and true.
fn settle(lab: &Lab, victim: Victim, step: &str, hit: bool) {
    let what = format!("{victim:?} at {step}");
    let ids = lab.cofferdam(&["ps", "--all", "--quiet", "--own", "--no-trunc"]).expect_code(0).text();
    let Some(id) = ids.lines().next() else { return };
    let state = lab.inspect(id)["state"].take();
    if state["status"] == "running" && !step.starts_with("end.") {
        assert_eq!(state["supervised"], true, "{what}: {state}");
        eventually("it has its trap", || lab.cofferdam(&["logs", id]).text() == "up");
        drop(lab.cofferdam(&["kill", "-s", "USR1", id]).expect_code(0));
    }
    let report = lab.report(id);
    expect_truth(&report, victim, hit, &what);
    lab.expect_no_leftovers();
}

/// The code is the container's own, unless its process was killed, or nobody could see it.
fn expect_truth(report: &Value, victim: Victim, hit: bool, what: &str) {
    let own = report["cause"] == json!({ "kind": "exited", "code": 7 });
    let killed = cause(report) == "signaled" && report["cause"]["signal"] == "SIGKILL";
    let lost = cause(report) == "runtime_lost";
    let right = match victim {
        Victim::Container if hit => killed || own,
        // What had ended before its monitor was killed was reaped by it; what lives on is seen, by a newer kernel.
        Victim::Monitor => own || lost || !kernel_keeps_exits(),
        _ => own,
    };
    assert!(right, "{what}: {report:#}");
    assert!(!lost || victim == Victim::Monitor, "{what}: {report:#}");
}

/// The monitor of this lab once it has stopped itself at the step.
fn stopped_monitor(lab: &Lab, caller: &mut Running) -> i32 {
    let mut found = None;
    eventually("the monitor is at the step", || {
        let monitors = processes().filter(|pid| is_monitor_of(lab, *pid));
        found = monitors.into_iter().find(|pid| stat_of(*pid).is_some_and(|(state, _)| state == 'T'));
        // Whoever is killed meanwhile is nobody's child any more.
        drop(caller.child.try_wait());
        found.is_some()
    });
    found.unwrap()
}

fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_monitor_of(lab: &Lab, pid: i32) -> bool {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let state = format!("COFFERDAM_STATE_DIR={}\0", lab.state().display());
    let environment = read("environ");
    read("cmdline").ends_with(b"\0monitor\0")
        && environment.windows(state.len()).any(|window| window == state.as_bytes())
}

/// The state and the parent of a process.
fn stat_of(pid: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children_of(parent: i32) -> Vec<i32> {
    processes()
        .filter(|pid| stat_of(*pid).is_some_and(|(state, ppid)| ppid == parent && state != 'Z'))
        .collect()
}

/// The container's process, or its sandbox, as the runtime has written it down.
fn containers_process(lab: &Lab) -> Option<i32> {
    let containers = std::fs::read_dir(lab.state().join("containers")).ok()?.flatten();
    let files = containers.map(|entry| entry.path().join("pid"));
    let pid: i32 =
        files.into_iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())?;
    stat_of(pid).is_some_and(|(state, _)| state != 'Z').then_some(pid)
}

/// Kills a process, and waits until it has ended. Whether it was there.
fn kill(pid: i32) -> bool {
    if stat_of(pid).is_none() {
        return false;
    }
    kill_process(pid);
    true
}
