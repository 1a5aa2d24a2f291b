//! What GPUs do now, and what of that is a container's.
//!
//! NVML counts by processes of the host. Of a sandbox that is the sandbox itself, so that all that its guest uses is its.

use nvml_wrapper::enums::device::UsedGpuMemory;
use serde::{Deserialize, Serialize};

use super::DriverRoot;
use super::nvml::{open, within};
use crate::gpu::Gpu;

/// How long NVML may take for a reading. The GPUs that are read are in use, and awake.
const READING_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// What one GPU does now. What the driver does not count on this model is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuReading {
    /// Its UUID.
    pub uuid: String,
    /// Per cent of the last moments in which something ran on it.
    pub utilization_percent: Option<u32>,
    /// Its memory, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// The power that it draws, in milliwatts.
    pub power_mw: Option<u32>,
    /// The processes on it, by their pids on the host, with the memory of each in bytes.
    pub processes: Vec<(i32, Option<u64>)>,
}

/// What a container uses of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuUsage {
    /// Its number as `nvidia-smi` counts.
    pub index: u32,
    /// Its UUID.
    pub uuid: String,
    /// Per cent of the last moments in which something ran on it, of whomever.
    pub utilization_percent: Option<u32>,
    /// The memory that the container's processes have, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// The GPU's memory, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// The power that it draws, in milliwatts.
    pub power_mw: Option<u32>,
}

/// Reads all GPUs. Blocks for at most five seconds.
///
/// # Errors
/// Why NVML cannot be asked.
pub fn read_gpus(root: &DriverRoot) -> Result<Vec<GpuReading>, String> {
    let root = root.clone();
    within(READING_LIMIT, move || {
        let nvml = open(&root)?;
        let reading = |index: u32| {
            let device = nvml.device_by_index(index)?;
            let of_compute = device.running_compute_processes().unwrap_or_default();
            let of_graphics = device.running_graphics_processes().unwrap_or_default();
            let process = |process: nvml_wrapper::struct_wrappers::device::ProcessInfo| {
                let used = match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                };
                Some((i32::try_from(process.pid).ok()?, used))
            };
            Ok(GpuReading {
                uuid: device.uuid()?,
                utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
                memory_total_bytes: device.memory_info().ok().map(|memory| memory.total),
                power_mw: device.power_usage().ok(),
                processes: of_compute.into_iter().chain(of_graphics).filter_map(process).collect(),
            })
        };
        (0..nvml.device_count()?).map(reading).collect()
    })
}

/// What of a reading is a container's, which has these GPUs, and the processes for which `is_own` says so.
pub(crate) fn usage_of(gpus: &[Gpu], readings: &[GpuReading], is_own: impl Fn(i32) -> bool) -> Vec<GpuUsage> {
    let usage = |gpu: &Gpu| {
        let reading = readings.iter().find(|reading| reading.uuid == gpu.uuid)?;
        let own = reading.processes.iter().filter(|(pid, _)| is_own(*pid));
        // A process may do both, compute and graphics, and is listed twice with the same memory then.
        let own: std::collections::BTreeMap<i32, Option<u64>> = own.copied().collect();
        Some(GpuUsage {
            index: gpu.index,
            uuid: gpu.uuid.clone(),
            utilization_percent: reading.utilization_percent,
            memory_used_bytes: own.values().copied().sum(),
            memory_total_bytes: reading.memory_total_bytes,
            power_mw: reading.power_mw,
        })
    };
    gpus.iter().filter_map(usage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::choice_tests::gpus;

    #[test]
    fn a_container_has_the_memory_of_its_processes() {
        let all = gpus(2);
        let reading = |gpu: &Gpu, processes: &[(i32, Option<u64>)]| GpuReading {
            uuid: gpu.uuid.clone(),
            utilization_percent: Some(40),
            memory_total_bytes: Some(80 << 30),
            power_mw: None,
            processes: processes.to_vec(),
        };
        let readings = [
            reading(&all[0], &[(10, Some(5)), (11, Some(7)), (10, Some(5)), (99, Some(1000))]),
            reading(&all[1], &[(10, None)]),
        ];
        let usage = usage_of(&all, &readings, |pid| pid < 20);
        assert_eq!(usage.iter().map(|gpu| gpu.memory_used_bytes).collect::<Vec<_>>(), [Some(12), None]);
        assert_eq!((usage[0].index, usage[0].utilization_percent), (0, Some(40)));
        assert_eq!(usage_of(&all[..1], &readings, |_| false)[0].memory_used_bytes, Some(0));
        assert!(usage_of(&all, &[], |_| true).is_empty(), "nobody has read them");
    }
}
