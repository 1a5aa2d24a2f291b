//! A runtime's log of JSON lines.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = cofferdam::runtime::last_error(bytes);
});
