//! Processes that are executed in the background: they outlive their caller, and their own supervisor.

use std::io::Write;
use std::process::Stdio;

use cofferdam_testkit::lab::{Lab, Running, eventually};
use cofferdam_testkit::process::{kill_process, signal_process};
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::deaths::kernel_keeps_exits;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("sessions::outlive_their_caller", outlive_their_caller),
    case("sessions::can_be_taken_part_in", can_be_taken_part_in).only(is_one_of_each),
    case("sessions::are_read_from_a_number_on", are_read_from_a_number_on).only(is_one_of_each),
    case("sessions::are_ended_with_all_they_started", are_ended_with_all_they_started).only(is_one_of_each),
    case("sessions::many_at_once", many_at_once).only(is_one_of_each),
    case("sessions::lose_no_line_with_their_monitor", lose_no_line_with_their_monitor).only(is_one_of_each),
    case("sessions::end_with_their_container", end_with_their_container).real(),
    case("sessions::keep_their_container_busy", keep_their_container_busy).only(is_one_of_each),
    case("sessions::what_makes_no_sense", what_makes_no_sense).only(is_one_of_each),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

/// A container whose first process reaps what is handed to it.
fn container(lab: &Lab) -> String {
    lab.run_detached(&[], &["sh", "-c", "while :; do sleep 0.2; done"])
}

fn open(lab: &Lab, options: &[&str], container: &str, command: &[&str]) -> String {
    let args = [&["exec", "--detach"], options, &[container], command].concat();
    lab.cofferdam(&args).expect_code(0).text()
}

fn list(lab: &Lab) -> Vec<Value> {
    let text = lab.cofferdam(&["session", "ls", "--format", "json"]).expect_code(0).text();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn session(lab: &Lab, id: &str) -> Value {
    list(lab).into_iter().find(|session| session["id"] == id).unwrap()
}

fn end(lab: &Lab, container: &str) {
    drop(lab.cofferdam(&["rm", "-f", container]).expect_code(0));
    assert!(list(lab).is_empty(), "sessions go with their container");
    lab.expect_clean();
}

fn outlive_their_caller(lab: &Lab) {
    let id = container(lab);
    let good = open(lab, &["-e", "A=b"], &id, &["sh", "-c", "echo out $A; echo err >&2; exit 3"]);
    assert_eq!(lab.cofferdam(&["session", "wait", &good]).expect_code(0).text(), "3");
    let log = lab.cofferdam(&["session", "logs", &good]).expect_code(0);
    assert_eq!((log.text().as_str(), log.stderr.as_str()), ("out b", "err\n"));
    let report = session(lab, &good)["report"].take();
    assert_eq!(report["cause"], json!({ "kind": "exited", "code": 3 }), "{report:#}");
    let long = open(lab, &[], &id, &["sleep", "1000"]);
    let ids = lab.cofferdam(&["session", "ls", "-q", &id]).expect_code(0).text();
    assert_eq!(ids.lines().collect::<Vec<_>>(), [&good, &long]);
    assert!(lab.cofferdam(&["session", "ls"]).text().contains("exited (3)"));
    drop(lab.cofferdam(&["session", "rm", &long]).expect_error("E0501"));
    drop(lab.cofferdam(&["session", "rm", "--force", &long[..12], &good]).expect_code(0));
    assert!(list(lab).is_empty());
    let words = ["events", "--since", "1h", "--until", "0s", "--format", "{{.event}}"];
    let words = lab.cofferdam(&words).text();
    assert_eq!((words.matches("exec_exit").count(), words.matches("exec").count()), (2, 4), "{words}");
    end(lab, &id);
}

fn can_be_taken_part_in(lab: &Lab) {
    let id = container(lab);
    let script = "while read line; do echo got $line; [ $line = end ] && exit 9; done";
    let open = open(lab, &["--interactive"], &id, &["sh", "-c", script]);
    let mut caller = Running::start({
        let mut command = lab.command(["session", "attach", open.as_str()]);
        command.stdin(Stdio::piped());
        command
    });
    for word in ["one", "end"] {
        // What is typed before it is attached waits.
        caller.child.stdin.as_mut().unwrap().write_all(format!("{word}\n").as_bytes()).unwrap();
    }
    assert_eq!(caller.finish().code, Some(9));
    assert_eq!(lab.cofferdam(&["session", "logs", &open]).text(), "got one\ngot end");
    let terminal =
        self::open(lab, &["--tty"], &id, &["sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo terminal; exit 4"]);
    assert_eq!(lab.cofferdam(&["session", "wait", &terminal]).text(), "4");
    assert!(lab.cofferdam(&["session", "logs", &terminal]).text().contains("terminal"));
    end(lab, &id);
}

fn are_read_from_a_number_on(lab: &Lab) {
    let id = container(lab);
    let script = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i; sleep 0.005; done";
    let open = open(lab, &[], &id, &["sh", "-c", script]);
    let (mut seen, mut last) = (String::new(), "0".to_owned());
    // A client that is cut off again and again.
    while !seen.ends_with("200\n") {
        let args = ["session", "logs", "--format", "json", "--after", &last, &open];
        for line in lab.cofferdam(&args).expect_code(0).text().lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            last = entry["seq"].to_string();
            seen += entry["text"].as_str().unwrap();
            seen += if entry["ends_line"] == true { "\n" } else { "" };
        }
    }
    assert_eq!(seen, (1..=200).map(|n| format!("{n}\n")).collect::<String>());
    let followed = lab.cofferdam(&["session", "logs", "--follow", &open]).expect_code(0).text();
    assert_eq!(followed.lines().count(), 200);
    end(lab, &id);
}

fn are_ended_with_all_they_started(lab: &Lab) {
    let id = container(lab);
    let script = "sleep 771 & setsid sleep 772 & sh -c 'sleep 773; true'";
    let killed = open(lab, &[], &id, &["sh", "-c", script]);
    let limited = open(lab, &["--timeout", "1s"], &id, &["sh", "-c", script]);
    let ps = || lab.cofferdam(&["exec", &id, "ps"]).expect_code(0).text();
    eventually("they have started", || ps().matches("sleep 77").count() >= 6);
    drop(lab.cofferdam(&["session", "kill", &killed]).expect_code(0));
    assert_eq!(lab.cofferdam(&["session", "wait", &killed]).text(), "137");
    assert_eq!(session(lab, &killed)["report"]["asked_by"], "kill");
    assert_eq!(lab.cofferdam(&["session", "wait", &limited]).text(), "124");
    assert_eq!(session(lab, &limited)["report"]["cause"]["kind"], "timed_out");
    eventually("all of it has ended", || !ps().contains("sleep 77"));
    let trap =
        open(lab, &[], &id, &["sh", "-c", "trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done"]);
    eventually("it has its trap", || lab.cofferdam(&["session", "logs", &trap]).text() == "up");
    drop(lab.cofferdam(&["session", "kill", "-s", "USR1", &trap]).expect_code(0));
    assert_eq!(lab.cofferdam(&["session", "wait", &trap]).text(), "5");
    drop(lab.cofferdam(&["session", "kill", &trap]).expect_error("E0501"));
    end(lab, &id);
}

fn many_at_once(lab: &Lab) {
    let id = container(lab);
    let callers: Vec<_> = (0..8)
        .map(|code| {
            let script = format!("seq 1 300; exit {code}");
            Running::start(lab.command(["exec", "--detach", &id, "sh", "-c", &script]))
        })
        .collect();
    let lines: String = (1..=300).map(|n| format!("{n}\n")).collect();
    for (code, caller) in callers.into_iter().enumerate() {
        let open = caller.finish().expect_code(0).text();
        assert_eq!(lab.cofferdam(&["session", "wait", &open]).text(), code.to_string());
        assert_eq!(lab.cofferdam(&["session", "logs", &open]).stdout, lines.as_bytes());
    }
    end(lab, &id);
}

fn kill_monitor(lab: &Lab, id: &str) {
    let monitor = session(lab, id)["supervisor"]["pid"].as_i64().unwrap();
    kill_process(i32::try_from(monitor).unwrap());
}

fn lose_no_line_with_their_monitor(lab: &Lab) {
    let id = container(lab);
    let script = "trap go=1 USR1; i=0; while [ -z \"$go\" ]; do i=$((i+1)); echo line $i; \
                  [ $((i % 10)) = 0 ] && sleep 0.02; done; echo $i > /data/count; exit 7";
    let open = open(lab, &[], &id, &["sh", "-c", script]);
    for _ in 0..3 {
        eventually("it writes", || {
            !lab.cofferdam(&["session", "logs", "--tail", "1", &open]).stdout.is_empty()
        });
        kill_monitor(lab, &open);
        assert_eq!(
            (session(lab, &open)["supervised"].clone(), session(lab, &open)["status"].clone()),
            (json!(true), json!("running"))
        );
    }
    drop(lab.cofferdam(&["session", "kill", "-s", "USR1", &open]).expect_code(0));
    let code = lab.cofferdam(&["session", "wait", &open]).text();
    assert!(code == "7" || !kernel_keeps_exits(), "{code}");
    let count: u32 = std::fs::read_to_string(lab.rootfs.join("data/count")).unwrap().trim().parse().unwrap();
    let expected: String = (1..=count).map(|n| format!("line {n}\n")).collect();
    assert!(lab.cofferdam(&["session", "logs", &open]).stdout == expected.as_bytes(), "{count} lines");
    // Of one that has gone with its monitor, nobody can tell.
    let lost = self::open(lab, &[], &id, &["sleep", "1000"]);
    let pid = session(lab, &lost)["process"]["pid"].as_i64().unwrap();
    kill_monitor_and(lab, &lost, i32::try_from(pid).unwrap());
    drop(lab.cofferdam(&["session", "wait", &lost]));
    let report = session(lab, &lost)["report"].take();
    let kind = report["cause"]["kind"].as_str().unwrap();
    assert!(["runtime_lost", "signaled", "exited"].contains(&kind), "{report:#}");
    end(lab, &id);
}

fn kill_monitor_and(lab: &Lab, id: &str, process: i32) {
    let monitor = session(lab, id)["supervisor"]["pid"].as_i64().unwrap();
    signal_process(i32::try_from(monitor).unwrap(), Signal::KILL);
    signal_process(process, Signal::KILL);
    eventually("it is reaped", || !std::path::Path::new(&format!("/proc/{process}")).exists());
}

fn end_with_their_container(lab: &Lab) {
    let id = container(lab);
    let open = open(lab, &[], &id, &["sleep", "1000"]);
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    let code = lab.cofferdam(&["session", "wait", "--timeout", "30s", &open]).expect_code(0).text();
    let report = session(lab, &open)["report"].take();
    assert_ne!(code, "0", "{report:#}");
    let removed = lab.run_detached(&["--rm"], &["sh", "-c", "while :; do sleep 0.2; done"]);
    let gone = self::open(lab, &[], &removed, &["sleep", "1000"]);
    drop(lab.cofferdam(&["stop", "-t", "0", &removed]).expect_code(0));
    eventually("it goes with its container", || {
        !list(lab).iter().any(|session| session["id"] == gone.as_str())
    });
    end(lab, &id);
}

fn keep_their_container_busy(lab: &Lab) {
    let options = ["--idle-timeout", "1s", "--stop-timeout", "0"];
    let id = lab.run_detached(&options, &["sh", "-c", "while :; do sleep 0.2; done"]);
    let open = open(lab, &[], &id, &["sleep", "2"]);
    assert_eq!(lab.cofferdam(&["session", "wait", &open]).expect_code(0).text(), "0");
    assert_eq!(lab.report(&id)["asked_by"], "idle");
    end(lab, &id);
}

fn what_makes_no_sense(lab: &Lab) {
    let id = container(lab);
    drop(lab.cofferdam(&["exec", "--detach", &id, "no-such-command"]).expect_code(127).expect_error("E0120"));
    drop(lab.cofferdam(&["exec", "--detach", "-u", "nobody", &id, "true"]).expect_error("E0116"));
    drop(lab.cofferdam(&["exec", "--detach", "nope", "true"]).expect_error("E0103"));
    for verb in ["attach", "logs", "kill", "wait", "rm"] {
        drop(lab.cofferdam(&["session", verb, "nope"]).expect_error("E0103"));
    }
    drop(lab.cofferdam(&["session", "ls", "nope"]).expect_error("E0103"));
    assert!(list(lab).is_empty());
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    drop(lab.cofferdam(&["exec", "--detach", &id, "true"]).expect_error("E0501"));
    end(lab, &id);
}
