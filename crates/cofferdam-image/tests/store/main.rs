//! The store of images: against layouts made by hand, skopeo and umoci, processes that are killed, and full disks.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

mod acquire;
mod layouts;

use std::process::ExitCode;

use cofferdam_testkit::needs::Need;
use cofferdam_testkit::suite::trial;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    macro_rules! trials {
        ($($needs:expr => $module:ident: $($test:ident)+;)+) => {
            vec![$($(asynchronous(stringify!($test), &$needs, || $module::$test()),)+)+]
        };
    }
    let trials = trials! {
        [Need::Root] => acquire: an_image_comes_is_found_and_is_unpacked what_ended_in_the_middle_goes_on_there;
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A trial with an event loop of its own, as the command line has it.
fn asynchronous<F: Future<Output = ()>>(
    name: &str,
    needs: &[Need],
    test: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    trial(name, needs, move || {
        let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        event_loop.block_on(test());
    })
}
