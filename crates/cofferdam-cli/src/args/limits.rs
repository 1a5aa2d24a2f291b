//! The options that limit what a container may use.

use std::time::Duration;

use clap::Args;
use cofferdam::request::{LimitRequest, Limits, ResourceRequest};

use super::{duration, millis};
use crate::output::CliError;

/// Limits that can be changed while it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Memory, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Memory and swap together; -1 for no limit [default: twice --memory]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory_swap: Option<String>,
    /// CPU time, in CPUs, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Weight against others when CPUs are short [default: 1024]
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// CPUs that it may run on, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that it may have memory of
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
}

/// Limits that are set at its making, and how they are enforced.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct ResourceArgs {
    /// Tell by an event when so much memory is in use: 90% of the limit, or a size
    #[arg(long, value_name = "THRESHOLD")]
    memory_warn: Option<String>,
    /// What is killed when memory runs out: group (all of it) or single (one process) [default: group on cgroup v2]
    #[arg(long, value_name = "WHAT")]
    oom_kill: Option<String>,
    /// Let it have all CPUs for this time after its start; --cpus holds from then on
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cpu_boost: Option<Duration>,
    /// Limit how many bytes a second are read from a device
    #[arg(long, value_name = "DEVICE:SIZE")]
    device_read_bps: Vec<String>,
    /// Limit how many bytes a second are written to a device
    #[arg(long, value_name = "DEVICE:SIZE")]
    device_write_bps: Vec<String>,
    /// Limit how many reads a second a device gets
    #[arg(long, value_name = "DEVICE:NUMBER")]
    device_read_iops: Vec<String>,
    /// Limit how many writes a second a device gets
    #[arg(long, value_name = "DEVICE:NUMBER")]
    device_write_iops: Vec<String>,
    /// Limit huge pages of a size, such as 2MB=64m
    #[arg(long, value_name = "PAGESIZE=SIZE")]
    hugetlb_limit: Vec<String>,
}

impl LimitArgs {
    pub(crate) fn request(&self) -> LimitRequest {
        LimitRequest {
            memory: self.memory.clone(),
            memory_swap: self.memory_swap.clone(),
            cpus: self.cpus,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_limit: self.pids_limit,
        }
    }

    pub(crate) fn parse(&self) -> Result<Limits, CliError> {
        Ok(Limits::parse(&self.request())?)
    }
}

impl ResourceArgs {
    pub(crate) fn request(&self) -> ResourceRequest {
        ResourceRequest {
            memory_warn: self.memory_warn.clone(),
            oom_kill: self.oom_kill.clone(),
            cpu_boost_ms: self.cpu_boost.map(millis),
            device_read_bps: self.device_read_bps.clone(),
            device_write_bps: self.device_write_bps.clone(),
            device_read_iops: self.device_read_iops.clone(),
            device_write_iops: self.device_write_iops.clone(),
            hugetlb: self.hugetlb_limit.clone(),
        }
    }
}
