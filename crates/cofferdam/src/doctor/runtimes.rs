//! The runtimes' part: what is installed, how old it is, and whether it really runs a container here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Check, Verdict};
use crate::engine::{Engine, Found, RuntimeProbe};
use crate::error::{Diagnose, Failure};
use crate::exit::{Cause, format_duration};
use crate::launch::LaunchError;
use crate::request::{LaunchRequest, Source};
use crate::runtime::{Features, RuntimeConfig, RuntimeKind, RuntimeVersion};
use crate::supervise::stdio::StdioPlan;

/// How long a runtime may take to start the trial. A platform that does not work here (KVM in some VMs) hangs.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);
/// What of the host the trial container sees, to have something to run: read-only.
const BORROWED: [&str; 5] = ["/bin", "/lib", "/lib64", "/usr", "/sbin"];

/// The first releases of runc without the escapes of November 2025 (CVE-2025-31133, -52565, -52881), by series.
const RUNC_SAFE: [RuntimeVersion; 3] =
    [RuntimeVersion::Numbered(1, 2, 8), RuntimeVersion::Numbered(1, 3, 3), RuntimeVersion::Numbered(1, 4, 0)];
/// The first release of runsc whose network works on kernels since 6.7.
const RUNSC_NETWORK: RuntimeVersion = RuntimeVersion::Dated(20_240_807);

/// Judges what is installed.
pub(super) fn installed(probes: &[RuntimeProbe]) -> Vec<Check> {
    probes.iter().map(judge).collect()
}

fn judge(probe: &RuntimeProbe) -> Check {
    let subject = probe.choice.as_str();
    match &probe.found {
        Found::Missing { failure } => {
            let check =
                Check::limited(subject, "not installed", failure.next.as_deref().unwrap_or("install it"));
            if is_optional(subject) { Check { verdict: Verdict::Good, mend: None, ..check } } else { check }
        }
        Found::Unusable { binary, failure } => {
            let mend = failure.next.as_deref().unwrap_or("install it anew");
            Check::bad(subject, format!("{}: {failure}", binary.display()), mend)
        }
        Found::Here { config, features } => judge_version(subject, &config.binary, features),
    }
}

/// crun and youki are other ways to do what runc does.
fn is_optional(choice: &str) -> bool {
    [RuntimeKind::Crun, RuntimeKind::Youki].iter().any(|kind| kind.binary_name() == choice)
}

fn judge_version(subject: &str, binary: &Path, features: &Features) -> Check {
    let found = format!("{} ({})", features.version_line, binary.display());
    match features.kind {
        RuntimeKind::Runc if is_old_runc(&features.version) => Check::limited(
            subject,
            format!("{found} is older than the mends of CVE-2025-31133, -52565 and -52881"),
            "see whether your distribution has put them in; else install runc 1.2.8, 1.3.3, 1.4.0 or newer",
        ),
        RuntimeKind::Runsc if features.kernel.mistakes_namespaces_for_root => Check::limited(
            subject,
            format!("{found} cannot use network namespaces on this kernel, only --network none or host"),
            "install release 20240807 or newer: https://gvisor.dev/docs/user_guide/install/",
        ),
        RuntimeKind::Runsc if features.version.at_least(&RUNSC_NETWORK) == Some(false) => Check::limited(
            subject,
            format!("{found} is from before August 2024: no way to update limits, few GPU drivers"),
            "install a newer one: https://gvisor.dev/docs/user_guide/install/",
        ),
        _ => Check::good(subject, found),
    }
}

/// Older than the safe release of its own series, or of a series before all of them.
fn is_old_runc(version: &RuntimeVersion) -> bool {
    let RuntimeVersion::Numbered(major, minor, _) = version else { return false };
    let series = RUNC_SAFE
        .iter()
        .find(|safe| matches!(safe, RuntimeVersion::Numbered(a, b, _) if (a, b) == (major, minor)));
    version.at_least(series.unwrap_or(&RUNC_SAFE[0])) == Some(false)
}

/// Runs a short container under each runtime that is installed, and under each platform of gVisor.
pub(super) async fn try_all(engine: &Engine, probes: &[RuntimeProbe]) -> Vec<Check> {
    let mut checks = Vec::new();
    for probe in probes {
        let Found::Here { config, features } = &probe.found else { continue };
        let mut platforms: Vec<Option<&str>> = vec![None];
        if features.kind == RuntimeKind::Runsc {
            platforms.extend(platforms_to_try(&features.version).map(Some));
        }
        for platform in platforms {
            let config = RuntimeConfig {
                platform: platform.map(str::to_owned),
                start_limit: TRIAL_LIMIT,
                ..config.clone()
            };
            checks.push(attempt(engine, &probe.choice, config).await);
        }
    }
    checks
}

/// gVisor's platforms that this host may have; the default one is tried without a name.
fn platforms_to_try(version: &RuntimeVersion) -> impl Iterator<Item = &'static str> {
    // systrap came in February 2023.
    let systrap = version.at_least(&RuntimeVersion::Dated(20_230_222)) != Some(false);
    [("systrap", systrap), ("kvm", Path::new("/dev/kvm").exists())]
        .into_iter()
        .filter_map(|(name, possible)| possible.then_some(name))
}

async fn attempt(engine: &Engine, choice: &str, config: RuntimeConfig) -> Check {
    let platform = config.platform.clone();
    let subject = match &platform {
        Some(platform) => format!("{choice} on {platform}"),
        None => format!("{choice} runs"),
    };
    let began = Instant::now();
    let (failure, next) = match trial(engine, config).await {
        Ok(Cause::Exited { code: 0 }) => {
            let took = Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            return Check::good(
                &subject,
                format!("a container ran and was removed in {}", format_duration(took)),
            );
        }
        Ok(cause) => (format!("a container that should exit 0 {cause}"), None),
        Err(failure) => (failure.to_string(), failure.next),
    };
    let next = next.unwrap_or_else(|| "run with --log-level debug to see each call of the runtime".into());
    match platform {
        // One platform that does not work here is no harm as long as the default does.
        Some(platform) => {
            Check::limited(&subject, failure, &format!("do not use --gvisor-platform {platform} here"))
        }
        None if is_optional(choice) => Check::limited(&subject, failure, &next),
        None => Check::bad(&subject, failure, &next),
    }
}

/// Runs `true` of the host in a container.
async fn trial(engine: &Engine, config: RuntimeConfig) -> Result<Cause, Failure> {
    let rootfs =
        TrialRoot::make(engine.state().path()).map_err(|error| Failure::of(&LaunchError::from(error)))?;
    let mut request = LaunchRequest::new(Source::Rootfs { path: rootfs.0.clone() });
    request.args = vec!["/usr/bin/true".into()];
    request.remove = true;
    request.timeout_ms = u64::try_from(TRIAL_LIMIT.as_millis()).ok();
    let here = BORROWED.iter().filter(|path| Path::new(path).is_dir());
    request.mounts = here.map(|path| format!("{path}:{path}:ro")).collect();
    let run = async {
        let launcher = engine.launcher(config).await?;
        let prepared = launcher.prepare(request)?;
        launcher.run(prepared, StdioPlan::discard(), std::future::pending()).await?.wait().await
    };
    let report = run.await.map_err(|error| flat(&error))?;
    match report.cleanup.into_iter().next() {
        Some(left) => Err(left),
        None => Ok(report.cause),
    }
}

fn flat(error: &impl Diagnose) -> Failure {
    Failure::of(error)
}

/// An empty directory that is the trial's root filesystem. Goes with it.
#[derive(Debug)]
struct TrialRoot(PathBuf);

impl TrialRoot {
    fn make(state: &Path) -> Result<Self, crate::state::StateError> {
        let path = state.join("cache").join(format!("trial-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|source| crate::state::StateError::File {
            path: path.clone(),
            what: "made",
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for TrialRoot {
    fn drop(&mut self) {
        // The runtime made empty directories in it, to mount on.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_series_of_runc_has_its_safe_release() {
        let old = |major, minor, patch| is_old_runc(&RuntimeVersion::Numbered(major, minor, patch));
        assert!(old(1, 1, 5) && old(1, 1, 15) && old(1, 2, 7) && old(1, 3, 2));
        assert!(!old(1, 2, 8) && !old(1, 3, 3) && !old(1, 4, 0) && !old(1, 5, 0) && !old(2, 0, 0));
        assert!(!is_old_runc(&RuntimeVersion::Unknown));
    }

    #[test]
    fn a_missing_crun_is_no_fault_and_a_missing_runsc_is() {
        let probe = |choice: &str| RuntimeProbe {
            choice: choice.into(),
            found: Found::Missing {
                failure: Failure {
                    code: crate::error::Code::RuntimeMissing,
                    what: "x".into(),
                    why: vec![],
                    next: Some("apt".into()),
                },
            },
        };
        assert_eq!(judge(&probe("crun")).verdict, Verdict::Good);
        assert_eq!(judge(&probe("runsc")).verdict, Verdict::Limited);
    }
}
