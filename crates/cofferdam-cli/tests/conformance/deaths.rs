//! SIGKILL to every process that takes part, at any moment: the next command sees the truth, and nothing remains.

use cofferdam_testkit::fake::{Wrong, calls, plan};
use cofferdam_testkit::lab::{Lab, Running, eventually};
use cofferdam_testkit::process::signal_process;
use cofferdam_testkit::runtimes::Choice;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::exit::{pid_of, until_running};
use crate::keeper::kill_with_keeper;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("deaths::the_gofer", the_gofer).only(Choice::is_gvisor),
    case("deaths::a_foreground_supervisor", a_foreground_supervisor),
    case("deaths::a_monitor", a_monitor),
    case("deaths::a_monitor_whose_container_ends_alone", a_monitor_whose_container_ends_alone),
    case("deaths::a_monitor_of_a_created_container", a_monitor_of_a_created_container),
    case("deaths::both_at_once", both_at_once),
    case("deaths::many_who_wait_for_an_orphan", many_who_wait_for_an_orphan),
    case("deaths::an_asker_who_goes", an_asker_who_goes).only(|choice| *choice == Choice::Fake),
    case("deaths::cofferdam_at_twenty_moments", cofferdam_at_twenty_moments),
    case("deaths::an_interrupt_at_ten_moments", an_interrupt_at_ten_moments),
    case("deaths::three_interrupts_end_what_ignores_them", three_interrupts_end_what_ignores_them),
];

pub(crate) fn supervisor_of(lab: &Lab, container: &str) -> i32 {
    let pid = lab.inspect(container)["supervisor"]["pid"].as_i64().expect("it has one");
    i32::try_from(pid).expect("a pid fits")
}

pub(crate) fn cause(report: &Value) -> &str {
    report["cause"]["kind"].as_str().unwrap_or_default()
}

fn the_gofer(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let sandbox = pid_of(lab, &id);
    let gofer = processes_with(&[&id, "runsc-gofer"]).into_iter().next().expect("a sandbox has a gofer");
    signal_process(gofer, Signal::KILL);
    let report = lab.report(&id);
    assert_eq!(cause(&report), "runtime_lost", "{report:#}");
    assert!(report.to_string().contains("helper_died"), "{report:#}");
    assert_eq!(lab.cofferdam(&["wait", &id]).text(), "125");
    assert!(!std::path::Path::new(&format!("/proc/{sandbox}")).exists());
    lab.expect_no_leftovers();
}

/// Pids of processes whose command line has all of these.
fn processes_with(parts: &[&str]) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parts.iter().all(|part| command.contains(part))
    })
    .collect()
}

fn a_foreground_supervisor(lab: &Lab) {
    let running = lab.start_run(&["--name", "f"], &["sleep", "1000"]);
    until_running(lab, "f");
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code, None);
    // It lives on with a supervisor of its own, and every verb works on it.
    let state = &lab.inspect("f")["state"];
    assert_eq!((state["status"].as_str(), state["supervised"].as_bool()), (Some("running"), Some(true)));
    assert!(!lab.cofferdam(&["ps", "--own"]).text().contains("unsupervised"));
    assert_eq!(lab.cofferdam(&["exec", "f", "echo", "alive"]).expect_code(0).text(), "alive");
    drop(lab.cofferdam(&["pause", "f"]).expect_code(0));
    assert_eq!(lab.inspect("f")["state"]["status"], "paused");
    drop(lab.cofferdam(&["rm", "--force", "f"]).expect_code(0));
    lab.expect_clean();
}

fn a_monitor(lab: &Lab) {
    let script = "trap 'exit 5' TERM; touch /data/ready; while :; do sleep 0.1; done";
    let id = lab.run_detached(&[], &["sh", "-c", script]);
    eventually("the handler is there", || lab.rootfs.join("data/ready").exists());
    signal_process(supervisor_of(lab, &id), Signal::KILL);
    drop(lab.cofferdam(&["stop", "-t", "20", &id]).expect_code(0));
    let report = lab.report(&id);
    // The kernel's own record of the death, where it keeps one; else the truth: nobody knows.
    if kernel_keeps_exits() || cause(&report) == "exited" {
        // gVisor's 5 is the guest's own; under both it is the handler's.
        assert_eq!(report["cause"], json!({ "kind": "exited", "code": 5 }), "{report:#}");
        assert!(report.to_string().contains("\"from_pidfd\":true"), "{report:#}");
    } else {
        assert_eq!(cause(&report), "runtime_lost", "{report:#}");
    }
    lab.expect_no_leftovers();
}

pub(crate) fn kernel_keeps_exits() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

fn a_monitor_whose_container_ends_alone(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let pid = pid_of(lab, &id);
    kill_with_keeper(lab, &id);
    signal_process(pid, Signal::KILL);
    // Its new parent reaps it, and with that the kernel forgets how it ended: nobody has a handle on it.
    eventually("it is reaped", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    let report = lab.report(&id);
    assert_eq!(cause(&report), "runtime_lost", "{report:#}");
    assert_eq!(lab.cofferdam(&["wait", &id]).text(), "125");
    lab.expect_no_leftovers();
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_monitor_of_a_created_container(lab: &Lab) {
    let args = lab.launch_args("create", &["--name", "c"], &["true"]);
    drop(lab.cofferdam(&crate::lifecycle::as_refs(&args)).expect_code(0));
    signal_process(supervisor_of(lab, "c"), Signal::KILL);
    drop(lab.cofferdam(&["start", "c"]).expect_code(0));
    let report = lab.report("c");
    assert!(cause(&report) == "exited" || !kernel_keeps_exits(), "{report:#}");
    drop(lab.cofferdam(&["rm", "-f", "c"]).expect_code(0));
    lab.expect_clean();
}

fn both_at_once(lab: &Lab) {
    let id = lab.run_detached(&["--rm"], &["sleep", "1000"]);
    let (pid, supervisor) = (pid_of(lab, &id), supervisor_of(lab, &id));
    signal_process(supervisor, Signal::STOP);
    signal_process(pid, Signal::KILL);
    signal_process(supervisor, Signal::KILL);
    let listed = || lab.cofferdam(&["ps", "-a", "--own", "-q"]).expect_code(0).text();
    // It asked to be forgotten, and whoever closes its record does so.
    eventually("it is forgotten", || listed().is_empty());
    lab.expect_clean();
}

fn many_who_wait_for_an_orphan(lab: &Lab) {
    for options in [&["--rm"][..], &[]] {
        let id = lab.run_detached(options, &["sleep", "1000"]);
        signal_process(supervisor_of(lab, &id), Signal::KILL);
        let waiting: Vec<Running> =
            (0..6).map(|_| Running::start(lab.command(["wait", id.as_str()]))).collect();
        crate::attach::until_attached(lab, &id, waiting.len());
        drop(lab.cofferdam(&["kill", &id]).expect_code(0));
        // One of them has found it a new supervisor; each gets the code.
        for waiter in waiting {
            let done = waiter.finish();
            // An older kernel tells only those who come before the zombie is reaped.
            let expected: &[&str] = if kernel_keeps_exits() { &["137"] } else { &["137", "125", ""] };
            assert!(expected.contains(&done.text().as_str()), "{done:?}");
        }
        if options.is_empty() {
            let report = lab.report(&id);
            let was_seen = cause(&report) == "signaled";
            assert!(was_seen || !kernel_keeps_exits(), "{report:#}");
            assert!(
                !was_seen || report["asked_by"] == "kill",
                "it was put down before it was sent: {report:#}"
            );
            drop(lab.cofferdam(&["rm", &id]).expect_code(0));
        }
        lab.expect_clean();
    }
}

fn an_asker_who_goes(lab: &Lab) {
    plan(lab.runtime(), &[("run", 0, Wrong::Slow(2000))]);
    let asker = lab.start_run(&["--detach", "--name", "n"], &["sleep", "1000"]);
    eventually("the runtime is at it", || calls(lab.runtime()).iter().any(|verb| verb == "run"));
    asker.signal(Signal::KILL);
    drop(asker.finish());
    // Nobody would know of the container.
    lab.expect_clean();
    plan(lab.runtime(), &[]);
    drop(lab.run(&["--name", "n", "--rm"], &["true"]).expect_code(0));
}

fn cofferdam_at_twenty_moments(lab: &Lab) {
    let step = if lab.choice.is_gvisor() { 15 } else { 5 };
    for moment in 0..20_u64 {
        let running = lab.start_run(&["--rm"], &["sh", "-c", "sleep 0.05; exit 7"]);
        std::thread::park_timeout(std::time::Duration::from_millis(moment * step));
        running.signal(Signal::KILL);
        let done = running.finish();
        assert!(done.code.is_none() || done.code == Some(7), "{done:?}");
        for id in lab.cofferdam(&["ps", "-a", "-q", "--own"]).expect_code(0).text().lines() {
            drop(lab.cofferdam(&["rm", "--force", id]).expect_code(0));
        }
        lab.expect_clean();
    }
}

fn an_interrupt_at_ten_moments(lab: &Lab) {
    let step = if lab.choice.is_gvisor() { 20 } else { 6 };
    for moment in 0..10_u64 {
        let running =
            lab.start_run(&["--rm"], &["sh", "-c", "trap 'exit 42' INT; while :; do sleep 0.05; done"]);
        std::thread::park_timeout(std::time::Duration::from_millis(moment * step));
        running.signal(Signal::INT);
        // Before the handler is there, it may be lost on the container, as with any process: ask again, and again.
        let pid = running.pid();
        let again = std::thread::spawn(move || {
            for _ in 0..2 {
                std::thread::park_timeout(std::time::Duration::from_millis(1000));
                let target = rustix::process::Pid::from_raw(pid).unwrap();
                // It has ended, most times.
                let _ = rustix::process::kill_process(target, Signal::INT);
            }
        });
        let done = running.finish();
        again.join().unwrap();
        assert_ne!(done.code, Some(0), "{done:?}");
        lab.expect_clean();
    }
}

fn three_interrupts_end_what_ignores_them(lab: &Lab) {
    let script = "trap '' INT; touch /data/ready; while :; do sleep 0.1; done";
    let told = lab.path().join("id");
    let mut running = lab.start_run(&["--rm", "--cidfile", told.to_str().unwrap()], &["sh", "-c", script]);
    eventually("it ignores them", || lab.rootfs.join("data/ready").exists());
    // Until then, an interrupt takes the launch back.
    eventually("it is launched", || std::fs::read_to_string(&told).is_ok_and(|id| !id.is_empty()));
    // Two that come before the first has been taken are one: three are the least.
    eventually("it is ended", || {
        running.signal(Signal::INT);
        running.child.try_wait().unwrap().is_some()
    });
    let done = running.finish().expect_code(137);
    assert!(done.stderr.contains("passed on from the caller"), "{}", done.stderr);
    lab.expect_clean();
}
