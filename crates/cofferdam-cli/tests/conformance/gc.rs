//! What killed processes have left behind is found and taken away, and nothing else.

use cofferdam_testkit::lab::{Lab, Running, eventually};
use cofferdam_testkit::process::has_ended;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use serde_json::Value;

use crate::keeper::kill_with_keeper;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("gc::finds_all_of_it_and_shows_it_first", finds_all_of_it_and_shows_it_first).only(is_one_of_each),
    case("gc::what_has_ended_is_forgotten_at_once", what_has_ended_is_forgotten_at_once).only(is_one_of_each),
    case("gc::may_run_many_times_at_once", may_run_many_times_at_once).only(is_one_of_each),
    case("gc::a_launch_finds_the_dead", a_launch_finds_the_dead).only(is_one_of_each),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

fn gc(lab: &Lab, options: &[&str]) -> Vec<Value> {
    let args = [&["gc", "--format", "json"], options].concat();
    serde_json::from_str(&lab.cofferdam(&args).expect_code(0).text()).unwrap()
}

fn finds_all_of_it_and_shows_it_first(lab: &Lab) {
    assert_eq!(lab.cofferdam(&["gc"]).expect_code(0).text(), "nothing is left behind");
    let state = lab.state();
    let well = lab.run_detached(&["--name", "well"], &["sleep", "1000"]);
    let ended = lab.run_detached(&[], &["echo", "kept"]);
    assert_eq!(lab.cofferdam(&["wait", &ended]).text(), "0");
    let orphan = lab.run_detached(&[], &["sleep", "1000"]);
    let unrecorded = lab.run_detached(&["--name", "gone"], &["sleep", "1000"]);
    let pid = lab.inspect(&unrecorded)["state"]["pid"].as_i64().unwrap();
    kill_with_keeper(lab, &orphan);
    kill_with_keeper(lab, &unrecorded);
    std::fs::remove_dir_all(state.join("containers").join(&unrecorded)).unwrap();
    let strange = "0123456789abcdef0123456789abcdef";
    std::fs::create_dir(state.join("containers").join(strange)).unwrap();
    std::fs::write(state.join("reports").join(format!("{strange}.1.json")), "{}").unwrap();
    // Not ours, whatever it is.
    std::fs::create_dir(state.join("logs").join("lost+found")).unwrap();

    let shown = gc(lab, &["--dry-run"]);
    let kinds = |items: &[Value]| {
        let mut kinds: Vec<String> =
            items.iter().map(|item| item["kind"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&shown), ["container", "folder", "log", "name", "report", "runtime"], "{shown:#?}");
    assert!(shown.iter().all(|item| item["done"] == false));
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "nothing has been touched");
    let done = gc(lab, &[]);
    assert_eq!(kinds(&done), kinds(&shown));
    assert!(done.iter().all(|item| item["done"] == true), "{done:#?}");
    eventually("its process is ended", || has_ended(i32::try_from(pid).unwrap()));
    assert!(gc(lab, &["--dry-run"]).is_empty());

    assert_eq!(lab.inspect(&orphan)["state"]["supervised"], true);
    assert_eq!(lab.inspect(&well)["state"]["status"], "running");
    assert_eq!(lab.cofferdam(&["logs", &ended]).text(), "kept");
    assert!(state.join("logs/lost+found").exists());
    std::fs::remove_dir(state.join("logs/lost+found")).unwrap();
    drop(lab.cofferdam(&["rm", "-f", &well, &ended, &orphan]).expect_code(0));
    lab.expect_clean();
}

fn what_has_ended_is_forgotten_at_once(lab: &Lab) {
    let running = lab.run_detached(&[], &["sleep", "1000"]);
    let ended: Vec<String> = (0..3).map(|_| lab.run_detached(&[], &["true"])).collect();
    for id in &ended {
        assert_eq!(lab.cofferdam(&["wait", id]).text(), "0");
    }
    drop(lab.cofferdam(&["prune"]).expect_error("E0101"));
    assert_eq!(lab.cofferdam(&["prune", "--force", "--until", "1h"]).expect_code(0).text(), "");
    let done = lab.cofferdam(&["prune", "--force"]).expect_code(0).text();
    assert!(done.lines().count() == 3 && ended.iter().all(|id| done.contains(id)), "{done}");
    assert_eq!(lab.cofferdam(&["ps", "-aq", "--own", "--no-trunc"]).text(), running);
    drop(lab.cofferdam(&["rm", "-f", &running]).expect_code(0));
    lab.expect_clean();
}

fn may_run_many_times_at_once(lab: &Lab) {
    let living = lab.run_detached(&[], &["sleep", "1000"]);
    let orphans: Vec<String> = (0..3).map(|_| lab.run_detached(&[], &["sleep", "1000"])).collect();
    let unrecorded = lab.run_detached(&[], &["sleep", "1000"]);
    for id in orphans.iter().chain([&unrecorded]) {
        kill_with_keeper(lab, id);
    }
    std::fs::remove_dir_all(lab.state().join("containers").join(&unrecorded)).unwrap();
    let many: Vec<_> = (0..8).map(|_| Running::start(lab.command(["gc"]))).collect();
    for one in many {
        drop(one.finish().expect_code(0));
    }
    assert!(gc(lab, &["--dry-run"]).is_empty());
    for id in orphans.iter().chain([&living]) {
        let state = lab.inspect(id)["state"].take();
        assert!(state["status"] == "running" && state["supervised"] == true, "{state}");
        drop(lab.cofferdam(&["rm", "-f", id]).expect_code(0));
    }
    lab.expect_clean();
}

fn a_launch_finds_the_dead(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    kill_with_keeper(lab, &id);
    // As if it had been longer ago.
    std::fs::remove_file(lab.state().join(".swept")).unwrap();
    drop(lab.run(&["--rm"], &["true"]).expect_code(0));
    let record = std::fs::read(lab.state().join("containers").join(&id).join("record.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let supervisor = record["supervisor"]["pid"].as_i64().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{supervisor}")).exists(), "it has a supervisor again");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}
