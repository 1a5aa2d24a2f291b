//! A monitor that is killed: the next command finds its container a new one, and nothing of it is lost.

use std::io::Write;

use cofferdam_testkit::lab::{Lab, eventually, finish};
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use rustix::process::Signal;
use serde_json::json;

use crate::attach::until_attached;
use crate::deaths::{cause, kernel_keeps_exits};
use crate::keeper::{kill_supervisor, kill_with_keeper};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("adoption::no_line_and_no_code_is_lost", no_line_and_no_code_is_lost),
    case("adoption::what_waits_in_the_pipe_is_kept", what_waits_in_the_pipe_is_kept).only(is_one_of_each),
    case("adoption::input_goes_on", input_goes_on).only(is_one_of_each),
    case("adoption::a_pause_and_a_limit_go_on", a_pause_and_a_limit_go_on).only(is_one_of_each),
    case("adoption::a_kill_while_output_is_handed_on", a_kill_while_output_is_handed_on)
        .only(wants_failpoints),
    case("adoption::is_cut_short", is_cut_short).only(wants_failpoints),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

fn wants_failpoints(choice: &Choice) -> bool {
    is_one_of_each(choice) && cfg!(feature = "failpoints")
}

/// How often a container got a new supervisor, by the events.
fn adoptions(lab: &Lab) -> usize {
    lab.cofferdam(&["events", "--since", "1h", "--until", "0s", "--format", "{{.event}}"])
        .expect_code(0)
        .text()
        .lines()
        .filter(|event| *event == "adopt")
        .count()
}

fn no_line_and_no_code_is_lost(lab: &Lab) {
    let script = "trap go=1 USR1; i=0; while [ -z \"$go\" ]; do i=$((i+1)); echo line $i; echo error $i >&2; \
                  [ $((i % 10)) = 0 ] && sleep 0.02; done; echo $i > /data/count; exit 7";
    let id = lab.run_detached(&["--log-opt", "max-file=50"], &["sh", "-c", script]);
    for round in 1..=4 {
        eventually("it writes", || !lab.cofferdam(&["logs", "--tail", "1", &id]).stdout.is_empty());
        kill_supervisor(lab, &id);
        let state = lab.inspect(&id)["state"].take();
        assert_eq!((&state["status"], &state["supervised"]), (&json!("running"), &json!(true)), "{state}");
        eventually("it is told", || adoptions(lab) == round);
    }
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    let report = lab.report(&id);
    if kernel_keeps_exits() || cause(&report) == "exited" {
        assert_eq!(report["cause"], json!({ "kind": "exited", "code": 7 }), "{report:#}");
        assert_eq!(report["stdio"]["truncated"], false, "{report:#}");
    } else {
        assert_eq!(cause(&report), "runtime_lost", "{report:#}");
    }
    let count: usize =
        std::fs::read_to_string(lab.rootfs.join("data/count")).unwrap().trim().parse().unwrap();
    let expected = |word: &str| (1..=count).map(|n| format!("{word} {n}\n")).collect::<String>();
    let log = lab.cofferdam(&["logs", &id]).expect_code(0);
    assert!(log.stdout == expected("line").into_bytes(), "{count} lines of standard output");
    assert!(log.stderr == expected("error"), "{count} lines of standard error");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn what_waits_in_the_pipe_is_kept(lab: &Lab) {
    let script = "trap go=1 USR1; sleep 1; seq 1 5000; touch /data/written; \
                  while [ -z \"$go\" ]; do sleep 0.05; done; seq 5001 10000";
    let id = lab.run_detached(&[], &["sh", "-c", script]);
    kill_supervisor(lab, &id);
    // Nobody reads: it is the container that keeps its pipe.
    eventually("it has written", || lab.rootfs.join("data/written").exists());
    assert_eq!(lab.inspect(&id)["state"]["supervised"], true);
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    drop(lab.cofferdam(&["wait", &id]));
    let expected: String = (1..=10_000).map(|n| format!("{n}\n")).collect();
    eventually("all is logged", || lab.cofferdam(&["logs", &id]).stdout == expected.as_bytes());
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn input_goes_on(lab: &Lab) {
    let script = "while read line; do echo got $line; [ $line = end ] && exit 9; done; exit 1";
    let id = lab.run_detached(&["--interactive"], &["sh", "-c", script]);
    for word in ["one", "end"] {
        kill_supervisor(lab, &id);
        let mut caller = cofferdam_testkit::lab::Running::start({
            let mut command = lab.command(["attach", id.as_str()]);
            command.stdin(std::process::Stdio::piped());
            command
        });
        until_attached(lab, &id, 1);
        caller.child.stdin.as_mut().unwrap().write_all(format!("{word}\n").as_bytes()).unwrap();
        eventually("it has answered", || {
            lab.cofferdam(&["logs", &id]).text().contains(&format!("got {word}"))
        });
        caller.signal(Signal::KILL);
        drop(caller.finish());
    }
    let report = lab.report(&id);
    assert!(report["cause"]["code"] == 9 || !kernel_keeps_exits(), "{report:#}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_pause_and_a_limit_go_on(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    drop(lab.cofferdam(&["pause", &id]).expect_code(0));
    kill_supervisor(lab, &id);
    assert_eq!(lab.inspect(&id)["state"]["status"], "paused");
    drop(lab.cofferdam(&["unpause", &id]).expect_code(0));
    let limited = lab.run_detached(&["--timeout", "3s", "--stop-timeout", "0"], &["sleep", "1000"]);
    kill_supervisor(lab, &limited);
    assert_eq!(lab.cofferdam(&["wait", &limited]).text(), "124");
    drop(lab.cofferdam(&["rm", "-f", &id, &limited]).expect_code(0));
    lab.expect_clean();
}

fn a_kill_while_output_is_handed_on(lab: &Lab) {
    for step in cofferdam::fault::OUTPUT_STEPS {
        let script = "trap go=1 USR1; touch /data/ready; while [ -z \"$go\" ]; do sleep 0.05; done; \
                      seq 1 3000; sleep 1000";
        let args = lab.launch_args("run", &["--detach"], &["sh", "-c", script]);
        let mut command = lab.command(args);
        // The monitor inherits it; the one after it does not.
        command.env("FAILPOINTS", format!("{step}=1*return(kill)"));
        let id = finish(command).expect_code(0).text();
        eventually("the handler is there", || lab.rootfs.join("data/ready").exists());
        drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
        let expected: String = (1..=3000).map(|n| format!("{n}\n")).collect();
        eventually(step, || lab.cofferdam(&["logs", &id]).stdout == expected.as_bytes());
        assert_eq!(lab.inspect(&id)["state"]["status"], "running", "{step}");
        drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
        std::fs::remove_file(lab.rootfs.join("data/ready")).unwrap();
        lab.expect_clean();
    }
}

fn is_cut_short(lab: &Lab) {
    for step in ["adopt.found", "adopt.recorded"] {
        for how in ["error", "kill"] {
            let id = lab.run_detached(&[], &["sleep", "1000"]);
            kill_with_keeper(lab, &id);
            let mut command = lab.command(["inspect", id.as_str()]);
            command.env("FAILPOINTS", format!("{step}=1*return({how})"));
            // It is told as it is; the container is not harmed.
            let state = finish(command).expect_code(0).json()[0]["state"].take();
            assert_eq!(
                (&state["status"], &state["supervised"]),
                (&json!("running"), &json!(false)),
                "{state}"
            );
            assert_eq!(lab.inspect(&id)["state"]["supervised"], true, "{step} {how}");
            drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
            lab.expect_clean();
        }
    }
}
