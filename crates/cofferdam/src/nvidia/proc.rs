//! The driver's account in /proc.

use std::collections::BTreeMap;

use super::DriverRoot;
use crate::gpu::{DriverVersion, Gpu, parse_driver_version};

/// The driver's version.
pub(super) const VERSION: &str = "/proc/driver/nvidia/version";
/// A directory for each GPU, by its address on the bus.
const GPUS: &str = "/proc/driver/nvidia/gpus";

pub(super) fn driver(root: &DriverRoot) -> Option<DriverVersion> {
    parse_driver_version(&std::fs::read_to_string(root.in_proc(VERSION)).ok()?)
}

/// The GPUs that are not excluded, in the order of the bus, which is the order of `nvidia-smi`.
pub(super) fn gpus(root: &DriverRoot) -> Vec<Gpu> {
    let mut entries: Vec<_> = std::fs::read_dir(root.in_proc(GPUS)).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let texts =
        entries.iter().filter_map(|entry| std::fs::read_to_string(entry.path().join("information")).ok());
    let mut gpus: Vec<Gpu> = texts.filter_map(|text| parse_information(&text)).collect();
    for (index, gpu) in (0..).zip(&mut gpus) {
        gpu.index = index;
    }
    gpus
}

/// Whether the driver knows a UUID already. Of a GPU that was not used since its driver was loaded, it has question
/// marks.
pub(super) fn is_known(uuid: &str) -> bool {
    uuid.starts_with("GPU-") && !uuid.contains('?')
}

/// Reads a GPU from its `information`; `None` for one that is excluded, or where a part is missing. Its index is not in
/// it.
#[must_use]
pub fn parse_information(text: &str) -> Option<Gpu> {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    if fields.get("GPU Excluded").is_some_and(|excluded| *excluded == "Yes") {
        return None;
    }
    let field = |key: &str| fields.get(key).map(|&value| value.to_owned());
    Some(Gpu {
        index: 0,
        minor: field("Device Minor")?.parse().ok()?,
        uuid: field("GPU UUID")?,
        model: field("Model")?,
        bus: field("Bus Location")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an H100's driver 550 has it.
    const INFORMATION: &str = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 180\n\
        GPU UUID: \t GPU-5d1b2c3a-0f4e-9a77-1234-56789abcdef0\nVideo BIOS: \t 96.00.5e.00.01\n\
        Bus Type: \t PCIe\nDMA Size: \t 52 bits\nDMA Mask: \t 0xfffffffffffff\nBus Location: \t 0000:19:00.0\n\
        Device Minor: \t 3\nGPU Firmware: \t 550.90.07\nGPU Excluded:\t No\n";

    #[test]
    fn a_gpu_is_read_from_its_information() {
        let gpu = parse_information(INFORMATION).unwrap();
        assert_eq!((gpu.minor, gpu.bus.as_str()), (3, "0000:19:00.0"));
        assert_eq!(
            (gpu.uuid.as_str(), gpu.model.as_str()),
            ("GPU-5d1b2c3a-0f4e-9a77-1234-56789abcdef0", "NVIDIA H100 80GB HBM3")
        );
        assert!(is_known(&gpu.uuid) && !is_known("GPU-????????-????-????-????-????????????"));
        assert_eq!(parse_information(&INFORMATION.replace("Excluded:\t No", "Excluded:\t Yes")), None);
        for text in
            ["", "Model: x", "Device Minor: 3", "Device Minor: x\nGPU UUID: y\nModel: z\nBus Location: a"]
        {
            assert_eq!(parse_information(text), None, "{text}");
        }
    }

    #[test]
    fn gpus_are_counted_in_the_order_of_the_bus() {
        let directory = tempfile::tempdir().unwrap();
        let root = DriverRoot::new(directory.path());
        assert!(driver(&root).is_none() && gpus(&root).is_empty());
        for (bus, minor, excluded) in
            [("0000:3b:00.0", 1, "No"), ("0000:19:00.0", 0, "Yes"), ("0000:1a:00.0", 2, "No")]
        {
            let folder = root.join(GPUS).join(bus);
            std::fs::create_dir_all(&folder).unwrap();
            let text = INFORMATION
                .replace("Minor: \t 3", &format!("Minor: \t {minor}"))
                .replace("0000:19:00.0", bus)
                .replace("Excluded:\t No", &format!("Excluded:\t {excluded}"));
            std::fs::write(folder.join("information"), text).unwrap();
        }
        let found: Vec<_> = gpus(&root).into_iter().map(|gpu| (gpu.index, gpu.minor, gpu.bus)).collect();
        assert_eq!(found, [(0, 2, "0000:1a:00.0".to_owned()), (1, 1, "0000:3b:00.0".to_owned())]);
    }
}
