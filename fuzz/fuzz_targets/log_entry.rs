//! A line of a log: an entry or none, and an entry that is written again is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

use cofferdam::logs::{LogFormat, decode, encode};

fuzz_target!(|line: &[u8]| {
    for format in [LogFormat::Cri, LogFormat::JsonFile] {
        let Some(entry) = decode(format, line).filter(|entry| !entry.bytes.contains(&b'\n')) else { continue };
        let mut out = Vec::new();
        encode(format, &entry, &mut out);
        assert_eq!(decode(format, out.strip_suffix(b"\n").unwrap_or(&out)), Some(entry));
    }
});
