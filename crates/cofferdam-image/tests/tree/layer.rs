//! Layers that are packed, and what others make of them.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;

use cofferdam::error::{Code, Diagnose as _, Failure};
use cofferdam_image::pack::{Packed, TreeOptions, layer, tree};
use cofferdam_image::unpack::{UnpackLimits, unpack};
use cofferdam_testkit::lab::{finish, new_command};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use serde_json::json;

use crate::overlay::{Overlay, mount, open, path_of};
use crate::snapshot::{assert_same, snapshot};

pub(crate) fn pack(upper: &Path) -> (Vec<u8>, Packed) {
    let mut bytes = Vec::new();
    let packed = layer(open(upper).as_fd(), &mut bytes).unwrap();
    (bytes, packed)
}

fn unpacked(bytes: &[u8], target: &Path) {
    std::fs::create_dir(target).unwrap();
    let _done = unpack(bytes, open(target).as_fd(), &UnpackLimits::default()).unwrap();
}

pub(crate) fn a_layer_is_what_the_container_has_changed() {
    for seed in 0..12 {
        let overlay = Overlay::new(seed);
        overlay.change(seed + 1000);
        let (bytes, packed) = pack(&overlay.upper());
        assert_eq!(pack(&overlay.upper()).0, bytes, "the same tree makes the same bytes");
        assert_eq!((packed.shortened, packed.devices_left_out), (0, 0), "{seed}");
        let again = overlay.directory.path().join("again");
        unpacked(&bytes, &again);
        assert_same(&snapshot(&overlay.upper()), &snapshot(&again), &format!("upper {seed}"));
        let layers: Vec<&Path> =
            std::iter::once(again.as_path()).chain(overlay.lowers.iter().map(AsRef::as_ref)).collect();
        let merged: OwnedFd = mount(&layers, None);
        assert_same(
            &snapshot(&overlay.merged()),
            &snapshot(&path_of(merged.as_fd())),
            &format!("merged {seed}"),
        );
    }
}

pub(crate) fn gnu_tar_unpacks_the_tree() {
    for seed in 0..3 {
        let overlay = Overlay::new(seed);
        overlay.change(seed + 2000);
        let place = overlay.directory.path();
        let archive = place.join("tree.tar");
        let packed =
            tree(open(&overlay.merged()).as_fd(), File::create(&archive).unwrap(), &TreeOptions::default())
                .unwrap();
        let mut list = new_command("tar");
        list.args(["--list", "--verbose", "--quoting-style=escape", "--file"]).arg(&archive);
        let listed = finish(list).expect_code(0);
        assert_eq!(listed.stderr, "", "{seed}");
        assert_eq!(listed.text().lines().count() as u64, packed.entries, "{seed}");
        let theirs = place.join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        let mut extract = new_command("tar");
        extract.args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs"]);
        extract.args(["--xattrs-include=*", "--file"]).arg(&archive).arg("--directory").arg(&theirs);
        assert_eq!(finish(extract).expect_code(0).stderr, "", "{seed}");
        assert_same(&snapshot(&overlay.merged()), &snapshot(&theirs), &format!("tree {seed}"));

        let (bytes, packed) = pack(&overlay.upper());
        let archive = place.join("layer.tar");
        std::fs::write(&archive, bytes).unwrap();
        let mut list = new_command("tar");
        list.args(["--list", "--quoting-style=escape", "--file"]).arg(&archive);
        let listed = finish(list).expect_code(0);
        assert_eq!(listed.text().lines().count() as u64, packed.entries, "{seed}");
        let whiteouts = snapshot(&overlay.upper()).values().filter(|seen| seen.mark == "!").count();
        let named = |line: &&str| {
            line.rsplit('/')
                .next()
                .is_some_and(|name| name.starts_with(".wh.") && !name.starts_with(".wh..wh."))
        };
        assert_eq!(listed.text().lines().filter(named).count(), whiteouts, "{seed}");
    }
}

/// Puts a blob into a layout, and describes it.
fn blob(layout: &Path, bytes: &[u8], media_type: &str) -> serde_json::Value {
    let sum = layout.join("sum");
    std::fs::write(&sum, bytes).unwrap();
    let mut command = new_command("sha256sum");
    command.arg(&sum);
    let digest = finish(command).expect_code(0).text()[..64].to_owned();
    std::fs::rename(&sum, layout.join("blobs/sha256").join(&digest)).unwrap();
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
}

pub(crate) fn umoci_unpacks_the_image() {
    for seed in 0..3 {
        let overlay = Overlay::new(seed);
        overlay.change(seed + 3000);
        let place = overlay.directory.path();
        let layout = place.join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let directories = [&overlay.lowers[1], &overlay.lowers[0], &overlay.upper()].map(Clone::clone);
        let layers: Vec<_> = directories
            .iter()
            .map(|directory| blob(&layout, &pack(directory).0, "application/vnd.oci.image.layer.v1.tar"))
            .collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": [],
        });
        let config = blob(&layout, config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let mut manifest =
            blob(&layout, manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "it" });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
        std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let bundle = place.join("bundle");
        let mut command = new_command("umoci");
        command.arg("unpack").arg("--image").arg(format!("{}:it", layout.display())).arg(&bundle);
        drop(finish(command).expect_code(0));
        assert_same(
            &snapshot(&overlay.merged()),
            &snapshot(&bundle.join("rootfs")),
            &format!("umoci {seed}"),
        );
    }
}

pub(crate) fn what_no_layer_has_is_refused() {
    let refused = |make: &dyn Fn(&Path), words: &str| {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path());
        let error = layer(open(directory.path()).as_fd(), std::io::sink()).unwrap_err();
        let text = Failure::of(&error).to_string();
        assert!(text.contains(words), "{text}");
        assert_eq!(error.code(), Code::CopyFailed, "{text}");
        assert!(error.next_step().is_some());
    };
    refused(&|root| std::fs::write(root.join(".wh.x"), "").unwrap(), "begins with `.wh.`");
    refused(&|root| std::fs::create_dir(root.join(".wh..wh..opq")).unwrap(), "begins with `.wh.`");
    refused(
        &|root| {
            std::fs::create_dir(root.join("moved")).unwrap();
            setxattr(root.join("moved"), "trusted.overlay.redirect", b"/there", XattrFlags::empty()).unwrap();
        },
        "redirect_dir",
    );
    refused(
        &|root| {
            std::fs::write(root.join("half"), "").unwrap();
            setxattr(root.join("half"), "trusted.overlay.metacopy", b"", XattrFlags::empty()).unwrap();
        },
        "metacopy",
    );
    refused(
        &|root| File::create(root.join("huge")).unwrap().set_len(1 << 40).unwrap(),
        "more than 274877906944 bytes",
    );
    // A whiteout whose name has no room for the prefix.
    refused(
        &|root| {
            let path = root.join("n".repeat(255));
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
        },
        "longer than",
    );
    // What cannot be written says so, and the disk's trouble is that of the store.
    let directory = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = layer(open(directory.path()).as_fd(), full).unwrap_err();
    assert_eq!(error.code(), Code::ImageStore, "{error}");
}

pub(crate) fn large_numbers_and_long_names_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let below = source.join("d".repeat(200)).join("e".repeat(250));
    std::fs::create_dir_all(&below).unwrap();
    let file = below.join(std::ffi::OsStr::from_bytes(b"\xff\xfe=\n\x01"));
    std::fs::write(&file, "x").unwrap();
    std::fs::hard_link(&file, source.join("other")).unwrap();
    lchown(&file, Some(3_000_000_000), Some(4_000_000_000)).unwrap();
    symlink("t".repeat(4000), source.join("link")).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(&file, "security.capability", &capability, XattrFlags::empty()).unwrap();
    setxattr(&file, "trusted.mine", b"x", XattrFlags::empty()).unwrap();
    setxattr(&file, "user.a=b", b"x", XattrFlags::empty()).unwrap();
    setxattr(&file, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    mknodat(CWD, source.join("null"), FileType::CharacterDevice, Mode::empty(), makedev(1, 3)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap());
    std::fs::rename(directory.path().join("s"), source.join("socket")).unwrap();
    let (bytes, packed) = pack(&source);
    assert_eq!((packed.devices_left_out, packed.sockets_left_out, packed.attributes_left_out), (1, 1, 1));
    let again = directory.path().join("again");
    unpacked(&bytes, &again);
    let mut expected = snapshot(&source);
    for name in ["null", "socket"] {
        assert!(expected.remove(Path::new(name)).is_some());
    }
    for seen in expected.values_mut() {
        seen.attributes.retain(|name, _| name == "security.capability");
    }
    assert_same(&expected, &snapshot(&again), "extremes");
    // GNU tar reads the same, but for the devices and attributes of its own.
    let mut archive = new_command("tar");
    let theirs = directory.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let mut file = File::create(directory.path().join("a.tar")).unwrap();
    file.write_all(&bytes).unwrap();
    archive.args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs"]);
    archive.args(["--xattrs-include=*", "--file"]).arg(directory.path().join("a.tar"));
    archive.arg("--directory").arg(&theirs);
    assert_eq!(finish(archive).expect_code(0).stderr, "");
    assert_same(&expected, &snapshot(&theirs), "extremes by GNU tar");
}
