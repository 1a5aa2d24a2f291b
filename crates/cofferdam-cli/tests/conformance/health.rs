//! Containers that are asked whether they are well.

use cofferdam_testkit::lab::{Lab, eventually, finish};
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use serde_json::{Value, json};

use crate::deaths::kernel_keeps_exits;
use crate::keeper::kill_supervisor;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("health::a_command_tells", a_command_tells).real(),
    case("health::pages_and_connections_tell", pages_and_connections_tell)
        .only(|choice| *choice == Choice::Runc),
    case("health::who_does_not_answer_is_not_well", who_does_not_answer_is_not_well).only(is_one_of_each),
    case("health::an_unhealthy_one_is_started_again", an_unhealthy_one_is_started_again).only(is_one_of_each),
    case("health::an_unhealthy_one_is_stopped", an_unhealthy_one_is_stopped).only(is_one_of_each),
    case("health::what_makes_no_sense", what_makes_no_sense).only(is_one_of_each),
];

/// Often enough for a test.
const OFTEN: [&str; 2] = ["--health-interval", "200ms"];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

fn start(lab: &Lab, options: &[&str], script: &str) -> String {
    lab.run_detached(&[&OFTEN[..], options].concat(), &["sh", "-c", script])
}

fn changes(lab: &Lab, id: &str) -> Vec<String> {
    let filter = format!("container={id}");
    let args = ["events", "--since", "1h", "--until", "0s", "--filter", &filter, "--format", "{{json .}}"];
    let lines = lab.cofferdam(&args).expect_code(0).text();
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter_map(|event| Some(event["status"].as_str()?.to_owned())).collect()
}

fn a_command_tells(lab: &Lab) {
    let script = "trap 'touch /tmp/well' USR1; trap 'rm /tmp/well' USR2; trap 'exit 3' TERM; echo up; \
                  while :; do sleep 0.05; done";
    let probe = ["--health-cmd", "echo looking; test -e /tmp/well", "--health-start-period", "60s"];
    let id = start(lab, &probe, script);
    eventually("it has its traps", || lab.cofferdam(&["logs", &id]).text() == "up");
    assert_eq!(lab.inspect(&id)["health"]["status"], "starting");
    assert_eq!(lab.cofferdam(&["wait", "--for", "healthy", "--timeout", "300ms", &id]).code, Some(124));
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    drop(lab.cofferdam(&["wait", "--for", "healthy", &id]).expect_code(0));
    assert!(lab.cofferdam(&["ps"]).text().contains("running (healthy)"));
    // It goes on under another supervisor.
    kill_supervisor(lab, &id);
    drop(lab.cofferdam(&["wait", "--for", "healthy", &id]).expect_code(0));
    drop(lab.cofferdam(&["kill", "-s", "USR2", &id]).expect_code(0));
    eventually("it is found out", || lab.inspect(&id)["health"]["status"] == "unhealthy");
    let health = lab.inspect(&id)["health"].take();
    assert_eq!(health["log"][4]["output"], "looking", "{health:#}");
    assert!(health["failing_streak"].as_u64() >= Some(3), "{health:#}");
    drop(lab.cofferdam(&["wait", "--for", "healthy", &id]).expect_error("E0501"));
    assert_eq!(changes(lab, &id), ["healthy", "unhealthy"]);
    // Probes are no events, and leave nothing.
    assert!(!lab.cofferdam(&["events", "--since", "1h", "--until", "0s"]).text().contains("exec"));
    drop(lab.cofferdam(&["stop", &id]).expect_code(0));
    let cause = lab.report(&id)["cause"].take();
    // Its first supervisor was killed.
    assert!(cause == json!({ "kind": "exited", "code": 3 }) || !kernel_keeps_exits(), "{cause}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn pages_and_connections_tell(lab: &Lab) {
    let page = "mkdir /tmp/www; echo well > /tmp/www/health; exec httpd -f -p 8080 -h /tmp/www";
    for (option, good, bad) in [
        ("--health-http", "http://localhost:8080/health", "http://localhost:8080/nothing"),
        ("--health-tcp", "127.0.0.1:8080", "127.0.0.1:8081"),
    ] {
        let period = ["--health-start-period", "30s"];
        let well = start(lab, &[&[option, good], &period[..]].concat(), page);
        drop(lab.cofferdam(&["wait", "--for", "healthy", "--timeout", "30s", &well]).expect_code(0));
        let ill = start(lab, &[option, bad, "--health-retries", "2"], page);
        let done =
            lab.cofferdam(&["wait", "--for", "healthy", "--timeout", "30s", &ill]).expect_error("E0501");
        let why = if option == "--health-http" { "404" } else { "refused" };
        // Before the server listens, its port refuses too.
        eventually("it says why", || lab.inspect(&ill)["health"]["log"].to_string().contains(why));
        assert!(done.stderr.contains("is unhealthy"), "{}", done.stderr);
        drop(lab.cofferdam(&["rm", "-f", &well, &ill]).expect_code(0));
    }
    lab.expect_clean();
}

fn who_does_not_answer_is_not_well(lab: &Lab) {
    let probe = ["--health-cmd", "sleep 777", "--health-timeout", "300ms", "--health-retries", "1"];
    let id = start(lab, &probe, "while :; do sleep 0.2; done");
    eventually("it is found out", || lab.inspect(&id)["health"]["status"] == "unhealthy");
    assert_eq!(lab.inspect(&id)["health"]["log"][0]["output"], "no answer within 300ms");
    // What does not end is ended.
    let many = || lab.cofferdam(&["exec", &id, "ps"]).expect_code(0).text().matches("sleep 777").count();
    eventually("not more than the one under way", || many() <= 2);
    let missing = start(lab, &["--health-cmd", "no-such-command", "--health-retries", "1"], "sleep 1000");
    eventually("it is found out", || lab.inspect(&missing)["health"]["status"] == "unhealthy");
    assert!(lab.inspect(&missing)["health"]["log"][0]["output"].to_string().contains("not found"));
    drop(lab.cofferdam(&["rm", "-f", &id, &missing]).expect_code(0));
    lab.expect_clean();
}

fn an_unhealthy_one_is_started_again(lab: &Lab) {
    let options = ["--health-cmd", "false", "--health-retries", "2", "--health-on-failure", "kill"];
    let id = start(lab, &[&options[..], &["--restart", "on-failure:2"]].concat(), "sleep 1000");
    let report = lab.report(&id);
    assert_eq!((&report["asked_by"], &report["restarts"]), (&json!("unhealthy"), &json!(2)), "{report:#}");
    assert_eq!(report["cause"]["signal"], "SIGKILL", "{report:#}");
    assert_eq!(changes(lab, &id), ["unhealthy"; 3]);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn an_unhealthy_one_is_stopped(lab: &Lab) {
    let options = ["--health-cmd", "false", "--health-retries", "1", "--health-on-failure", "stop"];
    let id = start(
        lab,
        &[&options[..], &["--restart", "always"]].concat(),
        "trap 'exit 9' TERM; while :; do sleep 0.05; done",
    );
    let report = lab.report(&id);
    // The trap may not have been there yet.
    assert_eq!((&report["asked_by"], report.get("restarts")), (&json!("unhealthy"), None), "{report:#}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn what_makes_no_sense(lab: &Lab) {
    for options in [
        &["--health-cmd", ""][..],
        &["--health-interval", "1s"],
        &["--health-cmd", "true", "--health-retries", "0"],
        &["--health-cmd", "true", "--health-interval", "0"],
        &["--health-cmd", "true", "--health-on-failure", "pray"],
        &["--health-http", "ftp://localhost/"],
        &["--health-tcp", "localhost"],
    ] {
        let args = lab.launch_args("run", &[&["--detach"], options].concat(), &["true"]);
        drop(finish(lab.command(args)).expect_error("E0101"));
    }
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    drop(lab.cofferdam(&["wait", "--for", "healthy", &id]).expect_error("E0101"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}
