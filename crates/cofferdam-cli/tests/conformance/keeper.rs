//! What the keeper is for: a monitor that is killed takes nothing with it, and no command is needed to mend it.

use cofferdam_testkit::lab::{Lab, Running, breathe, eventually};
use cofferdam_testkit::process::{has_ended, kill_process, signal_process};
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::deaths::{kernel_keeps_exits, supervisor_of};
use crate::exit::pid_of;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("keeper::has_the_last_words_of_the_dead", has_the_last_words_of_the_dead),
    case("keeper::finds_the_living_a_supervisor", finds_the_living_a_supervisor),
    case("keeper::is_replaced", is_replaced).only(is_one_of_each),
    case("keeper::keeps_a_terminal", keeps_a_terminal).only(is_one_of_each),
    case("keeper::keeps_on_what_nobody_takes", keeps_on_what_nobody_takes).only(is_one_of_each),
    case("keeper::leaves_nothing_to_strangers", leaves_nothing_to_strangers).only(is_one_of_each),
    case("keeper::may_be_stopped", may_be_stopped).only(is_one_of_each),
    case("keeper::forgets_what_was_to_be_forgotten", forgets_what_was_to_be_forgotten),
    case("keeper::starts_the_next_run", starts_the_next_run).only(is_one_of_each),
    case("keeper::goes_when_nothing_is_left", goes_when_nothing_is_left).only(is_one_of_each),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

/// Kills the supervisor of a container, and waits until it is gone.
pub(crate) fn kill_supervisor(lab: &Lab, id: &str) -> i32 {
    let supervisor = supervisor_of(lab, id);
    kill_process(supervisor);
    supervisor
}

/// Kills the supervisor of a container and the keeper: until the next command, nobody takes the container over.
pub(crate) fn kill_with_keeper(lab: &Lab, id: &str) {
    let supervisor = supervisor_of(lab, id);
    // It would start another keeper.
    signal_process(supervisor, Signal::STOP);
    if let Some(keeper) = lab.keeper() {
        kill_process(keeper);
    }
    kill_process(supervisor);
}

/// What is in a file of the container's folder: no command looks, which would mend what it sees.
fn read(lab: &Lab, id: &str, file: &str) -> Option<Value> {
    let text = std::fs::read(lab.state().join("containers").join(id).join(file)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Waits until a container has another supervisor than this one, without a command.
fn until_taken_over(lab: &Lab, id: &str, from: i32) -> i32 {
    let mut supervisor = None;
    eventually("another monitor has it", || {
        let pid = read(lab, id, "record.json").and_then(|record| record["supervisor"]["pid"].as_i64());
        supervisor = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid != from);
        supervisor.is_some()
    });
    supervisor.unwrap()
}

/// Sends SIGUSR1 to a container behind the back of its supervisor, and waits until it has ended.
fn end_with_usr1(lab: &Lab, id: &str, pid: i32) {
    if lab.choice.is_gvisor() {
        drop(lab.call_runtime(&["kill", id, "USR1"]).expect_code(0));
    } else {
        signal_process(pid, Signal::USR1);
    }
    eventually("it has ended", || has_ended(pid));
}

fn has_the_last_words_of_the_dead(lab: &Lab) {
    let script = "trap go=1 USR1; echo up; while [ -z \"$go\" ]; do sleep 0.05; done; seq 1 3000; exit 7";
    let id = lab.run_detached(&[], &["sh", "-c", script]);
    eventually("it has its trap", || lab.cofferdam(&["logs", &id]).text() == "up");
    let (pid, supervisor) = (pid_of(lab, &id), supervisor_of(lab, &id));
    // Nobody reads, and nobody sees it end.
    signal_process(supervisor, Signal::STOP);
    end_with_usr1(lab, &id, pid);
    kill_process(supervisor);
    eventually("its report is there", || read(lab, &id, "report.json").is_some());
    let report = read(lab, &id, "report.json").unwrap();
    let cause =
        if kernel_keeps_exits() { json!({ "kind": "exited", "code": 7 }) } else { report["cause"].clone() };
    assert_eq!(report["cause"], cause, "{report:#}");
    let numbers: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    let log = lab.cofferdam(&["logs", &id]).expect_code(0);
    assert!(log.stdout == format!("up\n{numbers}").into_bytes(), "{} bytes", log.stdout.len());
    assert_eq!(report["stdio"]["truncated"], false, "{report:#}");
    lab.expect_no_leftovers();
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn finds_the_living_a_supervisor(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let first = kill_supervisor(lab, &id);
    let second = until_taken_over(lab, &id, first);
    assert_eq!(supervisor_of(lab, &id), second);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn is_replaced(lab: &Lab) {
    let ids = [lab.run_detached(&[], &["sleep", "1000"]), lab.run_detached(&[], &["sleep", "1000"])];
    let keeper = lab.keeper().expect("a monitor has started one");
    kill_process(keeper);
    eventually("there is another", || lab.keeper().is_some_and(|pid| pid != keeper));
    for id in &ids {
        eventually("it has what that one had", || {
            lab.keeper().is_some_and(|keeper| has_pipes_of(lab, keeper, id))
        });
        let first = kill_supervisor(lab, id);
        until_taken_over(lab, id, first);
    }
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    drop(lab.cofferdam(&[&["rm", "-f"], &all[..]].concat()).expect_code(0));
    lab.expect_clean();
}

/// Whether a process has the container's standard output.
fn has_pipes_of(lab: &Lab, pid: i32, id: &str) -> bool {
    let record = read(lab, id, "record.json").unwrap();
    let pipe = format!("pipe:[{}]", record["pipes"]["stdout"]);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == pipe.as_str())
}

fn keeps_a_terminal(lab: &Lab) {
    let script = "trap 'echo asked' USR1; echo up; while :; do sleep 0.05; done";
    let id = lab.run_detached(&["--tty"], &["sh", "-c", script]);
    eventually("it has its trap", || lab.cofferdam(&["logs", &id]).text() == "up");
    let pid = pid_of(lab, &id);
    for times in 1..=2 {
        let first = kill_supervisor(lab, &id);
        until_taken_over(lab, &id, first);
        drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
        eventually("its terminal is read", || {
            lab.cofferdam(&["logs", &id]).text().matches("asked").count() == times
        });
    }
    assert_eq!(pid_of(lab, &id), pid, "it was not hung up");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn keeps_on_what_nobody_takes(lab: &Lab) {
    let script = "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done";
    let id = lab.run_detached(&["--tty"], &["sh", "-c", script]);
    eventually("it has its trap", || lab.cofferdam(&["logs", &id]).text() == "up");
    let (pid, keeper) = (pid_of(lab, &id), lab.keeper().expect("a monitor has started one"));
    let mut supervisor = supervisor_of(lab, &id);
    for _ in 0..3 {
        kill_process(supervisor);
        supervisor = until_taken_over(lab, &id, supervisor);
    }
    // It has used up its monitors; a person may try on.
    kill_process(supervisor);
    let state = lab.inspect(&id)["state"].take();
    assert!(state["status"] == "running" && state["supervised"] == true, "{state}");
    assert_eq!((pid_of(lab, &id), lab.keeper()), (pid, Some(keeper)), "it was not hung up");
    // Its end is another occasion.
    supervisor = supervisor_of(lab, &id);
    signal_process(supervisor, Signal::STOP);
    end_with_usr1(lab, &id, pid);
    kill_process(supervisor);
    eventually("its report is there", || read(lab, &id, "report.json").is_some());
    let report = lab.report(&id);
    assert!(report["cause"] == json!({ "kind": "exited", "code": 9 }) || !kernel_keeps_exits(), "{report:#}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn runs_again(lab: &Lab, id: &str) -> bool {
    read(lab, id, "record.json")
        .is_some_and(|record| record["status"] == "running" && record["restarts"]["count"] == 1)
}

/// What a keeper has started falls to the monitor that had started the keeper, which is another container's.
fn leaves_nothing_to_strangers(lab: &Lab) {
    let first = lab.run_detached(&[], &["sleep", "1000"]);
    let other = lab.run_detached(&["--restart", "always"], &["sleep", "1000"]);
    let monitor = kill_supervisor(lab, &other);
    let heir = until_taken_over(lab, &other, monitor);
    // One whose container its own child is.
    kill_process(pid_of(lab, &other));
    eventually("it runs again", || runs_again(lab, &other));
    let keeper = lab.keeper().unwrap();
    eventually("it is kept", || has_pipes_of(lab, keeper, &other));
    kill_process(keeper);
    eventually("there is another", || lab.keeper().is_some_and(|pid| pid != keeper));
    drop(lab.cofferdam(&["stop", "-t", "0", &first]).expect_code(0));
    let report = lab.report(&first);
    assert_eq!(report["cleanup"], Value::Null, "{report:#}");
    assert_eq!(supervisor_of(lab, &other), heir, "it was let be");
    let pid = pid_of(lab, &other);
    assert!(!has_ended(pid) && lab.keeper().is_some());
    drop(lab.cofferdam(&["rm", "-f", &first, &other]).expect_code(0));
    lab.expect_clean();
}

/// Nobody waits for long for one that does not answer.
fn may_be_stopped(lab: &Lab) {
    let first = lab.run_detached(&[], &["sleep", "1000"]);
    let keeper = lab.keeper().unwrap();
    signal_process(keeper, Signal::STOP);
    let second = lab.run_detached(&[], &["sh", "-c", "echo up; exit 3"]);
    assert_eq!(lab.cofferdam(&["wait", &second]).text(), "3");
    assert_eq!(lab.cofferdam(&["logs", &second]).text(), "up");
    kill_supervisor(lab, &first);
    assert_eq!(lab.inspect(&first)["state"]["supervised"], true);
    drop(lab.cofferdam(&["rm", "-f", &first, &second]).expect_code(0));
    signal_process(keeper, Signal::CONT);
    eventually("it has gone", || has_ended(keeper));
    lab.expect_clean();
}

/// Whoever waits gets the code all the same.
fn forgets_what_was_to_be_forgotten(lab: &Lab) {
    let script = "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done";
    let id = lab.run_detached(&["--rm", "--name", "n"], &["sh", "-c", script]);
    eventually("it has its trap", || lab.cofferdam(&["logs", &id]).text() == "up");
    let mut waiting = vec![Running::start(lab.command(["wait", "n"]))];
    crate::attach::until_attached(lab, &id, 1);
    let (pid, supervisor) = (pid_of(lab, &id), supervisor_of(lab, &id));
    signal_process(supervisor, Signal::STOP);
    end_with_usr1(lab, &id, pid);
    kill_process(supervisor);
    // Those who come while it is taken over, closed and forgotten.
    for _ in 0..8 {
        waiting.push(Running::start(lab.command(["wait", id.as_str()])));
        breathe();
    }
    let expected: &[&str] = if kernel_keeps_exits() { &["7"] } else { &["7", "125"] };
    for waiting in waiting {
        let done = waiting.finish().expect_code(0);
        assert!(expected.contains(&done.text().as_str()), "{done:?}");
    }
    let done = lab.cofferdam(&["wait", "n"]).expect_code(0);
    assert!(expected.contains(&done.text().as_str()), "{done:?}");
    lab.expect_clean();
}

fn starts_the_next_run(lab: &Lab) {
    let id = lab.run_detached(&["--restart", "always"], &["sleep", "1000"]);
    let (pid, supervisor) = (pid_of(lab, &id), supervisor_of(lab, &id));
    signal_process(supervisor, Signal::STOP);
    signal_process(pid, Signal::KILL);
    eventually("it has ended", || has_ended(pid));
    kill_process(supervisor);
    eventually("it runs again", || runs_again(lab, &id));
    let last = read(lab, &id, "last-report.json").unwrap();
    let is_known = last["cause"] == json!({ "kind": "signaled", "signal": "SIGKILL" });
    assert!(is_known || !kernel_keeps_exits(), "{last:#}");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn goes_when_nothing_is_left(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let keeper = lab.keeper().expect("a monitor has started one");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    eventually("it has gone", || has_ended(keeper));
    assert!(!lab.state().join("keeper.sock").exists(), "with its socket");
    lab.expect_clean();
}
