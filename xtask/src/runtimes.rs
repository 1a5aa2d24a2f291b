//! Programs that tests run against and no package has, below `target/runtimes`: the releases of runsc (two of Debian's, and
//! today's), and NVIDIA's container toolkit.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cofferdam_testkit::runtimes::{RUNSC_DEBIAN, RUNSC_OLDEST, fetched, nvidia_toolkit};
use xshell::{Shell, cmd};

use crate::packages::{System, enable_backports, has_program};
use crate::step;

/// gVisor's Go branch on 5 September 2026: the module that `go install` can build.
const HEAD_VERSION: &str = "v0.0.0-20260905035102-160fafc42237";

/// NVIDIA's container toolkit, whose description of a host is compared with cofferdam's.
const TOOLKIT_VERSION: &str = "v1.17.8";
const TOOLKIT: [(&str, &str); 2] = [
    ("nvidia-ctk", "github.com/NVIDIA/nvidia-container-toolkit/cmd/nvidia-ctk"),
    ("nvidia-cdi-hook", "github.com/NVIDIA/nvidia-container-toolkit/cmd/nvidia-cdi-hook"),
];

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
    let directory = target.parent().context("it is in a directory")?;
    let _without_c = shell.push_env("CGO_ENABLED", "0");
    build_by_go(shell, directory, HEAD_VERSION, &[("runsc", "gvisor.dev/gvisor/runsc")])?;
    Ok(target)
}

/// Builds the programs of NVIDIA's container toolkit, unless they are there already.
pub(crate) fn build_toolkit(shell: &Shell) -> Result<PathBuf> {
    let target = nvidia_toolkit("nvidia-ctk");
    let directory = target.parent().context("it is in a directory")?;
    build_by_go(shell, directory, TOOLKIT_VERSION, &TOOLKIT)?;
    Ok(directory.to_owned())
}

/// Builds programs of one release, unless they are there already, so that each appears whole.
fn build_by_go(shell: &Shell, directory: &Path, version: &str, programs: &[(&str, &str)]) -> Result<()> {
    let stamp = directory.join("version");
    let are_there = programs.iter().all(|(name, _)| directory.join(name).is_file());
    if are_there && std::fs::read_to_string(&stamp).is_ok_and(|built| built == version) {
        return Ok(());
    }
    if !has_program("go") {
        bail!("Go is not installed: https://go.dev/doc/install");
    }
    for (name, package) in programs {
        step(&format!("building {name} {version} through the Go module proxy (a minute or two)"));
        let scratch = tempfile::tempdir()?;
        cmd!(shell, "go install {package}@{version}").env("GOBIN", scratch.path()).quiet().run()?;
        place(&scratch.path().join(name), &directory.join(name))?;
    }
    Ok(std::fs::write(stamp, version)?)
}

/// Copies a binary so that it appears whole.
fn place(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().context("the target has a directory")?;
    std::fs::create_dir_all(directory)?;
    let half = directory.join(".half");
    std::fs::copy(from, &half).with_context(|| format!("{} is missing", from.display()))?;
    Ok(std::fs::rename(half, to)?)
}
