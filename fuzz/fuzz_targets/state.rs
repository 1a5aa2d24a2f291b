//! What `state` of a runtime prints.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = cofferdam::runtime::parse_state(bytes) {
        assert!(state.pid.is_none_or(|pid| pid > 0));
    }
});
