//! CRIU, which runc, crun and youki call to write a container to disk: whether it is here, and works on this kernel.

use std::path::Path;
use std::time::Duration;

use super::capabilities::Criu;
use super::locate::find_program;
use crate::exit::ProcessEnd;
use crate::process::{self, Completed, Invocation, Streams};

/// How long CRIU may take to check the kernel.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

impl Criu {
    /// Looks for CRIU along PATH and lets it check this kernel.
    pub async fn probe() -> Self {
        let Some(binary) = find_program("criu", std::env::var_os("PATH").as_deref()) else {
            return Self::Missing;
        };
        let Some(version) = ask(&binary, "--version").await else { return Self::Missing };
        let version = first_line(&version.stdout).replace("Version:", "CRIU");
        match ask(&binary, "check").await {
            Some(Completed { end: ProcessEnd::Exited(0), .. }) => Self::Works { version },
            Some(done) => Self::Fails { version, why: first_line(&done.stderr) },
            None => Self::Fails { version, why: "`criu check` did not end".into() },
        }
    }
}

async fn ask(binary: &Path, command: &str) -> Option<Completed> {
    let invocation = Invocation {
        program: binary,
        args: vec![command.into()],
        streams: Streams::Captured,
        limit: CHECK_LIMIT,
    };
    process::run(invocation).await.ok()
}

fn first_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).lines().next().unwrap_or_default().trim().to_owned()
}
