//! The same cases against every runtime: the fake, runc, crun, and runsc old and new.
//!
//! Each case gets a lab of its own (a state directory, a root filesystem, a cgroup) and leaves it clean; the suite
//! counts the whole machine before and after.

#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

mod adoption;
mod attach;
mod bridge;
mod bulk;
mod cdi;
mod crashes;
mod deaths;
mod endings;
mod events;
mod exit;
mod faults;
mod gc;
mod gpu;
mod habit;
mod health;
mod images;
mod inputs;
mod keeper;
mod launch_options;
mod lifecycle;
mod limits;
mod listing;
mod logs;
mod memory;
mod mounts;
mod network;
mod restarts;
mod sessions;
mod streams;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use cofferdam_testkit::lab::Lab;
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{CONFORMANCE, Choice};
use cofferdam_testkit::suite::{run, trial};

/// One case.
struct Case {
    name: &'static str,
    applies: fn(&Choice) -> bool,
    needs: &'static [Need],
    test: fn(&Lab),
}

/// A case for every runtime.
const fn case(name: &'static str, test: fn(&Lab)) -> Case {
    Case { name, applies: |_| true, needs: &[], test }
}

impl Case {
    /// Only for runtimes that isolate and limit.
    const fn real(self) -> Self {
        self.only(Choice::is_real)
    }

    const fn only(self, applies: fn(&Choice) -> bool) -> Self {
        Self { applies, ..self }
    }

    const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }
}

fn main() -> ExitCode {
    let groups = [
        exit::CASES,
        streams::CASES,
        lifecycle::CASES,
        limits::CASES,
        launch_options::CASES,
        mounts::CASES,
        network::CASES,
        bridge::CASES,
        habit::CASES,
        images::run::CASES,
        images::defaults::CASES,
        images::disk::CASES,
        images::store::CASES,
        images::files::CASES,
        images::crashes::CASES,
        restarts::CASES,
        health::CASES,
        gc::CASES,
        cdi::CASES,
        gpu::CASES,
        sessions::CASES,
        inputs::CASES,
        keeper::CASES,
        listing::CASES,
        deaths::CASES,
        crashes::CASES,
        adoption::CASES,
        endings::CASES,
        logs::CASES,
        memory::CASES,
        attach::CASES,
        terminal::CASES,
        events::CASES,
        faults::CASES,
        bulk::CASES,
    ];
    let mut trials = Vec::new();
    for choice in CONFORMANCE {
        for case in groups.into_iter().flatten().filter(|case| (case.applies)(&choice)) {
            let mut needs = vec![Need::Root, Need::Busybox, Need::Runtime(choice.clone())];
            needs.extend_from_slice(case.needs);
            let (choice, test) = (choice.clone(), case.test);
            trials.push(trial(format!("{choice}::{}", case.name), &needs, move || {
                let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_cofferdam")), &choice);
                test(&lab);
            }));
        }
    }
    run(trials)
}
