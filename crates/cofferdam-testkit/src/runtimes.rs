//! The runtimes that tests run against: those of the machine, and those that `cargo xtask test` fetches or builds.

use std::fmt;
use std::path::{Path, PathBuf};

/// Release of runsc in Debian 12 itself: ptrace, no nvproxy, the oldest that is supported.
pub const RUNSC_OLDEST: &str = "20221219";
/// Release of runsc in Debian 12's backports: systrap, nvproxy.
pub const RUNSC_DEBIAN: &str = "20240729";

/// A runtime to test against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The machine's runc.
    Runc,
    /// The machine's crun.
    Crun,
    /// runsc of this release, from `target/runtimes/RELEASE/runsc`.
    Runsc(&'static str),
    /// runsc of today, as `cargo xtask runsc` builds it.
    RunscHead,
    /// The fake runtime, which stands in for runc.
    Fake,
    /// A binary by path.
    Custom(PathBuf),
}

/// All that the conformance suite runs against, the reference first.
pub const CONFORMANCE: [Choice; 6] = [
    Choice::Runc,
    Choice::Crun,
    Choice::Runsc(RUNSC_DEBIAN),
    Choice::RunscHead,
    Choice::Runsc(RUNSC_OLDEST),
    Choice::Fake,
];

impl Choice {
    /// Its binary, if it is here.
    #[must_use]
    pub fn binary(&self) -> Option<PathBuf> {
        let candidates: Vec<PathBuf> = match self {
            Self::Runc => in_sbin("runc"),
            Self::Crun => in_sbin("crun"),
            Self::Runsc(release) => vec![fetched(release)],
            Self::RunscHead => vec![fetched("head")],
            Self::Fake => vec![crate::fake::binary()],
            Self::Custom(path) => vec![path.clone()],
        };
        candidates.into_iter().find(|path| path.is_file())
    }

    /// Whether it can run containers here at all.
    #[must_use]
    pub fn suits_this_machine(&self) -> bool {
        match self {
            // It refuses controllers on v1 and v2 at once.
            Self::Crun => !v2_beside_v1_has_controllers(),
            _ => true,
        }
    }

    /// Whether it is a gVisor.
    #[must_use]
    pub fn is_gvisor(&self) -> bool {
        matches!(self, Self::Runsc(_) | Self::RunscHead)
    }

    /// Whether a container of it is isolated, limited and seen by the kernel as one.
    #[must_use]
    pub fn is_real(&self) -> bool {
        !matches!(self, Self::Fake)
    }

    /// Whether it takes part in a network namespace on this kernel.
    #[must_use]
    pub fn joins_namespaces(&self) -> bool {
        // Before 20240807, runsc takes every namespace for the host's own on kernels that show net.core.rmem_default
        // in all of them; this test's machine is asked in the library's own probe.
        !matches!(self, Self::Runsc(_) | Self::Fake)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runc => f.write_str("runc"),
            Self::Crun => f.write_str("crun"),
            Self::Runsc(release) => write!(f, "runsc-{release}"),
            Self::RunscHead => f.write_str("runsc-head"),
            Self::Fake => f.write_str("fake"),
            Self::Custom(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where `cargo xtask test` and `cargo xtask runsc` put runtimes: `target/runtimes/NAME/runsc`.
#[must_use]
pub fn fetched(name: &str) -> PathBuf {
    workspace().join("target/runtimes").join(name).join("runsc")
}

/// Where `cargo xtask test` puts a program of NVIDIA's container toolkit.
#[must_use]
pub fn nvidia_toolkit(program: &str) -> PathBuf {
    workspace().join("target/runtimes/nvidia-container-toolkit").join(program)
}

/// The workspace's directory.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn in_sbin(name: &str) -> Vec<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .collect()
}

fn v2_beside_v1_has_controllers() -> bool {
    let controllers =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    !controllers.trim().is_empty()
}
