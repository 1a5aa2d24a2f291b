//! A bundle's config.json, as foreign bytes: parsed, checked, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = cofferdam::bundle::parse_config(bytes) else { return };
    let _ = cofferdam::bundle::root_of(std::path::Path::new("/b"), &config);
    let _ = cofferdam::spec::check_config(&config);
    let view = cofferdam::spec::SpecView::of(&config);
    let _ = (view.args(), view.env(), view.cwd(), view.ids(), view.terminal(), view.own_pid_namespace());
    let _ = (view.mount_destinations().count(), view.bind_sources().count());
});
