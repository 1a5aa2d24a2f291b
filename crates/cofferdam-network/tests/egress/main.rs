//! Gates of containers with the real packet filter and real connections, each trial on a host of its own: network, mount
//! and process namespaces that go with it.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

mod attacks;
mod changes;
mod container;
mod dns;
mod host;
mod names;
mod probe;
mod reach;
mod told;

use std::process::ExitCode;

use cofferdam_testkit::needs::Need;
use cofferdam_testkit::suite::{run, trial};

/// A trial: its name, and what it does on its host.
type Trial = (&'static str, fn());

const TRIALS: &[&[Trial]] = &[reach::TRIALS, names::TRIALS, changes::TRIALS, attacks::TRIALS, told::TRIALS];

fn main() -> ExitCode {
    let all = || TRIALS.iter().copied().flatten();
    if let Some(name) = host::trial_inside() {
        let (_, act) = all().find(|(known, _)| *known == name).expect("a trial with this name");
        host::prepare();
        act();
        return ExitCode::SUCCESS;
    }
    let needs = [Need::Root, Need::IpCommand, Need::Nftables];
    run(all().map(|(name, _)| trial(*name, &needs, move || host::run_inside(name))).collect())
}
