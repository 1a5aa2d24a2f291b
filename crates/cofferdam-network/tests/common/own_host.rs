//! A host of its own for one trial: network, mounts and processes that go with it. And commands on it.

use std::process::{Command, Output, Stdio};

use cofferdam_testkit::lab::new_command;

/// The variable that names the trial inside of its host.
pub(crate) const TRIAL: &str = "COFFERDAM_NETWORK_TRIAL";

pub(crate) fn trial_inside() -> Option<String> {
    std::env::var(TRIAL).ok()
}

/// Runs this binary again on a host of its own.
pub(crate) fn run_inside(name: &str) {
    let own = std::env::current_exe().unwrap();
    let words = "--net --mount --propagation private --pid --fork --kill-child --mount-proc";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.push(own.to_str().unwrap());
    let output = command("unshare", &words).env(TRIAL, name).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

pub(crate) fn command(program: &str, words: &[&str]) -> Command {
    let mut command = new_command(program);
    command.args(words).stdin(Stdio::null());
    command
}

pub(crate) fn try_sh(script: &str) -> Output {
    command("/bin/sh", &["-ec", script]).output().unwrap()
}

/// Runs a script that must succeed, and gives what it writes.
#[track_caller]
pub(crate) fn sh(script: &str) -> String {
    let output = try_sh(script);
    assert!(output.status.success(), "{script}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
