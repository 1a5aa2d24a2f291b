//! Faults at every step of the lifecycle: in our own process, and in the runtime. Nothing may remain.

use std::time::{Duration, Instant};

use cofferdam_testkit::fake::{Wrong, calls, plan};
use cofferdam_testkit::fixture::{bundle, spec};
use cofferdam_testkit::lab::{Finished, Lab, eventually, finish};
use cofferdam_testkit::process::{kill_process, signal_process};
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("faults::an_error_at_each_step", an_error_at_each_step).only(wants_failpoints),
    case("faults::a_kill_at_each_step", a_kill_at_each_step).only(wants_failpoints),
    case("faults::start_is_cut_short", start_is_cut_short).only(wants_failpoints),
    case("faults::exec_is_cut_short", exec_is_cut_short).only(wants_failpoints),
    case("faults::a_closing_is_cut_short", a_closing_is_cut_short).only(wants_failpoints),
    case("faults::a_removal_is_cut_short", a_removal_is_cut_short).only(wants_failpoints),
    case("faults::the_runtime_fails_at_each_verb", the_runtime_fails_at_each_verb).only(is_fake),
    case("faults::the_runtime_fails_after_it_has_done_its_work", fails_after_its_work).only(is_fake),
    case("faults::the_runtime_hangs", the_runtime_hangs).only(is_fake),
    case("faults::a_hanging_runtime_holds_up_nobody_else", a_hanging_runtime_holds_up_nobody_else)
        .only(is_fake),
    case("faults::the_runtime_lies_about_pids", the_runtime_lies_about_pids).only(is_fake),
    case("faults::the_runtime_prints_garbage", the_runtime_prints_garbage).only(is_fake),
    case("faults::the_runtime_is_slow", the_runtime_is_slow).only(is_fake),
    case("faults::a_run_calls_the_runtime_once", a_run_calls_the_runtime_once).only(is_fake),
];

fn is_fake(choice: &Choice) -> bool {
    *choice == Choice::Fake
}

fn wants_failpoints(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Fake | Choice::Runsc(RUNSC_DEBIAN))
        && cfg!(feature = "failpoints")
}

/// Steps whose failure is the launch's own; after them the container has run.
fn is_launch(step: &str) -> bool {
    step.starts_with("launch.")
}

fn an_error_at_each_step(lab: &Lab) {
    for step in cofferdam::fault::STEPS {
        for options in [&["--rm"][..], &["--rm", "--name", "n"], &["--detach", "--rm"]] {
            let mut command = lab.command(lab.launch_args("run", options, &["sh", "-c", "exit 7"]));
            // Once: a report that cannot be written is written again.
            command.env("FAILPOINTS", format!("{step}=1*return(error)"));
            let done = finish(command);
            if is_launch(step) {
                assert!(
                    done.stderr.contains(&format!("a test made the step {step} fail")),
                    "{step}: {done:?}"
                );
                assert_eq!(done.code, Some(125), "{step}: {done:?}");
            }
            if step == "end.cleared" {
                // What could not be cleaned up keeps its record, also with --rm.
                let listed = || lab.cofferdam(&["ps", "-a", "-q", "--own"]).expect_code(0).text();
                eventually("it has ended", || lab.cofferdam(&["rm", &listed()]).code == Some(0));
            }
            lab.expect_clean();
        }
    }
}

/// A command, cut short at a step by a kill or an error.
fn cut_short(lab: &Lab, step: &str, how: &str, args: &[&str]) -> Finished {
    let mut command = lab.command(args);
    command.env("FAILPOINTS", format!("{step}=1*return({how})"));
    finish(command)
}

fn start_is_cut_short(lab: &Lab) {
    let create = || {
        let args = lab.launch_args("create", &["--name", "c"], &["sleep", "1000"]);
        let mut command = lab.command(args);
        // The monitor inherits it: it is the one who calls the runtime.
        command.env("FAILPOINTS", "start.called=1*return(kill)");
        finish(command).expect_code(0).text()
    };
    let id = create();
    // Its monitor died right after the start. Who asked looks again and finds that it runs.
    drop(lab.cofferdam(&["start", &id]).expect_error("E0501"));
    let state = lab.inspect(&id)["state"].take();
    assert_eq!((&state["status"], &state["supervised"]), (&"running".into(), &true.into()), "{state}");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn exec_is_cut_short(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let done = cut_short(lab, "exec.made", "error", &["exec", &id, "sleep", "1000"]);
    assert_eq!(done.code, Some(125), "{done:?}");
    let listed = lab.cofferdam(&["top", &id]).expect_code(0).text();
    assert_eq!(listed.matches("sleep").count(), 1, "the exec's process is ended: {listed}");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_closing_is_cut_short(lab: &Lab) {
    for step in ["orphan.reported", "orphan.cleared"] {
        for how in ["error", "kill"] {
            let running = lab.start_run(&["--name", "n"], &["sleep", "1000"]);
            crate::exit::until_running(lab, "n");
            // Both at once: of a container that lives, a new supervisor would close the record.
            running.signal(rustix::process::Signal::STOP);
            let pid = crate::exit::pid_of(lab, "n");
            kill_process(pid);
            running.signal(rustix::process::Signal::KILL);
            drop(running.finish());
            let done = cut_short(lab, step, how, &["wait", "n"]);
            assert_ne!(done.code, Some(0), "{step} {how}: {done:?}");
            let report = lab.report("n");
            let kind = report["cause"]["kind"].as_str().unwrap_or_default();
            assert!(kind == "signaled" || kind == "runtime_lost", "{step} {how}: {report:#}");
            lab.expect_no_leftovers();
            drop(lab.cofferdam(&["rm", "n"]).expect_code(0));
            lab.expect_clean();
        }
    }
}

fn a_removal_is_cut_short(lab: &Lab) {
    for how in ["error", "kill"] {
        drop(lab.run(&["--name", "n"], &["true"]).expect_code(0));
        let done = cut_short(lab, "remove.locked", how, &["rm", "n"]);
        assert_ne!(done.code, Some(0), "{how}: {done:?}");
        drop(lab.cofferdam(&["rm", "n"]).expect_code(0));
        lab.expect_clean();
    }
}

fn a_kill_at_each_step(lab: &Lab) {
    for step in cofferdam::fault::STEPS {
        let mut command =
            lab.command(lab.launch_args("run", &["--name", "n"], &["sh", "-c", "sleep 0.1; exit 7"]));
        command.env("FAILPOINTS", format!("{step}=return(kill)"));
        let done = finish(command);
        assert_eq!(done.code, None, "{step}: it was to be killed there: {done:?}");
        for id in lab.cofferdam(&["ps", "-a", "-q", "--own", "--no-trunc"]).expect_code(0).text().lines() {
            let report = lab.report(id);
            let kind = report["cause"]["kind"].as_str().unwrap_or_default();
            // Never a made-up code: the container's own where somebody saw it, else the truth.
            assert!(kind == "runtime_lost" || report["cause"]["code"] == 7, "{step}: {report:#}");
            drop(lab.cofferdam(&["rm", "-f", id]).expect_code(0));
        }
        lab.expect_clean();
        // The name is free again.
        drop(lab.run(&["--rm", "--name", "n"], &["true"]).expect_code(0));
    }
}

fn the_runtime_fails_at_each_verb(lab: &Lab) {
    for wrong in [Wrong::Fail(1, "no luck".into()), Wrong::Die(9), Wrong::Nothing, Wrong::Garbage("x".into())]
    {
        plan(lab.runtime(), &[("run", 0, wrong.clone())]);
        let done = lab.run(&["--rm"], &["true"]).expect_code(125);
        assert!(done.stderr.contains("error[E020"), "{wrong:?}: {done:?}");
        if let Wrong::Fail(..) = wrong {
            assert!(done.stderr.contains("no luck"), "the runtime's own reason is kept: {}", done.stderr);
        }
        lab.expect_clean();
        plan(lab.runtime(), &[("start", 0, wrong.clone())]);
        let args = lab.launch_args("create", &["--name", "c"], &["sleep", "1000"]);
        drop(lab.cofferdam(&crate::lifecycle::as_refs(&args)).expect_code(0));
        if !matches!(wrong, Wrong::Nothing | Wrong::Garbage(_)) {
            drop(lab.cofferdam(&["start", "c"]).expect_error("E0204"));
            assert_eq!(lab.report("c")["cause"]["kind"], "start_failed");
        }
        plan(lab.runtime(), &[]);
        drop(lab.cofferdam(&["rm", "-f", "c"]).expect_code(0));
        lab.expect_clean();
    }
    // A delete that fails is tried again with force, and the container's end is not affected.
    let mut config = spec(&["/bin/sh", "-c", "exit 7"]);
    // With a hook to run after the end, only the runtime can take the container away.
    config["hooks"] = serde_json::json!({ "poststop": [{ "path": "/bin/true" }] });
    let path = bundle(lab.path(), "b", &config);
    let run = |options: &[&str]| {
        let args = ["run", "--network", "none", "--bundle", &path.to_string_lossy()];
        lab.cofferdam(&args.iter().chain(options).copied().collect::<Vec<_>>())
    };
    plan(lab.runtime(), &[("delete", 1, Wrong::Fail(1, "busy".into()))]);
    drop(run(&["--rm"]).expect_code(7));
    assert_eq!(calls(lab.runtime()), ["run", "delete", "delete"]);
    lab.expect_clean();
    // One that always fails is reported, and the container's end still is not affected.
    plan(lab.runtime(), &[("delete", 0, Wrong::Fail(1, "busy".into()))]);
    let done = run(&["--name", "d"]).expect_code(7);
    assert!(done.stderr.contains("clean-up") && done.stderr.contains("busy"), "{}", done.stderr);
    assert!(lab.report("d")["cleanup"].to_string().contains("busy"));
}

fn fails_after_its_work(lab: &Lab) {
    for wrong in [Wrong::FailAfter(1), Wrong::DieAfter(9)] {
        plan(lab.runtime(), &[("run", 0, wrong.clone()), ("create", 0, wrong)]);
        drop(lab.run(&["--rm"], &["sleep", "1000"]).expect_code(125).expect_error("E0204"));
        lab.expect_clean();
        let args = lab.launch_args("create", &[], &["sleep", "1000"]);
        drop(lab.cofferdam(&crate::lifecycle::as_refs(&args)).expect_error("E0204"));
        lab.expect_clean();
    }
}

fn the_runtime_hangs(lab: &Lab) {
    let began = Instant::now();
    plan(lab.runtime(), &[("run", 0, Wrong::Hang)]);
    let done =
        lab.run(&["--rm", "--runtime-timeout", "1s"], &["true"]).expect_code(125).expect_error("E0205");
    assert!(done.stderr.contains("did not end within 1s"), "{}", done.stderr);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    lab.expect_clean();
    // Also when it hangs at everything that comes after.
    let began = Instant::now();
    plan(lab.runtime(), &[("run", 0, Wrong::Hang), ("delete", 0, Wrong::Hang), ("state", 0, Wrong::Hang)]);
    drop(lab.run(&["--rm", "--runtime-timeout", "1s"], &["true"]).expect_error("E0205"));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    lab.expect_clean();
    // A hanging runtime can be interrupted, too.
    let running = lab.start_run(&["--rm"], &["true"]);
    cofferdam_testkit::lab::eventually("it hangs", || {
        calls(lab.runtime()).iter().filter(|v| *v == "run").count() == 2
    });
    running.signal(rustix::process::Signal::INT);
    drop(running.finish().expect_code(125).expect_error("E0503"));
    lab.expect_clean();
}

fn a_hanging_runtime_holds_up_nobody_else(lab: &Lab) {
    let good = lab.run_detached(&["--name", "good"], &["sleep", "1000"]);
    let bad = lab.run_detached(&["--rm"], &["sleep", "1000"]);
    plan(lab.runtime(), &[("delete", 0, Wrong::Hang), ("state", 0, Wrong::Hang)]);
    let supervisor = lab.inspect(&bad)["supervisor"]["pid"].as_i64().unwrap();
    signal_process(i32::try_from(supervisor).unwrap(), rustix::process::Signal::KILL);
    let pid = lab.inspect(&bad)["process"]["pid"].as_i64().unwrap();
    signal_process(i32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    // Closing the record takes a call of the runtime, once and not for long; what it leaves carries the id.
    let began = Instant::now();
    let listed = || lab.cofferdam(&["ps", "-a", "-q", "--own", "--no-trunc"]).expect_code(0).text();
    assert!(listed().contains(&good));
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let began = Instant::now();
    drop(listed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(lab.cofferdam(&["rm", "-f", &bad]).expect_code(0));
    plan(lab.runtime(), &[]);
    drop(lab.cofferdam(&["rm", "-f", "good"]).expect_code(0));
    lab.expect_clean();
}

fn the_runtime_lies_about_pids(lab: &Lab) {
    let own = i64::from(std::process::id());
    for pid in [own, 1, 0, -1, 4_194_999] {
        plan(lab.runtime(), &[("run", 0, Wrong::LieAboutPid(pid))]);
        drop(lab.run(&["--rm"], &["sleep", "1000"]).expect_code(125).expect_error("E0207"));
        lab.expect_clean();
    }
}

fn the_runtime_prints_garbage(lab: &Lab) {
    let id = lab.run_detached(&["--name", "g"], &["sleep", "1000"]);
    for garbage in ["", "{", "null", "\u{0}", &"[".repeat(10_000)] {
        plan(lab.runtime(), &[("ps", 0, Wrong::Garbage(garbage.into()))]);
        drop(lab.cofferdam(&["top", "g"]).expect_error("E0206"));
    }
    plan(lab.runtime(), &[("ps", 0, Wrong::Flood(64 << 20))]);
    drop(lab.cofferdam(&["top", "g"]).expect_error("E0206"));
    plan(lab.runtime(), &[]);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn the_runtime_is_slow(lab: &Lab) {
    plan(lab.runtime(), &[("run", 0, Wrong::Slow(1500)), ("delete", 0, Wrong::Slow(500))]);
    drop(lab.run(&["--rm"], &["sh", "-c", "exit 7"]).expect_code(7));
    lab.expect_clean();
}

fn a_run_calls_the_runtime_once(lab: &Lab) {
    drop(lab.run(&["--rm"], &["true"]).expect_code(0));
    plan(lab.runtime(), &[]);
    drop(lab.run(&["--rm"], &["true"]).expect_code(0));
    assert_eq!(calls(lab.runtime()), ["run"], "each call costs the start of a process");
}
