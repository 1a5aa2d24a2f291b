//! The NVIDIA container toolkit's own description of a host, where it is installed.

use std::path::PathBuf;
use std::time::Duration;

use super::DriverRoot;
use crate::exit::ProcessEnd;
use crate::process::{self, Invocation, Streams};
use crate::runtime::find_program;

/// Its program.
const PROGRAM: &str = "nvidia-ctk";
/// How long it may take. It asks NVML, which may have to wake the GPUs.
const LIMIT: Duration = Duration::from_secs(60);

/// Where its program is, if it is installed.
#[must_use]
pub fn find_toolkit() -> Option<PathBuf> {
    find_program(PROGRAM, std::env::var_os("PATH").as_deref())
}

/// Has it describe the GPUs: YAML, or with `json` that.
///
/// # Errors
/// What it says.
pub async fn describe_by_toolkit(program: PathBuf, root: &DriverRoot, json: bool) -> Result<String, String> {
    let format = if json { "--format=json" } else { "--format=yaml" };
    let mut args = vec!["cdi".into(), "generate".into(), format.into()];
    if !root.is_host() {
        let mut flag = std::ffi::OsString::from("--driver-root=");
        flag.push(root.join("/"));
        args.push(flag);
    }
    let invocation = Invocation { program: &program, args, streams: Streams::Captured, limit: LIMIT };
    let done = process::run(invocation).await.map_err(|error| error.to_string())?;
    if done.end == ProcessEnd::Exited(0) {
        return String::from_utf8(done.stdout).map_err(|error| error.to_string());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned())
}
