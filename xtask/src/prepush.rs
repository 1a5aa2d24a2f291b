//! Every check that a change must pass, but the tests: at home before a push, and in CI.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{packages, step, tidy};

/// Version of cargo-deny that is installed where none is.
const CARGO_DENY: &str = "cargo-deny@0.19.0";

pub(crate) fn run(shell: &Shell) -> Result<()> {
    step("format");
    cmd!(shell, "cargo fmt --all --check").quiet().run()?;
    step("lints");
    for features in [&[][..], &["--features", "cofferdam-cli/failpoints"]] {
        cmd!(shell, "cargo clippy --workspace --all-targets {features...} -- --deny warnings")
            .quiet()
            .run()?;
    }
    cmd!(shell, "cargo check --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target/fuzz")
        .quiet()
        .run()?;
    step("documentation");
    cmd!(shell, "cargo doc --workspace --no-deps --document-private-items")
        .env("RUSTDOCFLAGS", "--deny warnings")
        .quiet()
        .run()?;
    step("conventions");
    tidy::run(shell)?;
    step("dependencies");
    deny(shell)
}

fn deny(shell: &Shell) -> Result<()> {
    let has_deny = cmd!(shell, "cargo deny --version").quiet().ignore_stdout().ignore_stderr().run().is_ok();
    if !has_deny {
        step(&format!("installing {CARGO_DENY}"));
        cmd!(shell, "cargo install --quiet --locked {CARGO_DENY}").quiet().run()?;
    }
    // The database of advisories is asked where it can be reached: a change is not at fault for a new advisory, nor
    // for a network that is away.
    cmd!(shell, "cargo deny --all-features check bans licenses sources").quiet().run()?;
    let advisories = cmd!(shell, "cargo deny --all-features check advisories").quiet().ignore_stderr();
    if packages::has_program("git") && advisories.run().is_err() {
        println!("the advisories could not be checked, or there are some: run `cargo deny check advisories`");
    }
    Ok(())
}
