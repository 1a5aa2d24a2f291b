//! Layers that mean harm: each is refused, or stays in its directory.

use tar::EntryType;

use super::super::*;
use super::{Layer, Scene, chain};

/// Layers that are refused, with words of the reason.
fn refused(outside: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let layer = Layer::default;
    let mut wrong_sum = layer().file("a", "x").end();
    wrong_sum[0] = b'b';
    let mut lone_zeros = layer().file("a", "").0;
    lone_zeros.resize(lone_zeros.len() + 512, 0);
    lone_zeros.extend(layer().file("b", "").end());
    let name = "n".repeat(64 << 10);
    let huge = |kind| layer().raw(&Layer::header(kind, "a", "", 10 << 30), b"x").0;
    let mut many_records = layer();
    for _ in 0..20 {
        many_records = many_records.pax(&[("comment", "x")]);
    }
    vec![
        ("a way up", layer().file("../outside/canary", "x").end(), "leads out"),
        ("a way up from the root", layer().file("/../outside/canary", "x").end(), "leads out"),
        ("a way up in the middle", layer().file("a/../../outside/canary", "x").end(), "leads out"),
        ("a way up by pax", layer().pax(&[("path", "../outside/canary")]).file("a", "x").end(), "leads out"),
        (
            "a link up, and a file through it",
            layer().symlink("l", "../outside").file("l/canary", "x").end(),
            "leads nowhere",
        ),
        (
            "an absolute link, and a file through it",
            layer().symlink("l", outside).file("l/canary", "x").end(),
            "leads nowhere",
        ),
        (
            "a link with a slash, and a file through it",
            layer().symlink("l/", outside).file("l/canary", "x").end(),
            "leads nowhere",
        ),
        (
            "a link in the place of a directory",
            layer().directory("d").file("d/f", "x").symlink("d", outside).file("d/canary", "x").end(),
            "leads nowhere",
        ),
        (
            "links that lead to each other",
            layer().symlink("a", "b").symlink("b", "a").file("a/x", "").end(),
            "cannot be opened",
        ),
        ("a hard link up", layer().hardlink("h", "../outside/canary").end(), "leads out"),
        (
            "a hard link to an absolute name",
            layer().hardlink("h", &format!("{outside}/canary")).end(),
            "does not have",
        ),
        (
            "a hard link through a link",
            layer().symlink("l", outside).hardlink("h", "l/canary").end(),
            "does not have",
        ),
        ("a hard link to a directory", layer().directory("d").hardlink("h", "d").end(), "does not have"),
        ("a hard link to a whiteout", layer().file(".wh.w", "").hardlink("h", "w").end(), "does not have"),
        ("a hard link to nothing", layer().hardlink("h", "").end(), "does not have"),
        (
            "a hard link to what it replaces",
            layer().directory("d").file("d/f", "x").hardlink("d", "d/f").end(),
            "does not have",
        ),
        (
            "a whiteout of what is above",
            layer().directory("d").file("d/.wh...", "").end(),
            "whiteout without a name",
        ),
        ("a whiteout of its directory", layer().file(".wh..", "").end(), "whiteout without a name"),
        ("a whiteout of nothing", layer().file(".wh.", "").end(), "whiteout without a name"),
        (
            "a whiteout through a link",
            layer().symlink("l", outside).file("l/.wh.canary", "").end(),
            "leads nowhere",
        ),
        (
            "an opaque directory through a link",
            layer().symlink("l", outside).file("l/.wh..wh..opq", "").end(),
            "leads nowhere",
        ),
        ("a file below a file", layer().file("f", "x").file("f/g", "x").end(), "no directory"),
        (
            "a file below a pipe",
            layer().entry(EntryType::Fifo, "p", "", b"").file("p/g", "x").end(),
            "no directory",
        ),
        ("a root that is a file", layer().directory("./").file(".", "x").end(), "root of a layer"),
        ("a NUL in a name", layer().pax(&[("path", "a\0b")]).file("a", "x").end(), "NUL"),
        (
            "a long name",
            layer().entry(EntryType::GNULongName, "l", "", name.as_bytes()).file("a", "").end(),
            "255 bytes",
        ),
        ("a long name by pax", layer().pax(&[("path", &name)]).file("a", "").end(), "255 bytes"),
        ("a long path", layer().pax(&[("path", &"d/".repeat(40_000))]).file("a", "").end(), "4095 bytes"),
        ("a name of ten gigabytes", huge(EntryType::GNULongName), "more than 1 MiB"),
        ("an extended header of ten gigabytes", huge(EntryType::XHeader), "more than 1 MiB"),
        ("a header for all of ten gigabytes", huge(EntryType::XGlobalHeader), "more than 1 MiB"),
        ("extended headers without an end", many_records.file("a", "").end(), "too many extended headers"),
        ("an extended header alone", layer().pax(&[("path", "a")]).end(), "ends before an entry"),
        (
            "an extended header that is none",
            layer().entry(EntryType::XHeader, "pax", "", b"99 path=a\n").file("a", "").end(),
            "record of an extended",
        ),
        (
            "a file that says more than there is",
            layer().raw(&Layer::header(EntryType::Regular, "a", "", 1 << 20), b"x").0,
            "to its end",
        ),
        (
            "a file larger than all disks",
            layer().raw(&Layer::header(EntryType::Regular, "a", "", 1 << 60), b"x").0,
            "more than",
        ),
        (
            "a size of pax that is larger",
            layer().pax(&[("size", "99999999999999")]).file("a", "x").end(),
            "more than",
        ),
        ("a sparse file", layer().entry(EntryType::GNUSparse, "s", "", b"").end(), "sparse"),
        ("a sparse file by pax", layer().pax(&[("GNU.sparse.major", "1")]).file("s", "").end(), "sparse"),
        ("an unknown kind", layer().entry(EntryType::new(b'V'), "v", "", b"").end(), "unknown kind"),
        ("a wrong checksum", wrong_sum, "checksum"),
        ("a lone block of zeros", lone_zeros, "lone block"),
        ("a user that is nobody", layer().pax(&[("uid", "4294967295")]).file("a", "").end(), "user or group"),
        ("no tar", vec![b'x'; 4096], "no sound tar"),
        ("half a header", vec![b'x'; 100], "to its end"),
    ]
}

#[test]
fn what_means_harm_is_refused() {
    let scene = Scene::new();
    let outside = scene.outside().display().to_string();
    for (what, layer, words) in refused(&outside) {
        std::fs::remove_dir_all(scene.target()).unwrap();
        std::fs::create_dir(scene.target()).unwrap();
        let error = scene.unpack(&layer).expect_err(what);
        let text = chain(&error);
        assert!(text.contains(words), "{what}: {text}");
        assert!(text.len() < 700, "{what}: {text}");
    }
    assert_eq!(std::fs::read_to_string(scene.outside().join("canary")).unwrap(), "sings");
}

#[test]
fn what_could_mean_harm_stays_inside() {
    let outside = "/outside".to_owned();
    let layer = Layer::default;
    let nested = layer().file("nested", "x").0;
    let sized = nested.len().to_string();
    let mut hidden = layer().pax(&[("size", &sized)]);
    hidden.put(&Layer::header(EntryType::Regular, "carrier", "", 0), &nested);
    for (what, layer, names) in [
        ("absolute names", layer().file("/etc/passwd", "x").end(), &["etc/", "etc/passwd"][..]),
        ("a file in the place of a link", layer().symlink("l", &outside).file("l", "x").end(), &["l"]),
        (
            "a link that leads within",
            layer().directory("usr/lib").symlink("lib", "/usr/lib").file("lib/f", "").end(),
            &["lib -> /usr/lib", "usr/", "usr/lib/", "usr/lib/f"],
        ),
        (
            "a link that would lead out, and leads within",
            layer().directory("outside").symlink("d/l", "../../../outside").file("d/l/f", "").end(),
            &["d/", "d/l -> ../../../outside", "outside/", "outside/f"],
        ),
        (
            "the process's own root",
            layer().directory("proc/self/root").symlink("r", "/proc/self/root").file("r/f", "").end(),
            &["proc/", "proc/self/", "proc/self/root/", "proc/self/root/f", "r -> /proc/self/root"],
        ),
        (
            "a hard link to a link, replaced",
            layer().symlink("l", &outside).hardlink("h", "l").file("h", "x").end(),
            &["h", &format!("l -> {outside}")],
        ),
        (
            "devices",
            layer()
                .entry(EntryType::Char, "null", "", b"")
                .entry(EntryType::Block, "sda", "", b"")
                .file("f", "")
                .end(),
            &["f"],
        ),
        (
            "one name again and again",
            layer().file("x", "1").directory("x").file("x/y", "2").symlink("x", "/").file("x", "3").end(),
            &["x"],
        ),
        ("a size of pax, and a tar in the content", hidden.file("after", "").end(), &["after", "carrier"]),
        ("a pipe, replaced", layer().entry(EntryType::Fifo, "p", "", b"").file("p", "x").end(), &["p"]),
        (
            "a size of what has no content",
            {
                let mut link = layer().symlink("l", "a");
                link.put(&Layer::header(EntryType::Symlink, "m", "b", 512), b"");
                link.file("f", "").end()
            },
            &["f", "l -> a", "m -> b"],
        ),
        ("no end", layer().file("f", "").0, &["f"]),
    ] {
        let scene = Scene::new();
        let done = scene.unpack(&layer).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        assert_eq!(scene.names(), names, "{what}");
        assert_eq!(done.devices_left_out, if what == "devices" { 2 } else { 0 }, "{what}");
    }
}

#[test]
fn a_layer_takes_no_more_than_it_may() {
    let many: Layer = (0..20).fold(Layer::default(), |layer, number| layer.file(&format!("f{number}"), ""));
    let limits = UnpackLimits { entries: 10, ..UnpackLimits::default() };
    let scene = Scene::new();
    assert!(matches!(scene.unpack_within(&many.end(), &limits), Err(UnpackError::TooMany { limit: 10 })));
    assert_eq!(scene.names().len(), 10);
    let limits = UnpackLimits { bytes: 4096, ..UnpackLimits::default() };
    let large = Layer::default().file("a", &"x".repeat(3000)).file("b", &"x".repeat(3000)).end();
    assert!(matches!(
        Scene::new().unpack_within(&large, &limits),
        Err(UnpackError::TooLarge { limit: 4096 })
    ));
    // A stream that goes on after its end.
    let endless =
        Layer::default().end().into_iter().chain(std::iter::repeat_n(0, 8 << 20)).collect::<Vec<u8>>();
    assert!(chain(&Scene::new().unpack(&endless).unwrap_err()).contains("after its end"));
}

#[test]
fn a_layer_that_is_cut_anywhere_is_refused_or_whole() {
    let whole = Layer::default()
        .pax(&[("path", "long")])
        .file("f", &"x".repeat(700))
        .directory("d")
        .symlink("l", "f")
        .0;
    for length in (0..whole.len()).step_by(97) {
        let done = Scene::new().unpack(&whole[..length]);
        // Between two entries, or in what fills up the last block of the file, as Go reads it.
        let is_whole = [0, 2560, 3072, 3584].contains(&length) || (2236..2560).contains(&length);
        assert_eq!(done.is_ok(), is_whole, "{length}: {done:?}");
    }
}
