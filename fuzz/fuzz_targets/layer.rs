//! Layers of images: whatever they say, they are unpacked into their directory or refused.
#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd as _;

use cofferdam_image::unpack::{UnpackLimits, unpack};
use libfuzzer_sys::fuzz_target;

const LIMITS: UnpackLimits = UnpackLimits { bytes: 1 << 20, entries: 100 };

fuzz_target!(|bytes: &[u8]| {
    let mut layer = bytes.to_vec();
    // Nothing is read of a header whose checksum is wrong.
    for block in layer.chunks_exact_mut(512) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().copied().map(u32::from).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let scene = std::env::temp_dir().join(format!("cofferdam-fuzz-{}", std::process::id()));
    let target = scene.join("target");
    fs::create_dir_all(&target).expect("it can be made");
    let canary = scene.join("canary");
    fs::write(&canary, "sings").expect("it can be written");
    let directory = File::open(&target).expect("it can be opened");
    let _ = unpack(layer.as_slice(), directory.as_fd(), &LIMITS);
    assert_eq!(fs::read(&canary).expect("it is there"), b"sings");
    assert_eq!(fs::read_dir(&scene).expect("it is there").count(), 2);
    fs::remove_dir_all(&scene).expect("it can be removed");
});
