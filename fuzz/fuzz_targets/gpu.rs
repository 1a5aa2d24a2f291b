//! What asks for GPUs, what the driver and runsc say of them, and what describes devices.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = cofferdam::gpu::parse_gpus(&text);
    let _ = cofferdam::gpu::parse_device(&text);
    let _ = cofferdam::gpu::parse_driver_version(&text);
    let _ = cofferdam::gpu::parse_supported(&text);
    let _ = cofferdam::nvidia::parse_information(&text);
    let _ = cofferdam::cdi::parse(&text);
    if let Ok(spec) = serde_json::from_slice(bytes) {
        let _ = cofferdam::gpu::detect(&spec);
    }
});
