//! What a binary says of itself: its version, its commands, its flags.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = cofferdam::runtime::parse_version(&text);
    let _ = (cofferdam::runtime::parse_commands(&text), cofferdam::runtime::parse_flags(&text));
});
