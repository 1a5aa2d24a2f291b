//! Events: in one order without a gap, each end exactly once, whoever is killed meanwhile.

use std::collections::BTreeMap;

use cofferdam_testkit::lab::{Lab, Running, eventually, finish, new_command};
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use serde_json::Value;

use crate::endings::SmallDisk;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("events::a_life_in_order", a_life_in_order),
    case("events::many_at_once", many_at_once).only(is_one_of_each),
    case("events::an_end_is_told_once_whoever_dies", an_end_is_told_once_whoever_dies).only(has_failpoints),
    case("events::a_full_disk_delays_them", a_full_disk_delays_them).only(is_one_of_each),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

fn has_failpoints(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Fake) && cfg!(feature = "failpoints")
}

/// All events so far; panics unless they are numbered without a gap.
fn all(lab: &Lab) -> Vec<Value> {
    let done = lab.cofferdam(&["events", "--after", "0", "--until", "0s", "--format", "json"]);
    let text = done.expect_code(0).text();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"].as_u64().unwrap(), index as u64 + 1, "{events:#?}");
    }
    events
}

fn words(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn a_life_in_order(lab: &Lab) {
    let heard = lab.path().join("heard");
    let inner = lab.command([] as [&str; 0]);
    let mut listening = new_command("sh");
    let script =
        "exec \"$0\" events --format '{{.event}}' --filter event=exit --filter container=life > \"$1\"";
    listening.args(["-c", script]).arg(inner.get_program()).arg(&heard);
    listening.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let listening = Running::start(listening);
    eventually("it listens", || {
        let links =
            std::fs::read_dir(format!("/proc/{}/fd", listening.pid())).into_iter().flatten().flatten();
        links
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .any(|to| to.to_string_lossy().contains("inotify"))
    });
    let args = lab.launch_args("create", &["--name", "life"], &["sleep", "1000"]);
    let id = lab.cofferdam(&crate::lifecycle::as_refs(&args)).expect_code(0).text();
    for verb in ["start", "pause", "unpause"] {
        drop(lab.cofferdam(&[verb, "life"]).expect_code(0));
    }
    drop(lab.cofferdam(&["exec", "life", "sh", "-c", "exit 3"]).expect_code(3));
    drop(lab.cofferdam(&["kill", "life"]).expect_code(0));
    drop(lab.report("life"));
    drop(lab.cofferdam(&["rm", "life"]).expect_code(0));
    let events = all(lab);
    let expected = ["create", "start", "pause", "unpause", "exec", "exec_exit", "kill", "exit", "remove"];
    assert_eq!(words(&events), expected);
    assert!(events.iter().all(|event| event["id"] == id.as_str() && event["name"] == "life"));
    assert_eq!((&events[5]["cause"]["code"], &events[7]["code"]), (&3.into(), &137.into()));
    // Whoever has read up to a number goes on after it.
    let rest = lab.cofferdam(&["events", "--after", "7", "--until", "0s", "--format", "{{.event}}"]);
    assert_eq!(rest.expect_code(0).text(), "exit\nremove");
    assert_eq!(lab.cofferdam(&["events", "--until", "0s"]).expect_code(0).text(), "", "from now on");
    drop(lab.cofferdam(&["events", "--filter", "color=red"]).expect_error("E0101"));
    eventually("who listens has heard of it", || std::fs::read_to_string(&heard).unwrap() == "exit\n");
    listening.signal(rustix::process::Signal::TERM);
    drop(listening.finish());
    lab.expect_clean();
}

fn many_at_once(lab: &Lab) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    drop(lab.run(&["--rm"], &["sh", "-c", "exit 7"]).expect_code(7));
                }
            });
        }
    });
    let mut lives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in all(lab) {
        let id = event["id"].as_str().unwrap().to_owned();
        lives.entry(id).or_default().push(event["event"].as_str().unwrap().to_owned());
    }
    assert_eq!(lives.len(), 40);
    assert!(lives.values().all(|life| *life == ["create", "start", "exit", "remove"]), "{lives:#?}");
    lab.expect_clean();
}

fn an_end_is_told_once_whoever_dies(lab: &Lab) {
    for step in ["launch.claimed", "end.report", "end.reported", "end.cleared", "end.deleted"] {
        let before = all(lab).len();
        let mut command = lab.command(lab.launch_args("run", &["--name", "n"], &["sh", "-c", "exit 7"]));
        command.env("FAILPOINTS", format!("{step}=return(kill)"));
        assert_eq!(finish(command).code, None, "{step}");
        drop(lab.report("n"));
        drop(lab.report("n"));
        drop(lab.cofferdam(&["rm", "n"]).expect_code(0));
        let events = all(lab);
        let count = |word: &str| words(&events[before..]).iter().filter(|other| **other == word).count();
        assert_eq!((count("exit"), count("remove")), (1, 1), "{step}: {:#?}", &events[before..]);
        lab.expect_clean();
    }
}

fn a_full_disk_delays_them(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    let id = lab.run_detached(&["--log-driver", "none"], &["sleep", "1000"]);
    let filler = disk.fill();
    for verb in ["pause", "unpause", "pause", "unpause"] {
        drop(lab.cofferdam(&[verb, &id]).expect_code(0));
    }
    std::fs::remove_file(filler).unwrap();
    let expected = ["create", "start", "pause", "unpause", "pause", "unpause"];
    eventually("they are written down, in their order", || words(&all(lab)) == expected);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
    drop(disk);
}
