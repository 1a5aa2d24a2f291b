//! A launch request: refused or planned, and what is planned is safe.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = serde_json::from_slice::<cofferdam::request::LaunchRequest>(bytes) else { return };
    let Ok(plan) = cofferdam::request::validate(request) else { return };
    assert!(plan.args.iter().chain(&plan.env).all(|text| !text.contains('\0')));
    assert!(plan.cwd.is_none_or(|cwd| cwd.starts_with('/')));
});
