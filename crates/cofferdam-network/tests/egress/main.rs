//! Gates of containers with the real packet filter and real connections, each trial on a host of its own: network, mount
//! and process namespaces that go with it.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

#[path = "../common/own_host.rs"]
mod own_host;
#[path = "../common/programs.rs"]
mod programs;

mod attacks;
mod changes;
mod container;
mod dns;
mod host;
mod names;
mod probe;
mod reach;
mod runtimes;
mod told;

use std::process::ExitCode;

use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::Choice;
use cofferdam_testkit::suite::{run, trial};

/// A trial: its name, and what it does on its host.
type Trial = (&'static str, fn());

const TRIALS: &[&[Trial]] = &[reach::TRIALS, names::TRIALS, changes::TRIALS, attacks::TRIALS, told::TRIALS];

fn main() -> ExitCode {
    if runtimes::looked_around() {
        return ExitCode::SUCCESS;
    }
    let all = || TRIALS.iter().copied().flatten().chain([&runtimes::RUNC, &runtimes::RUNSC]);
    if let Some(name) = host::trial_inside() {
        let (_, act) = all().find(|(known, _)| *known == name).expect("a trial with this name");
        host::prepare();
        act();
        return ExitCode::SUCCESS;
    }
    let make = |(name, _): &Trial, runtime: Option<Choice>| {
        let (name, mut needs) = (*name, vec![Need::Root, Need::IpCommand, Need::Nftables]);
        needs.extend(runtime.map(Need::Runtime));
        trial(name, &needs, move || host::run_inside(name))
    };
    let mut trials: Vec<_> = TRIALS.iter().copied().flatten().map(|one| make(one, None)).collect();
    trials.push(make(&runtimes::RUNC, Some(Choice::Runc)));
    trials.push(make(&runtimes::RUNSC, Some(Choice::RunscHead)));
    run(trials)
}
