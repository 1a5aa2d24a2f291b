//! Images from a real registry, through a proxy that fails as it is told, and logins for it.
#![expect(clippy::unwrap_used, reason = "these are tests, though not of the standard harness")]

mod child;
mod faults;
mod lies;
mod logins;
mod mirrors;
mod place;
mod pulls;

use std::process::ExitCode;

use cofferdam_testkit::needs::Need;
use cofferdam_testkit::suite::{run, trial};

fn main() -> ExitCode {
    if let Some(code) = child::main() {
        return code;
    }
    let all = [pulls::TRIALS, logins::TRIALS, faults::TRIALS, mirrors::TRIALS, lies::TRIALS];
    let trials = all.concat().into_iter().map(|(name, test)| {
        trial(name, &[Need::DockerRegistry], move || {
            let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            event_loop.block_on(test());
        })
    });
    let code = run(trials.collect());
    place::close();
    code
}
