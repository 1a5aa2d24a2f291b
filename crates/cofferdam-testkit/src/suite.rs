//! Tests that run once for each runtime, with their needs.

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use crate::census::Census;
use crate::needs::{Fate, Need, fate, in_ci};

/// Makes a trial of a test and its needs.
///
/// A test whose needs are missing is shown as ignored, with the needs in its name; in CI it fails.
pub fn trial(name: impl Into<String>, needs: &[Need], test: impl FnOnce() + Send + 'static) -> Trial {
    let name = name.into();
    let list = |missing: &[Need]| missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match fate(needs, in_ci()) {
        Fate::Run => Trial::test(name, move || {
            test();
            Ok(())
        }),
        Fate::Skip(missing) => {
            Trial::test(format!("{name} (needs {})", list(&missing)), || Ok(())).with_ignored_flag(true)
        }
        Fate::Fail(missing) => {
            let text = format!("this machine lacks: {}", list(&missing));
            Trial::test(name, move || Err(Failed::from(text)))
        }
    }
}

/// Runs trials, and makes sure that the machine is as it was before.
pub fn run(trials: Vec<Trial>) -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let before = Census::of_machine();
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    let left = Census::settle(Census::of_machine, &before);
    if !left.is_empty() {
        use std::io::Write;
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(std::io::stderr(), "the suite left this on the machine: {left:#?}");
        return std::process::ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
