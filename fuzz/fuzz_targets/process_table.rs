//! What `runsc ps` prints.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = cofferdam::runtime::parse_process_table(bytes);
});
