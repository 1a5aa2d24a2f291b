//! Files of cgroups.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = cofferdam::cgroup::parse_flat_keyed(&text, "oom_kill");
    let _ = cofferdam::cgroup::Cgroups::from_mountinfo(&text, |_| cofferdam::cgroup::Delegation::default());
});
