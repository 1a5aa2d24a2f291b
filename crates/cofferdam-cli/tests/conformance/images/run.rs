//! What a container has of its image, and what the image never gets of its containers.

use std::path::Path;

use cofferdam_testkit::image::{File, Layout, USER, layer, layers};
use cofferdam_testkit::lab::Lab;
use serde_json::json;

use super::{image, is_one_of_each, is_runc, tool};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("images::a_container_is_what_its_image_says", is_what_its_image_says).only(is_one_of_each),
    case("images::words_go_before_those_of_the_image", words_go_before).only(is_one_of_each),
    case("images::layers_are_never_written_to", layers_are_never_written_to).only(is_one_of_each),
    case("images::files_stay_until_a_container_is_removed", files_stay_until_removed).only(is_one_of_each),
    case("images::tmp_is_the_containers_own", tmp_is_its_own).only(is_one_of_each),
    case("images::users_of_an_image_are_its_own", users_are_its_own).only(is_one_of_each),
    case("images::a_harmful_image_is_refused", a_harmful_image_is_refused).only(is_runc),
];

fn app(lab: &Lab) -> String {
    let config = json!({
        "User": USER.0, "Env": ["PATH=/bin", "A=of the image", "B=2"], "WorkingDir": "/home/app",
        "Entrypoint": ["echo", "entry"], "Cmd": ["one", "two"], "StopSignal": "SIGUSR1",
        "Labels": { "org.example.part": "web", "org.example.level": "3" },
        "ExposedPorts": { "80/tcp": {} },
    });
    image(lab, "app", &config)
}

fn is_what_its_image_says(lab: &Lab) {
    let app = app(lab);
    let layout = app.rsplit_once(':').unwrap().0;
    let script =
        "id -u; id -g; id -G; echo $HOME; pwd; echo $A-$B; ls /data; touch mine && stat -c %u mine; exit 7";
    let done = lab.run_image(&["--rm", "--entrypoint", "sh", "-e", "B=own"], &[layout, "-c", script]);
    let text = done.expect_code(7).text();
    let expected = "1200\n1200\n1200 1300\n/home/app\n/home/app\nof the image-own\nkept\n1200";
    assert_eq!(text, expected);
    lab.expect_clean();
    let script = "trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done";
    let options = ["-d", "--name", "app", "--entrypoint", "sh", "--label", "org.example.level=4"];
    drop(lab.run_image(&options, &[&app, "-c", script]).expect_code(0));
    let seen = lab.inspect("app");
    assert_eq!(seen["labels"]["org.example.part"], "web", "{seen:#}");
    assert_eq!(seen["labels"]["org.example.level"], "4");
    cofferdam_testkit::lab::eventually("it has its trap", || lab.cofferdam(&["logs", "app"]).text() == "up");
    drop(lab.cofferdam(&["stop", "app"]).expect_code(0));
    assert_eq!(lab.cofferdam(&["wait", "app"]).text(), "5", "it was asked with the image's signal");
    drop(lab.cofferdam(&["rm", "app"]).expect_code(0));
    lab.expect_clean();
}

fn words_go_before(lab: &Lab) {
    let app = app(lab);
    let said = |options: &[&str], words: &[&str]| {
        let options = [&["--rm"], options].concat();
        lab.run_image(&options, &[&[app.as_str()], words].concat()).expect_code(0).text()
    };
    assert_eq!(said(&[], &[]), "entry one two");
    assert_eq!(said(&[], &["three"]), "entry three");
    assert_eq!(said(&["--entrypoint", "pwd"], &[]), "/home/app");
    assert_eq!(said(&["--entrypoint", ""], &["id", "-un"]), "app");
    assert_eq!(said(&["-u", "0", "-w", "/data", "--entrypoint", "sh"], &["-c", "id -u; pwd"]), "0\n/data");
    drop(lab.run_image(&["--entrypoint", ""], &[&app]).expect_error("E0101"));
    drop(lab.run_image(&["--rm"], &[&app, "x", "--rm"]).expect_code(0));
    drop(lab.run_image(&["--entrypoint", "nope"], &[&app]).expect_code(127));
    lab.expect_clean();
}

fn layers_are_never_written_to(lab: &Lab) {
    let tool = tool(lab);
    drop(lab.cofferdam(&["pull", "--quiet", &tool]).expect_code(0));
    let script = "echo new > /data/kept; busybox rm -r /home; busybox mkdir /data/gone; echo x > /bin/sh.new; chmod 0 /etc/passwd";
    drop(lab.run_image(&["--rm"], &[&tool, "sh", "-c", script]).expect_code(0));
    lab.expect_clean();
    let script = "cat /data/kept; ls -d /data/* /home/*; stat -c %a /etc/passwd; test ! -e /bin/sh.new";
    let done = lab.run_image(&["--rm"], &[&tool, "sh", "-c", script]).expect_code(0);
    assert_eq!(done.text(), "of the lower layer\n/data/kept\n/home/app\n644");
    let script = "echo x > /data/x || echo refused; echo y > /dev/shm/y && echo tmpfs";
    let done = lab.run_image(&["--rm", "--read-only"], &[&tool, "sh", "-c", script]).expect_code(0);
    assert_eq!(done.text(), "refused\ntmpfs");
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    lab.expect_clean();
}

fn files_stay_until_removed(lab: &Lab) {
    let tool = tool(lab);
    let script = "test -e /data/mine && exit 4; echo mine > /data/mine; exit 3";
    drop(lab.run_image(&["--name", "keeps"], &[&tool, "sh", "-c", script]).expect_code(3));
    let count = |lab: &Lab| std::fs::read_dir(lab.data().join("rootfs")).unwrap().count();
    assert_eq!(count(lab), 1);
    drop(
        lab.cofferdam(&["cp", "keeps:/data/mine", lab.path().join("mine").to_str().unwrap()]).expect_code(0),
    );
    assert_eq!(std::fs::read_to_string(lab.path().join("mine")).unwrap(), "mine\n");
    drop(lab.cofferdam(&["rm", "keeps"]).expect_code(0));
    lab.expect_clean();
    drop(lab.run_image(&["-d", "--name", "lives"], &[&tool, "sleep", "1000"]).expect_code(0));
    drop(lab.cofferdam(&["rm", "--force", "lives"]).expect_code(0));
    drop(lab.cofferdam(&["create", "--name", "never", &tool]).expect_code(0));
    drop(lab.cofferdam(&["rm", "--force", "never"]).expect_code(0));
    lab.expect_clean();
}

/// gVisor would have a file system in memory at an empty `/tmp`.
fn tmp_is_its_own(lab: &Lab) {
    let mut layers = layers();
    layers.push(layer(&[File { content: None, mode: 0o1777, ..File::new("tmp/", "") }]));
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] });
    let tool = format!("oci:{}", Layout::new(&lab.path().join("oci-tmp")).add("tmp", &layers, &config));
    let script = "stat -c %a /tmp; echo kept > /tmp/file";
    let done = lab.run_image(&["--name", "t", "--user", "1200"], &[&tool, "sh", "-c", script]).expect_code(0);
    assert_eq!(done.text(), "1777");
    assert_eq!(lab.cofferdam(&["diff", "t"]).expect_code(0).text(), "C /tmp\nA /tmp/file");
    let copy = lab.path().join("copy");
    drop(lab.cofferdam(&["cp", "t:/tmp/file", copy.to_str().unwrap()]).expect_code(0));
    assert_eq!(std::fs::read_to_string(copy).unwrap(), "kept\n");
    drop(lab.cofferdam(&["rm", "t"]).expect_code(0));
    let script = "echo x > /tmp/x || echo refused";
    let done = lab.run_image(&["--rm", "--read-only"], &[&tool, "sh", "-c", script]).expect_code(0);
    assert_eq!(done.text(), "refused");
    let mounted = ["--rm", "--read-only", "--tmpfs", "/tmp"];
    drop(lab.run_image(&mounted, &[&tool, "sh", "-c", "echo x > /tmp/x"]).expect_code(0));
    lab.expect_clean();
}

fn users_are_its_own(lab: &Lab) {
    let image_of = |tag: &str, user: &str| {
        image(lab, tag, &json!({ "User": user, "Env": ["PATH=/bin"], "Cmd": ["id", "-u"] }))
    };
    // It is in the passwd of the machine.
    for (tag, user) in [("a", "daemon"), ("b", "app:nogroup"), ("c", "games:app")] {
        drop(lab.run_image(&["--rm"], &[&image_of(tag, user)]).expect_error("E0116"));
    }
    for (tag, user) in [("d", "4294967295"), ("e", "4294967296"), ("f", "-1"), ("g", "app:4294967295")] {
        let done = lab.run_image(&["--rm"], &[&image_of(tag, user)]);
        assert!(!done.text().lines().any(|line| line == "0"), "{user} is never root: {done:?}");
        assert!(done.code.is_some_and(|code| code != 0) && done.stderr.contains("error[E0"), "{done:?}");
    }
    assert_eq!(lab.run_image(&["--rm"], &[&image_of("h", "4242")]).expect_code(0).text(), "4242");
    lab.expect_clean();
}

fn a_harmful_image_is_refused(lab: &Lab) {
    let outside = lab.path().join("outside");
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["true"] });
    let up = "../".repeat(12) + outside.to_str().unwrap().trim_start_matches('/');
    for (at, path) in ["../outside", "data/../../outside", &up].into_iter().enumerate() {
        let tag = format!("harmful{at}");
        let mut layers = layers();
        layers.push(layer(&[File::new("first", "x"), File::new(path, "harm")]));
        let place = lab.path().join(&tag);
        let image = format!("oci:{}", Layout::new(&place).add(&tag, &layers, &config));
        drop(lab.cofferdam(&["pull", &image]).expect_error("E0705"));
        drop(lab.run_image(&["--rm"], &[&image]).expect_code(125).expect_error("E0705"));
    }
    assert!(!outside.exists());
    let unpacked = || find(&lab.data(), "harm");
    assert!(unpacked().is_none(), "{:?}", unpacked());
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    drop(lab.cofferdam(&["image", "prune", "--all", "--force"]).expect_code(0));
    let left = lab.cofferdam(&["image", "verify"]).expect_code(0).stderr;
    assert!(
        left.contains("0 blobs have their digests, 0 layers are unpacked, 0 things are left over"),
        "{left}"
    );
    lab.expect_clean();
}

/// A small file below a directory that holds a text.
fn find(directory: &Path, text: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            if let Some(found) = find(&path, text) {
                return Some(found);
            }
        } else if kind.is_file() && std::fs::read(&path).is_ok_and(|content| content == text.as_bytes()) {
            return Some(path);
        }
    }
    None
}
