//! The verbs, each in a process of its own, and what they refuse.

use cofferdam_testkit::lab::{Lab, Running, eventually};
use serde_json::json;

use crate::exit::pid_of;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("lifecycle::create_start_wait_in_processes_of_their_own", create_start_wait),
    case("lifecycle::each_state_refuses_what_does_not_fit", each_state_refuses_what_does_not_fit),
    case("lifecycle::pause_and_unpause", pause_and_unpause),
    case("lifecycle::a_paused_container_can_be_ended", a_paused_container_can_be_ended),
    case("lifecycle::exec_has_code_input_and_surroundings", exec_has_code_input_and_surroundings),
    case("lifecycle::exec_of_nothing_is_127", exec_of_nothing_is_127),
    case("lifecycle::exec_passes_signals_on", exec_passes_signals_on),
    case("lifecycle::exec_ends_with_all_it_started", exec_ends_with_all_it_started).real(),
    case("lifecycle::many_wait_and_get_the_same", many_wait_and_get_the_same),
    case("lifecycle::a_wait_gives_up_in_time", a_wait_gives_up_in_time),
    case("lifecycle::a_name_has_one_container", a_name_has_one_container),
    case("lifecycle::ids_are_found_by_their_beginning_and_never_by_chance", ids_are_found_by_their_beginning),
    case("lifecycle::the_pid_is_the_containers_own", the_pid_is_the_containers_own).real(),
    case("lifecycle::limits_can_be_changed", limits_can_be_changed).real(),
    case("lifecycle::top_lists_the_processes", top_lists_the_processes),
    case("lifecycle::the_runtime_sees_the_same_id", the_runtime_sees_the_same_id),
    case("lifecycle::kill_reaches_every_process", kill_reaches_every_process).real(),
];

fn create_start_wait(lab: &Lab) {
    let marker = lab.rootfs.join("data/ran");
    let script = "echo ran > /data/ran; exit 7";
    let created =
        lab.cofferdam(&as_refs(&lab.launch_args("create", &["--name", "c"], &["sh", "-c", script])));
    let id = created.expect_code(0).text();
    assert_eq!(lab.inspect("c")["state"]["status"], "created");
    assert!(pid_of(lab, "c") > 0 && !marker.exists(), "created is not started");
    assert_eq!(lab.cofferdam(&["start", "c"]).expect_code(0).text(), "c");
    assert_eq!(lab.cofferdam(&["wait", "c"]).expect_code(0).text(), "7");
    assert!(marker.exists());
    assert_eq!(lab.report(&id)["cause"], json!({ "kind": "exited", "code": 7 }));
    lab.expect_no_leftovers();
    assert_eq!(lab.cofferdam(&["rm", "c"]).expect_code(0).text(), "c");
    drop(lab.cofferdam(&["inspect", "c"]).expect_error("E0103"));
    lab.expect_clean();
}

pub(crate) fn as_refs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn each_state_refuses_what_does_not_fit(lab: &Lab) {
    let refused = |args: &[&str]| drop(lab.cofferdam(args).expect_error("E0501"));
    drop(
        lab.cofferdam(&as_refs(&lab.launch_args("create", &["--name", "c"], &["sleep", "1000"])))
            .expect_code(0),
    );
    refused(&["exec", "c", "true"]);
    refused(&["pause", "c"]);
    refused(&["top", "c"]);
    refused(&["rm", "c"]);
    drop(lab.cofferdam(&["start", "c"]).expect_code(0));
    refused(&["start", "c"]);
    refused(&["unpause", "c"]);
    refused(&["rm", "c"]);
    drop(lab.cofferdam(&["pause", "c"]).expect_code(0));
    refused(&["pause", "c"]);
    refused(&["exec", "c", "true"]);
    drop(lab.cofferdam(&["unpause", "c"]).expect_code(0));
    drop(lab.cofferdam(&["stop", "-t", "0", "c"]).expect_code(0));
    for verb in ["start", "pause", "unpause", "kill", "top"] {
        refused(&[verb, "c"]);
    }
    refused(&["exec", "c", "true"]);
    drop(lab.cofferdam(&["rm", "c"]).expect_code(0));
    drop(lab.cofferdam(&["rm", "c"]).expect_error("E0103"));
    drop(lab.cofferdam(&["rm", "--force", "c"]).expect_code(0));
    lab.expect_clean();
}

fn pause_and_unpause(lab: &Lab) {
    let script = "i=0; while :; do i=$((i+1)); echo $i > /data/count; sleep 0.05; done";
    let id = lab.run_detached(&[], &["sh", "-c", script]);
    let count = || std::fs::read_to_string(lab.rootfs.join("data/count")).unwrap_or_default();
    eventually("it counts", || !count().trim().is_empty());
    drop(lab.cofferdam(&["pause", &id]).expect_code(0));
    assert_eq!(lab.inspect(&id)["state"]["status"], "paused");
    let stopped_at = count();
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    assert_eq!(count(), stopped_at, "it went on while it was paused");
    drop(lab.cofferdam(&["unpause", &id]).expect_code(0));
    eventually("it goes on", || count() != stopped_at);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_paused_container_can_be_ended(lab: &Lab) {
    for end in [&["stop", "-t", "1"][..], &["rm", "--force"]] {
        let id = lab.run_detached(&["--name", "p"], &["sleep", "1000"]);
        drop(lab.cofferdam(&["pause", &id]).expect_code(0));
        let args: Vec<&str> = end.iter().copied().chain([id.as_str()]).collect();
        drop(lab.cofferdam(&args).expect_code(0));
        drop(lab.cofferdam(&["rm", "--force", "p"]).expect_code(0));
        lab.expect_clean();
    }
}

fn exec_has_code_input_and_surroundings(lab: &Lab) {
    let id = lab.run_detached(&["-e", "A=1"], &["sleep", "1000"]);
    let exec = |options: &[&str], command: &[&str]| {
        let args: Vec<&str> =
            ["exec"].iter().chain(options).chain([&id.as_str()]).chain(command).copied().collect();
        lab.cofferdam(&args)
    };
    for code in [0, 5, 128, 255] {
        drop(exec(&[], &["sh", "-c", &format!("exit {code}")]).expect_code(code));
    }
    let both = exec(&[], &["sh", "-c", "echo out; echo err >&2"]).expect_code(0);
    assert_eq!((both.text().as_str(), both.stderr.as_str()), ("out", "err\n"));
    assert_eq!(exec(&["-e", "A=2", "-e", "B=3"], &["sh", "-c", "echo $A$B"]).expect_code(0).text(), "23");
    assert_eq!(exec(&["-w", "/data"], &["pwd"]).expect_code(0).text(), "/data");
    if lab.choice.is_real() {
        assert_eq!(exec(&["-u", "web"], &["id", "-u"]).expect_code(0).text(), "1000");
    }
    drop(exec(&["-u", "nobody"], &["id"]).expect_error("E0116"));
    drop(exec(&["-w", "data"], &["id"]).expect_error("E0101"));
    let mut command = lab.command(["exec", "-i", &id, "cat"]);
    command.stdin(std::fs::File::open(lab.rootfs.join("etc/passwd")).unwrap());
    let passwd = std::fs::read(lab.rootfs.join("etc/passwd")).unwrap();
    assert_eq!(cofferdam_testkit::lab::finish(command).expect_code(0).stdout, passwd);
    // A word that runsc's own command line would lose.
    assert_eq!(exec(&[], &["echo", "--detach", "detached"]).expect_code(0).text(), "--detach detached");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn exec_ends_with_all_it_started(lab: &Lab) {
    // A first process that reaps what is handed to it.
    let id = lab.run_detached(&[], &["sh", "-c", "while :; do sleep 0.2; done"]);
    let script =
        "sleep 771 & sh -c 'sleep 772; true' & setsid sleep 773 & sh -c 'sh -c \"sleep 774; true\"; true'";
    let done = lab.cofferdam(&["exec", "--timeout", "1s", &id, "sh", "-c", script]).expect_code(124);
    assert!(done.stderr.contains("time limit of 1s"), "{}", done.stderr);
    let left = || lab.cofferdam(&["exec", &id, "ps"]).expect_code(0).text();
    eventually("all of it has ended", || !left().contains("sleep 77"));
    for limit in ["60s", "0"] {
        drop(
            lab.cofferdam(&["exec", "--timeout", limit, &id, "sh", "-c", "sleep 0.2; exit 3"]).expect_code(3),
        );
    }
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn exec_of_nothing_is_127(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    drop(lab.cofferdam(&["exec", &id, "nope"]).expect_code(127).expect_error("E0120"));
    drop(lab.cofferdam(&["exec", &id, "/bin/nope"]).expect_code(127).expect_error("E0120"));
    drop(lab.cofferdam(&["exec", &id, "not-executable"]).expect_code(126).expect_error("E0121"));
    drop(lab.cofferdam(&["exec", &id, "/etc"]).expect_code(126).expect_error("E0121"));
    assert_eq!(lab.inspect(&id)["state"]["status"], "running", "the container is not affected");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn exec_passes_signals_on(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let script = "trap 'exit 44' TERM; touch /data/ready; while :; do sleep 0.1; done";
    let running = Running::start(lab.command(["exec", &id, "sh", "-c", script]));
    eventually("the handler is there", || lab.rootfs.join("data/ready").exists());
    running.signal(rustix::process::Signal::TERM);
    drop(running.finish().expect_code(44));
    assert_eq!(lab.inspect(&id)["state"]["status"], "running");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn many_wait_and_get_the_same(lab: &Lab) {
    let id = lab.run_detached(&["--stdin", "/dev/null"], &["sh", "-c", "sleep 0.5; exit 9"]);
    let waiting: Vec<Running> = (0..20).map(|_| Running::start(lab.command(["wait", &id]))).collect();
    for one in waiting {
        assert_eq!(one.finish().expect_code(0).text(), "9");
    }
    assert_eq!(lab.cofferdam(&["wait", &id, &id]).expect_code(0).text(), "9\n9");
}

fn a_wait_gives_up_in_time(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    drop(lab.cofferdam(&["wait", "--timeout", "200ms", &id]).expect_code(124).expect_error("E0504"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_name_has_one_container(lab: &Lab) {
    let racers: Vec<Running> =
        (0..8).map(|_| lab.start_run(&["-d", "--name", "one"], &["sleep", "1000"])).collect();
    let done: Vec<_> = racers.into_iter().map(Running::finish).collect();
    let winners = done.iter().filter(|done| done.code == Some(0)).count();
    assert_eq!(winners, 1, "{done:#?}");
    assert!(
        done.iter().filter(|done| done.code != Some(0)).all(|done| done.stderr.contains("error[E0102]")),
        "{done:#?}"
    );
    assert_eq!(lab.inspect("one")["state"]["status"], "running", "the winner is intact");
    assert_eq!(lab.cofferdam(&["ps", "-a", "-q", "--own"]).text().lines().count(), 1);
    drop(lab.cofferdam(&["rm", "-f", "one"]).expect_code(0));
    lab.expect_clean();
}

fn ids_are_found_by_their_beginning(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    assert_eq!(lab.inspect(&id[..8])["id"], id.as_str());
    for wrong in ["zz", "..", "-x", "", &id[1..], &format!("{id}0")] {
        let done = lab.cofferdam(&["kill", "--", wrong]);
        drop(done.expect_error("E0103"));
    }
    assert_eq!(lab.inspect(&id)["state"]["status"], "running");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
}

fn the_pid_is_the_containers_own(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let pid = pid_of(lab, &id);
    let namespace = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    // gVisor's pids are its own kernel's; its sandbox is in the host's pid namespace.
    let kinds: &[&str] = if lab.choice.is_gvisor() { &["mnt", "net"] } else { &["mnt", "net", "pid"] };
    for kind in kinds {
        assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind), "{kind}");
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.contains(&format!("cofferdam-{id}")), "{cgroup}");
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let expected = if lab.choice.is_gvisor() { "runsc-sandbox" } else { "sleep" };
    assert!(command.starts_with(expected), "{command}");
    // It is the same that the runtime itself says.
    let state: serde_json::Value = lab.call_runtime(&["state", &id]).expect_code(0).json();
    assert_eq!(state["pid"], pid);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn limits_can_be_changed(lab: &Lab) {
    let id = lab.run_detached(&["-m", "64m", "--pids-limit", "100"], &["sleep", "1000"]);
    drop(lab.cofferdam(&["update", "-m", "128m", "--pids-limit", "50", "--cpus", "1.5", &id]).expect_code(0));
    let limits = lab.inspect(&id)["limits"].take();
    assert_eq!((limits["memory_bytes"].as_u64(), limits["pids"].as_i64()), (Some(128 << 20), Some(50)));
    assert_eq!(limits["cpu_quota_us"], 150_000);
    let read = |v1: &str, v2: &str| {
        let leaf = lab.cgroup_of(&id);
        let controller = v1.split('.').next().unwrap_or_default();
        std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{leaf}/{v1}"))
            .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup{leaf}/{v2}")))
            .unwrap()
    };
    let limit = (128 << 20) + crate::limits::headroom(lab, 128 << 20);
    assert_eq!(read("memory.limit_in_bytes", "memory.max").trim(), limit.to_string());
    assert_eq!(read("pids.max", "pids.max").trim(), "50");
    let quota = read("cpu.cfs_quota_us", "cpu.max");
    assert!(["150000", "150000 100000"].contains(&quota.trim()), "{quota}");
    // As the kernel has it: in pages.
    drop(lab.cofferdam(&["update", "-m", "100000001", &id]).expect_code(0));
    assert_eq!(lab.inspect(&id)["limits"]["memory_bytes"], 100_000_001 / 4096 * 4096);
    drop(lab.cofferdam(&["update", "--pids-limit", "-1", &id]).expect_code(0));
    assert_eq!(read("pids.max", "pids.max").trim(), "max");
    drop(lab.cofferdam(&["update", &id]).expect_error("E0101"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn top_lists_the_processes(lab: &Lab) {
    let id = lab.run_detached(&[], &["sh", "-c", "sleep 1000 & sleep 2000; true"]);
    eventually("both are there", || {
        lab.cofferdam(&["top", &id]).expect_code(0).text().matches("sleep").count() >= expected(lab)
    });
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

/// The fake knows its first process only.
fn expected(lab: &Lab) -> usize {
    if lab.choice.is_real() { 2 } else { 1 }
}

fn the_runtime_sees_the_same_id(lab: &Lab) {
    let id = lab.run_detached(&["--name", "n"], &["sleep", "1000"]);
    let listed = lab.call_runtime(&["list", "--format", "json"]).expect_code(0).json();
    assert_eq!(listed[0]["id"], id.as_str(), "{listed}");
    assert_eq!(lab.cofferdam(&["state", "n"]).expect_code(0).json()["id"], id.as_str());
    drop(lab.cofferdam(&["rm", "-f", "n"]).expect_code(0));
    lab.expect_clean();
}

fn kill_reaches_every_process(lab: &Lab) {
    let script = "for i in 1 2; do sh -c 'trap \"echo got >> /data/got; exit\" USR1; touch /data/r$$; while :; do sleep 0.1; done' & done; trap : USR1; wait; wait; wait; sleep 1000";
    let id = lab.run_detached(&[], &["sh", "-c", script]);
    let ready = || std::fs::read_dir(lab.rootfs.join("data")).unwrap().count();
    eventually("both handlers are there", || ready() == 2);
    drop(lab.cofferdam(&["kill", "--all", "-s", "USR1", &id]).expect_code(0));
    let got = || std::fs::read_to_string(lab.rootfs.join("data/got")).unwrap_or_default();
    eventually("both got it", || got().lines().count() == 2);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}
