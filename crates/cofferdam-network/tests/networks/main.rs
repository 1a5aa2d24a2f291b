//! Networks with the real plugins, each trial on a host of its own: network and mount namespaces that go with it.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

#[path = "../common/own_host.rs"]
mod own_host;
#[path = "../common/programs.rs"]
mod programs;

mod attach;
mod conformance;
mod fake;
mod faults;
mod gc;
mod gvisor;
mod host;
mod hostile;
mod kinds;
mod pool;

use std::process::ExitCode;

use cofferdam_testkit::needs::Need;
use cofferdam_testkit::suite::{run, trial};

/// A trial: its name, and what it does on its host.
type Trial = (&'static str, fn());

const TRIALS: &[&[Trial]] = &[
    attach::TRIALS,
    conformance::TRIALS,
    faults::TRIALS,
    hostile::TRIALS,
    kinds::TRIALS,
    gc::TRIALS,
    gvisor::TRIALS,
    pool::TRIALS,
];

fn main() -> ExitCode {
    let all = || TRIALS.iter().copied().flatten();
    if let Some(name) = host::trial_inside() {
        if name == gc::ATTACHER {
            gc::attach_again_and_again();
        }
        let (_, act) = all().find(|(known, _)| *known == name).expect("a trial with this name");
        host::prepare();
        act();
        return ExitCode::SUCCESS;
    }
    let needs = [Need::Root, Need::Busybox, Need::IpCommand, Need::CniPlugins];
    let own = |name: &str| name.starts_with("gvisor::").then_some(gvisor::NEED);
    let needs = |name: &str| needs.iter().cloned().chain(own(name)).collect::<Vec<_>>();
    run(all().map(|(name, _)| trial(*name, &needs(name), move || host::run_inside(name))).collect())
}
