//! NVML, the driver's library, loaded when it is needed.

use std::ffi::OsStr;
use std::sync::mpsc;
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::{DriverRoot, proc};
use crate::gpu::Gpu;

/// The library's name at run time; the one without a number comes with development packages only.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// What NVML says of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    bus: String,
    uuid: String,
}

/// Fills in the UUIDs that the driver's files do not know yet.
///
/// # Errors
/// Why NVML cannot be asked, or that it did not answer in time.
pub(super) fn complete(root: &DriverRoot, gpus: &mut [Gpu], limit: Duration) -> Result<(), String> {
    let root = root.clone();
    let told = within(limit, move || {
        let nvml = open(&root)?;
        let count = nvml.device_count()?;
        let told = |index: u32| {
            let device = nvml.device_by_index(index)?;
            Ok(Told { bus: device.pci_info()?.bus_id, uuid: device.uuid()? })
        };
        (0..count).map(told).collect::<Result<Vec<Told>, NvmlError>>()
    })?;
    fill_in(gpus, &told)
}

/// Loads the library. Blocks.
pub(super) fn open(root: &DriverRoot) -> Result<Nvml, NvmlError> {
    let library = if root.is_host() { LIBRARY.into() } else { library_below(root) };
    Nvml::builder().lib_path(OsStr::new(&library)).init()
}

fn library_below(root: &DriverRoot) -> std::path::PathBuf {
    let directories = super::LibraryDirectories::of(root);
    directories.find(LIBRARY).unwrap_or_else(|| LIBRARY.into())
}

/// Asks in a thread of its own, which is left alone when it takes too long: nothing can end a call of the library's.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> Result<T, NvmlError> + Send + 'static,
) -> Result<T, String> {
    let (sender, answer) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(ask())));
    match answer.recv_timeout(limit) {
        Ok(told) => told.map_err(|error| format!("NVML: {error}")),
        Err(_) => Err(format!("NVML did not answer within {limit:?}; does `nvidia-smi` hang too?")),
    }
}

fn fill_in(gpus: &mut [Gpu], told: &[Told]) -> Result<(), String> {
    for gpu in gpus.iter_mut().filter(|gpu| !proc::is_known(&gpu.uuid)) {
        let found = told.iter().find(|told| same_bus(&told.bus, &gpu.bus));
        gpu.uuid = found.ok_or_else(|| format!("NVML knows no GPU at {}", gpu.bus))?.uuid.clone();
    }
    Ok(())
}

/// The kernel writes the domain of an address with four digits, NVML with eight.
fn same_bus(one: &str, other: &str) -> bool {
    let parts = |address: &str| -> Option<Vec<u32>> {
        let numbers = address.split([':', '.']).map(|part| u32::from_str_radix(part, 16).ok());
        numbers.collect::<Option<Vec<_>>>().filter(|numbers| numbers.len() == 4)
    };
    parts(one).is_some_and(|one| parts(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use cofferdam_testkit::gpu_host::{DRIVER, GpuHost};

    use super::*;
    use crate::gpu::choice_tests::gpus;

    #[test]
    fn what_the_kernel_does_not_know_yet_is_filled_in() {
        let mut all = gpus(2);
        all[1].uuid = "GPU-????????-????-????-????-????????????".into();
        let told = |bus: &str| Told { bus: bus.into(), uuid: "GPU-x".into() };
        fill_in(&mut all, &[told("00000000:00:00.0"), told("00000000:01:00.0")]).unwrap();
        assert_eq!((all[0].uuid.starts_with("GPU-00000000"), all[1].uuid.as_str()), (true, "GPU-x"));
        all[1].uuid = "GPU-?".into();
        assert!(fill_in(&mut all, &[told("00000001:01:00.0")]).unwrap_err().contains("0000:01:00.0"));
        assert!(same_bus("00000000:0A:00.0", "0000:0a:00.0") && !same_bus("x", "x"));
    }

    #[test]
    fn the_library_of_a_root_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 2, DRIVER);
        host.add_nvml(2);
        let root = DriverRoot::new(host.root());
        let mut all = root.inventory().unwrap().gpus;
        all[1].uuid = "GPU-????????-????-????-????-????????????".into();
        complete(&root, &mut all, Duration::from_secs(10)).unwrap();
        assert_eq!(all[1].uuid, GpuHost::uuid(1));
        host.add_process(1, 4711, 1 << 30);
        let readings = super::super::read_gpus(&root).unwrap();
        assert_eq!(readings[0].processes, []);
        let expected = super::super::GpuReading {
            uuid: GpuHost::uuid(1),
            utilization_percent: Some(40),
            memory_total_bytes: Some(80 << 30),
            power_mw: Some(75_000),
            processes: vec![(4711, Some(1 << 30))],
        };
        assert_eq!(readings[1], expected);
    }

    #[test]
    fn a_library_that_hangs_or_is_missing_is_an_error() {
        let (_sender, never) = mpsc::channel::<()>();
        let hangs = within(Duration::from_millis(1), move || {
            let _ = never.recv();
            Ok(())
        });
        assert!(hangs.unwrap_err().contains("did not answer"));
        let directory = tempfile::tempdir().unwrap();
        let mut all = gpus(1);
        all[0].uuid = "GPU-?".into();
        let error = complete(&DriverRoot::new(directory.path()), &mut all, Duration::from_secs(10));
        assert!(error.unwrap_err().starts_with("NVML: "), "there is none here");
    }
}
