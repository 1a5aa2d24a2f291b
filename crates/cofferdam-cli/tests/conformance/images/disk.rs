//! What a container of an image writes is limited, or lies in a file system of its own.

use std::path::Path;

use cofferdam_testkit::image::{Layout, layers};
use cofferdam_testkit::lab::{Lab, finish, new_command};
use cofferdam_testkit::needs::Need;
use serde_json::json;

use super::{is_one_of_each, is_runc, tool};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("images::what_a_container_writes_is_limited", writing_is_limited)
        .only(is_one_of_each)
        .needs(&[Need::LoopDevices]),
    case("images::where_overlayfs_cannot_write_there_is_a_disk", there_is_a_disk)
        .only(is_runc)
        .needs(&[Need::LoopDevices]),
    case("images::a_limit_that_makes_no_sense_is_refused", a_wrong_limit_is_refused).only(is_runc),
];

/// The files below a directory that loop devices have.
fn disks(directory: &Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
    let files =
        devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(directory.to_str().unwrap())).collect()
}

fn writing_is_limited(lab: &Lab) {
    let tool = tool(lab);
    let script =
        "echo mine > /data/mine; busybox dd if=/dev/zero of=/data/big bs=1M count=64; stat -c %s /data/big";
    let limit = ["--storage-opt", "size=32m"];
    let done = lab.run_image(&[&["--name", "full"], &limit[..]].concat(), &[&tool, "sh", "-c", script]);
    let written: u64 = done.text().parse().unwrap_or_else(|_| panic!("{done:?}"));
    assert!((16 << 20..32 << 20).contains(&written), "{done:?}");
    assert!(done.stderr.contains("No space left"), "{done:?}");
    assert_eq!(lab.inspect("full")["disk_bytes"], 32 << 20);
    // It is there as long as the container, as without a limit.
    assert_eq!(disks(&lab.data()).len(), 1);
    let changed = lab.cofferdam(&["diff", "full"]).expect_code(0).text();
    assert!(changed.contains("A /data/mine"), "{changed}");
    let copy = lab.path().join("mine");
    drop(lab.cofferdam(&["cp", "full:/data/mine", copy.to_str().unwrap()]).expect_code(0));
    assert_eq!(std::fs::read_to_string(copy).unwrap(), "mine\n");
    drop(lab.cofferdam(&["rm", "full"]).expect_code(0));
    assert_eq!(disks(&lab.data()), Vec::<String>::new());
    drop(lab.run_image(&[&["--rm"], &limit[..]].concat(), &[&tool, "true"]).expect_code(0));
    drop(lab.run_image(&[&["--rm"], &limit[..]].concat(), &[&tool, "no-such-command"]).expect_code(127));
    assert_eq!(disks(&lab.data()), Vec::<String>::new());
    lab.expect_clean();
}

/// An overlay at a place, until it is dropped.
struct Overlay(std::path::PathBuf);

impl Overlay {
    fn mount(lab: &Lab, place: &Path) -> Self {
        let below: Vec<_> = ["lower", "upper", "work"].map(|name| lab.path().join(name)).into();
        below.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        std::fs::create_dir_all(place).unwrap();
        let [lower, upper, work] = &below[..] else { unreachable!("there are three") };
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let mut mount = new_command("mount");
        mount.args(["-t", "overlay", "overlay", "-o"]);
        mount.arg(format!("lowerdir={lower},upperdir={upper},workdir={work}")).arg(place);
        drop(finish(mount).expect_code(0));
        Self(place.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let mut unmount = new_command("umount");
        unmount.arg("--lazy").arg(&self.0);
        drop(finish(unmount));
    }
}

fn there_is_a_disk(lab: &Lab) {
    // overlayfs does not write to another one, as the root of a container is.
    let overlay = Overlay::mount(lab, &lab.data());
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] });
    let layout = Layout::new(&lab.path().join("oci")).add("plain", &layers()[..1], &config);
    let script = "echo mine > /data/mine; cat /data/mine; busybox df -k /data | busybox tail -n 1";
    let image = format!("oci:{layout}");
    let done = lab.run_image(&["--name", "one"], &[&image, "sh", "-c", script]).expect_code(0);
    assert!(done.text().starts_with("mine\n"), "{done:?}");
    assert!(done.stderr.contains("overlayfs cannot write to"), "{done:?}");
    assert_eq!(disks(&lab.data()).len(), 1);
    assert!(lab.cofferdam(&["diff", "one"]).expect_code(0).text().contains("A /data/mine"));
    drop(lab.cofferdam(&["rm", "one"]).expect_code(0));
    assert_eq!(disks(&lab.data()), Vec::<String>::new());
    // What overlayfs does not store is said before anything runs.
    let refused = lab.run_image(&["--rm"], &[&tool(lab), "true"]).expect_code(125).expect_error("E0708");
    assert!(refused.stderr.contains("--data-dir"), "{}", refused.stderr);
    drop(overlay);
    lab.expect_clean();
}

fn a_wrong_limit_is_refused(lab: &Lab) {
    let tool = tool(lab);
    for wrong in ["size=1m", "size=", "size=many", "inodes=7", "size"] {
        let done = lab.run_image(&["--rm", "--storage-opt", wrong], &[&tool, "true"]);
        drop(done.expect_code(125).expect_error("E0101"));
    }
    let done = lab.run(&["--rm", "--storage-opt", "size=32m"], &["true"]).expect_code(125);
    assert!(done.expect_error("E0101").stderr.contains("it is for images"));
    lab.expect_clean();
}
