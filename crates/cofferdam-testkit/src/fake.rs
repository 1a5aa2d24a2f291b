//! The fake runtime: a real binary with runc's command line that runs processes without isolating them, and that
//! fails when it is told to.
//!
//! The environment of a runtime is cleared by cofferdam, so the plan of faults lies in a file beside the binary. Each
//! call is written down in another, so that a test can see what was called, and how often.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// File beside the binary that holds the [`Plan`].
pub const PLAN_FILE: &str = "fake-plan.json";
/// File beside the binary that holds one line a call: its verb.
pub const CALLS_FILE: &str = "fake-calls.txt";

/// What the fake runtime does wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its faults.
    pub faults: Vec<Fault>,
}

/// One thing that goes wrong, at one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The verb, such as `create`; `--version` is one too.
    pub verb: String,
    /// At which call of the verb, from 1; 0 is each.
    pub nth: usize,
    /// What.
    pub what: Wrong,
}

/// A way to go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// Never answers.
    Hang,
    /// Answers after this many milliseconds.
    Slow(u64),
    /// Prints this in place of its answer, and does nothing.
    Garbage(String),
    /// Prints this many bytes in place of its answer, and does nothing.
    Flood(usize),
    /// Is ended by this signal before it has done anything.
    Die(i32),
    /// Does its work and is ended by this signal.
    DieAfter(i32),
    /// Fails with this exit code and message before it has done anything.
    Fail(u8, String),
    /// Does its work and exits with this code.
    FailAfter(u8),
    /// Exits 0 and has done nothing.
    Nothing,
    /// Does its work and reports this pid.
    LieAboutPid(i64),
}

/// Where cargo has put the binary.
#[must_use]
pub fn binary() -> PathBuf {
    // Beside the directory of the test binaries: target/debug/deps/TEST, target/debug/fake-runtime.
    let own = std::env::current_exe().unwrap_or_default();
    let directory = own.ancestors().nth(2).unwrap_or_else(|| Path::new("/"));
    directory.join("fake-runtime")
}

/// Puts a copy of the binary into a directory, under the name of runc, with an empty plan.
///
/// # Panics
/// When it cannot be copied.
#[must_use]
pub fn install(directory: &Path) -> PathBuf {
    let home = directory.join("fake");
    std::fs::create_dir(&home).expect("the directory is new");
    let path = home.join("runc");
    std::fs::copy(binary(), &path).expect("the fake runtime was built");
    path
}

/// Tells an installed fake what to do wrong, from now on.
///
/// # Panics
/// When the plan cannot be written.
pub fn plan(installed: &Path, faults: &[(&str, usize, Wrong)]) {
    let faults =
        faults.iter().map(|(verb, nth, what)| Fault { verb: (*verb).into(), nth: *nth, what: what.clone() });
    let plan = Plan { faults: faults.collect() };
    let text = serde_json::to_vec(&plan).expect("a plan is JSON");
    std::fs::write(installed.with_file_name(PLAN_FILE), text).expect("the directory is ours");
    // Calls are counted from here.
    let _ = std::fs::remove_file(installed.with_file_name(CALLS_FILE));
}

/// The verbs that an installed fake was called with, in order.
#[must_use]
pub fn calls(installed: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(installed.with_file_name(CALLS_FILE)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
