//! GPUs: whether those that are here can be given, under each runtime.

use std::path::{Path, PathBuf};

use super::Check;
use crate::cdi::{CdiError, Registry};
use crate::engine::{Found, RuntimeProbe};
use crate::error::Failure;
use crate::gpu::{DriverVersion, Verdict, look_up};
use crate::host::HostFacts;
use crate::nvidia::{DriverRoot, Inventory};
use crate::runtime::{Features, RuntimeKind};

const SUBJECT: &str = "GPU driver";
/// What CUDA opens besides the GPUs.
const NODES: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];

/// Looks at the driver, the devices' descriptions, and what each runsc says of the driver.
pub(super) fn examine(
    root: &DriverRoot,
    directories: &[PathBuf],
    probes: &[RuntimeProbe],
    host: &HostFacts,
) -> Vec<Check> {
    let inventory = match root.inventory() {
        Ok(inventory) => inventory,
        Err(_) if !root.has_driver() => return vec![Check::good(SUBJECT, "no NVIDIA driver is loaded")],
        Err(error) => {
            let mend = "see whether `nvidia-smi` answers; restart the host if it hangs";
            return vec![Check::bad(SUBJECT, Failure::of(&error).to_string(), mend)];
        }
    };
    let found = format!("NVIDIA driver {}, GPUs: {}", inventory.driver, inventory.gpus.len());
    let mut checks = vec![
        Check::good(SUBJECT, found),
        nodes(root, &inventory),
        descriptions(root, directories, &inventory),
    ];
    let here = probes.iter().filter_map(|probe| match &probe.found {
        Found::Here { features, .. } if features.kind == RuntimeKind::Runsc => Some(features),
        _ => None,
    });
    checks.extend(here.map(|features| nvproxy(&inventory.driver, features)));
    checks.extend(links(root, &inventory, host));
    checks
}

fn nodes(root: &DriverRoot, inventory: &Inventory) -> Check {
    let subject = "GPU device nodes";
    let own = inventory.gpus.iter().map(|gpu| format!("/dev/nvidia{}", gpu.minor));
    let all: Vec<String> = NODES.map(str::to_owned).into_iter().chain(own).collect();
    let missing: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|path| !root.join(path).exists() && !Path::new(path).exists())
        .collect();
    if missing.is_empty() {
        return Check::good(subject, format!("{} are there", all.len()));
    }
    Check::bad(subject, format!("missing: {}", missing.join(", ")), "nvidia-modprobe -u -c 0; nvidia-smi")
}

fn descriptions(root: &DriverRoot, directories: &[PathBuf], inventory: &Inventory) -> Check {
    let subject = "CDI descriptions";
    let (registry, is_own) = match Registry::of_host(directories, root, Some(inventory)) {
        Ok(found) => found,
        Err(error) => return Check::bad(subject, error.to_string(), "please report it"),
    };
    let names: Vec<String> = registry.list().into_iter().map(|listed| listed.device).collect();
    let driver = Some(&inventory.driver);
    let unusable = names.iter().filter_map(|name| registry.resolve_for(name, driver).err());
    let problems: Vec<String> = registry
        .problems
        .iter()
        .map(CdiError::in_full)
        .chain(unusable.map(|error| error.in_full()))
        .collect();
    match problems.first() {
        Some(problem) => {
            let mend = "cofferdam cdi check; cofferdam cdi generate --output /etc/cdi/nvidia.yaml";
            Check::limited(subject, format!("{problem} ({} problems)", problems.len()), mend)
        }
        None if is_own => Check::good(subject, "no file describes GPUs: cofferdam describes them itself"),
        None => Check::good(subject, format!("{} devices", names.len())),
    }
}

fn nvproxy(driver: &DriverVersion, features: &Features) -> Check {
    let subject = "nvproxy";
    let title = features.title();
    let mend = "install a runsc that lists it, or use --runtime runc for GPUs (cofferdam explain E0303)";
    if !features.has_flag("nvproxy") {
        return Check::limited(subject, format!("{title} has none: it cannot give GPUs"), mend);
    }
    match look_up(driver, &features.nvidia_drivers) {
        Verdict::Listed => Check::good(subject, format!("{title} knows the driver {driver}")),
        Verdict::SameBranch(nearest) | Verdict::OtherBranch(nearest) => {
            let finding = format!("{title} does not know the driver {driver}; the nearest is {nearest}");
            Check::limited(subject, finding, mend)
        }
        Verdict::NoList => {
            Check::limited(subject, format!("{title} does not say which drivers it knows"), mend)
        }
    }
}

/// systemd finds a device by its number in /dev/char when it writes a scope's rules again (`systemctl daemon-reload`):
/// one without a link there is lost to the container (NVIDIA/nvidia-container-toolkit#48).
fn links(root: &DriverRoot, inventory: &Inventory, host: &HostFacts) -> Option<Check> {
    let subject = "GPU links for systemd";
    let gpu = inventory.gpus.first().filter(|_| host.systemd)?;
    let node = std::fs::metadata(root.join(&format!("/dev/nvidia{}", gpu.minor))).ok()?;
    let number = std::os::unix::fs::MetadataExt::rdev(&node);
    let link = format!("/dev/char/{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    if root.join(&link).exists() {
        return Some(Check::good(subject, format!("{link} is there")));
    }
    let mend = "nvidia-ctk system create-dev-char-symlinks --create-all";
    let finding = format!(
        "{link} is missing: with --cgroup-manager systemd, containers lose GPUs at `systemctl daemon-reload`"
    );
    Some(Check::limited(subject, finding, mend))
}

#[cfg(test)]
mod tests {
    use cofferdam_testkit::gpu_host::{DRIVER, GpuHost};

    use super::*;
    use crate::doctor::Verdict as Judged;

    fn checks(root: &std::path::Path, systemd: bool) -> Vec<(String, Judged, String)> {
        let host = HostFacts { systemd, ..HostFacts::probe() };
        let checks = examine(&DriverRoot::new(root), &[root.join("etc/cdi")], &[], &host);
        checks.into_iter().map(|check| (check.subject, check.verdict, check.finding)).collect()
    }

    #[test]
    fn a_host_with_gpus_is_looked_at_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(checks(directory.path(), true)[0].2, "no NVIDIA driver is loaded");
        let host = GpuHost::new(directory.path(), 2, DRIVER);
        let good = checks(host.root(), false);
        assert_eq!(good[0].2, format!("NVIDIA driver {DRIVER}, GPUs: 2"));
        assert!(good.iter().all(|(_, verdict, _)| *verdict == Judged::Good) && good.len() == 3, "{good:?}");
        std::fs::remove_file(host.root().join("dev/nvidia1")).unwrap();
        let bad = checks(host.root(), true);
        assert_eq!((bad[1].1, bad[1].2.as_str()), (Judged::Bad, "missing: /dev/nvidia1"));
        assert_eq!(bad[2].1, Judged::Limited, "its description needs it: {bad:?}");
        assert!(bad[3].2.contains("/dev/char/1:3 is missing"), "{bad:?}");
    }
}
