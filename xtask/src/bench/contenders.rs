//! The commands that are measured: cofferdam, the bare runtimes, podman.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cofferdam_testkit::lab::new_command;

use super::Bench;

impl Bench {
    /// `cofferdam run` of the bundle.
    pub(super) fn cofferdam_run(&self, runtime: &str) -> Command {
        let mut command = self.cofferdam();
        command
            .args(["run", "--rm", "--network", "none", "--runtime", runtime, "--bundle"])
            .arg(&self.bundle);
        command
    }

    /// cofferdam with the scratch state directory.
    pub(super) fn cofferdam(&self) -> Command {
        let mut command = new_command(&self.cofferdam);
        command.arg("--state-dir").arg(self.directory("s"));
        command
    }

    /// The bare runtime's `run` of the same bundle.
    pub(super) fn bare_run(&self, runtime: &str, id: &str) -> Command {
        let mut command = self.bare(runtime);
        command.args(["run", "--bundle"]).arg(&self.bundle).arg(id);
        command
    }

    /// The bare runtime with a scratch state root, and with what every user of gVisor gives on a host without a
    /// prepared network.
    pub(super) fn bare(&self, runtime: &str) -> Command {
        let mut command = new_command(runtime);
        command.arg("--root").arg(self.directory(runtime));
        if runtime == "runsc" {
            command.arg("--network=none");
        }
        command
    }

    /// `podman run` of the same root filesystem. The limits are those that it may set on a machine without
    /// CAP_SYS_RESOURCE.
    pub(super) fn podman_run(&self, runtime: &str) -> Result<Command> {
        let binary = ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
            .iter()
            .map(|directory| std::path::Path::new(directory).join(runtime))
            .find(|path| path.is_file())
            .with_context(|| format!("{runtime} is not installed"))?;
        let mut command = new_command("podman");
        command
            .arg("--root")
            .arg(self.directory("podman"))
            .arg("--runroot")
            .arg(self.directory("podman-run"));
        command.arg("--runtime").arg(binary);
        if runtime == "runsc" {
            command.args(["--runtime-flag", "network=none"]);
        }
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args([
            "run",
            "--rm",
            "--network",
            "none",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ]);
        command.arg("--rootfs").arg(self.bundle.join("rootfs")).arg("/bin/true");
        Ok(command)
    }
}

/// Runs a command to its end; anything but success is an error.
pub(super) fn succeed(mut command: Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(())
}
