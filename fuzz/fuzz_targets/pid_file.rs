//! The pid file that a runtime writes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(pid) = cofferdam::runtime::parse_pid_file(bytes) {
        assert!(pid > 0);
    }
});
