//! What `list` of a runtime prints.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for container in cofferdam::runtime::parse_list(bytes).unwrap_or_default() {
        assert!(container.pid.is_none_or(|pid| pid > 0));
    }
});
