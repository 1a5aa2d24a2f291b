//! GPUs: what asks for them, which are given, and what gVisor makes of them. Decisions, pure; what there is on the host
//! is looked up by `nvidia` and `cdi`.

mod choice;
mod detect;
mod driver;
mod granted;
mod refusal;
mod request;

#[cfg(test)]
pub(crate) use choice::tests as choice_tests;
pub use choice::{Gpu, GpuError, Lease, choose, visible};
#[cfg(test)]
pub(crate) use detect::tests as detect_tests;
pub use detect::{Finding, GPU_KIND, Node, Sign, Visible, detect, is_gpu_device, toolkit_program};
pub use driver::{DriverVersion, NotAVersion, Verdict, look_up, parse_driver_version, parse_supported};
pub use granted::{DeviceEdits, Granted};
pub use refusal::DriverRefused;
pub use request::{DevicePlan, DeviceRequest, GpuRequest, GpuWish, parse_device, parse_gpus};
