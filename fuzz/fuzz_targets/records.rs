//! Records on disk, and requests and answers on the wire.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<cofferdam::state::Record>(bytes);
    let _ = serde_json::from_slice::<cofferdam::exit::ExitReport>(bytes);
    let _ = serde_json::from_slice::<cofferdam::supervise::control::Request>(bytes);
    let _ = serde_json::from_slice::<cofferdam::supervise::control::Answer>(bytes);
});
