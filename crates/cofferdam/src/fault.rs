//! Named steps of the lifecycle at which a test can make things go wrong.
//!
//! Without the feature `failpoints` nothing of this is compiled but an `Ok(())`. With it, the environment variable
//! `FAILPOINTS` says what happens at a step: `launch.bundle=return(error)` makes it fail, `launch.made=return(kill)`
//! kills this process there, as SIGKILL from outside would.

use crate::error::{Code, Diagnose, Failure};

/// A step that a test has made fail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a test made the step {0} fail")]
pub struct Fault(pub(crate) &'static str);

/// Keeps the plan of faults that the environment gives, for as long as it lives.
#[must_use = "the faults are forgotten when it is dropped"]
pub struct Armed {
    #[cfg(feature = "failpoints")]
    _scenario: fail::FailScenario<'static>,
}

impl Diagnose for Fault {
    fn code(&self) -> Code {
        Code::Internal
    }

    fn next_step(&self) -> Option<String> {
        None
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::of(&fault)
    }
}

/// Reads the plan of faults from the environment; a program under test calls it first. Does nothing without the
/// feature `failpoints`.
pub fn arm() -> Armed {
    Armed {
        #[cfg(feature = "failpoints")]
        _scenario: fail::FailScenario::setup(),
    }
}

impl std::fmt::Debug for Armed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Armed")
    }
}

/// The steps of every `run`, in the order in which a container passes them.
pub const STEPS: [&str; 12] = [
    "launch.folder",
    "launch.name",
    "launch.rootfs",
    "launch.bundle",
    "launch.record",
    "launch.socket",
    "launch.made",
    "launch.claimed",
    "end.report",
    "end.reported",
    "end.cleared",
    "end.deleted",
];

/// Steps that a container passes only when somebody asks for them, or when its supervisor has died.
pub const OTHER_STEPS: [&str; 12] = [
    "launch.network",
    "runtime.called",
    "restart.reported",
    "restart.cleared",
    "start.called",
    "exec.made",
    "adopt.found",
    "adopt.recorded",
    "orphan.reported",
    "orphan.cleared",
    "remove.locked",
    "remove.volumes",
];

/// Steps of each piece of output of a container in the background.
pub const OUTPUT_STEPS: [&str; 3] = ["output.read", "output.logged", "output.taken"];

/// Says that a step has been reached.
#[cfg_attr(
    not(feature = "failpoints"),
    expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")
)]
pub(crate) fn reached(step: &'static str) -> Result<(), Fault> {
    debug_assert!(
        [&STEPS[..], &OTHER_STEPS, &OUTPUT_STEPS].iter().any(|steps| steps.contains(&step)),
        "{step} is missing from the list"
    );
    fail::fail_point!(step, |action| {
        if action.as_deref() == Some("kill") {
            // Nothing may be unmade on the way out, as when the process is killed from outside.
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        }
        if action.as_deref() == Some("stop") {
            // For whoever wants to kill another process at just this step. It goes on when it is continued.
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::STOP);
            return Ok(());
        }
        Err(Fault(step))
    });
    Ok(())
}

/// A step after which nothing can fail, but a test can kill.
pub(crate) fn passed(step: &'static str) {
    if let Err(error) = reached(step) {
        tracing::debug!(%error, "a test");
    }
}
