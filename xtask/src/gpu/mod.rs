//! What only a machine with an NVIDIA GPU can show: a folder with all that is needed there, which is run where there is one.
//!
//! The machine may have no network, no compiler and no cargo; so the folder has the binaries, a program of CUDA's that is
//! built without CUDA (`probe.c`), a script (`run.sh`) that needs a shell, and a program for PyTorch (`train.py`), which
//! is run where there is one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cofferdam_testkit::runtimes::{RUNSC_DEBIAN, fetched};
use xshell::{Shell, cmd};

use crate::{packages, runtimes, step};

/// Programs that are needed, with Debian's packages of them.
const NEEDED: [(&str, &str); 2] = [("runc", "runc"), ("cc", "gcc")];
const SCRIPT: &str = include_str!("run.sh");
const PROBE: &str = include_str!("probe.c");
const TRAINING: &str = include_str!("train.py");

pub(crate) fn run(shell: &Shell) -> Result<()> {
    packages::install(shell, &NEEDED)?;
    step("building cofferdam, the newest runsc, and a program that uses a GPU");
    cmd!(shell, "cargo build --release --package cofferdam-cli").quiet().run()?;
    let runsc = runtimes::build_head(shell)?;
    runtimes::fetch_debian(shell)?;
    let folder = shell.current_dir().join("target/gpu-test");
    shell.create_dir(&folder)?;
    shell.write_file(folder.join("probe.c"), PROBE)?;
    let (source, probe) = (folder.join("probe.c"), folder.join("probe"));
    cmd!(shell, "cc -O2 -Wall -Wextra -o {probe} {source} -ldl").quiet().run()?;
    let runc = cmd!(shell, "sh -c 'command -v runc'").quiet().read().context("runc was just installed")?;
    shell.copy_file("target/release/cofferdam", folder.join("cofferdam"))?;
    shell.copy_file(runc, folder.join("runc"))?;
    shell.copy_file(runsc, folder.join("runsc"))?;
    let older = fetched(RUNSC_DEBIAN);
    if older.is_file() {
        shell.copy_file(older, folder.join("runsc-older"))?;
    }
    shell.write_file(folder.join("train.py"), TRAINING)?;
    let toolkit = runtimes::build_toolkit(shell)?;
    for program in ["nvidia-ctk", "nvidia-cdi-hook"] {
        shell.copy_file(toolkit.join(program), folder.join(program))?;
    }
    let script = folder.join("run.sh");
    shell.write_file(&script, SCRIPT)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    if !Path::new("/proc/driver/nvidia/version").exists() {
        println!("There is no NVIDIA driver here. Carry {} to a machine with a GPU,", folder.display());
        println!("and run run.sh there as root: it needs nothing else.");
        return Ok(());
    }
    step("running it on this machine's GPU");
    let status = cmd!(shell, "{script}").quiet().ignore_status().output()?;
    print!("{}", String::from_utf8_lossy(&status.stdout));
    eprint!("{}", String::from_utf8_lossy(&status.stderr));
    ensure!(status.status.success(), "something is not as it should be");
    Ok(())
}
