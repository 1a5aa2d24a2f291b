//! The releases of runsc that tests run against, in `target/runtimes/NAME/runsc`: two of Debian's, and today's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cofferdam_testkit::runtimes::{RUNSC_DEBIAN, RUNSC_OLDEST, fetched};
use xshell::{Shell, cmd};

use crate::packages::{System, enable_backports, has_program};
use crate::step;

/// gVisor's Go branch on 5 September 2026: the module that `go install` can build.
const HEAD_VERSION: &str = "v0.0.0-20260905035102-160fafc42237";

/// Puts those releases of Debian's runsc that are missing where the tests look for them. On another system they stay
/// missing, which the tests show.
pub(crate) fn fetch_debian(shell: &Shell) -> Result<()> {
    if !System::probe().needs_backports() {
        println!("not Debian 12: the tests of runsc {RUNSC_OLDEST} and {RUNSC_DEBIAN} will be skipped");
        return Ok(());
    }
    for (release, suite) in [(RUNSC_OLDEST, "bookworm"), (RUNSC_DEBIAN, "bookworm-backports")] {
        let target = fetched(release);
        if target.is_file() {
            continue;
        }
        step(&format!("fetching runsc {release} from Debian"));
        enable_backports(shell)?;
        let scratch = tempfile::tempdir()?;
        let _directory = shell.push_dir(scratch.path());
        cmd!(shell, "apt-get --quiet --quiet -o APT::Sandbox::User=root download runsc/{suite}")
            .quiet()
            .run()?;
        let archive = only_file(scratch.path())?;
        cmd!(shell, "dpkg-deb --extract {archive} unpacked").quiet().run()?;
        place(&scratch.path().join("unpacked/usr/bin/runsc"), &target)?;
    }
    Ok(())
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let entry = std::fs::read_dir(directory)?.next().context("apt-get downloaded nothing")??;
    Ok(entry.path())
}

/// Builds today's runsc, unless it is there already.
pub(crate) fn build_head(shell: &Shell) -> Result<PathBuf> {
    let target = fetched("head");
    let stamp = target.with_file_name("version");
    if target.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|version| version == HEAD_VERSION) {
        return Ok(target);
    }
    if !has_program("go") {
        bail!("Go is not installed: https://go.dev/doc/install");
    }
    step(&format!("building runsc {HEAD_VERSION} through the Go module proxy (a minute or two)"));
    let scratch = tempfile::tempdir()?;
    let module = format!("gvisor.dev/gvisor/runsc@{HEAD_VERSION}");
    cmd!(shell, "go install {module}").env("GOBIN", scratch.path()).env("CGO_ENABLED", "0").quiet().run()?;
    place(&scratch.path().join("runsc"), &target)?;
    std::fs::write(stamp, HEAD_VERSION)?;
    Ok(target)
}

/// Copies a binary so that it appears whole.
fn place(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().context("the target has a directory")?;
    std::fs::create_dir_all(directory)?;
    let half = directory.join(".half");
    std::fs::copy(from, &half).with_context(|| format!("{} is missing", from.display()))?;
    Ok(std::fs::rename(half, to)?)
}
