//! What is in a container, and what it has written: `cp`, `diff`, `export`, `commit`.

use std::io::Write;
use std::process::Stdio;

use cofferdam_testkit::lab::{Lab, Running, eventually};
use rustix::process::Signal;
use serde_json::json;

use super::{is_one_of_each, tool};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("images::files_are_copied_both_ways", files_are_copied_both_ways).only(is_one_of_each),
    case("images::changes_are_listed_and_packed", changes_are_listed_and_packed).only(is_one_of_each),
    case("images::a_container_becomes_an_image", a_container_becomes_an_image).only(is_one_of_each),
    case("images::a_killed_commit_leaves_nothing_frozen", a_killed_commit_leaves_nothing_frozen)
        .only(is_one_of_each),
];

fn files_are_copied_both_ways(lab: &Lab) {
    let tool = tool(lab);
    // It does not ask for the file before it is there: gVisor would remember that it was not.
    let script =
        "trap 'cat /data/out; exit 4' USR1; echo inside > /data/in; echo up; while :; do sleep 0.05; done";
    drop(lab.run_image(&["-d", "--name", "c"], &[&tool, "sh", "-c", script]).expect_code(0));
    eventually("it has written", || lab.cofferdam(&["logs", "c"]).text() == "up");
    let host = |name: &str| lab.path().join(name).to_str().unwrap().to_owned();
    drop(lab.cofferdam(&["cp", "c:/data/in", &host("got")]).expect_code(0));
    assert_eq!(std::fs::read_to_string(host("got")).unwrap(), "inside\n");
    let archive = lab.cofferdam(&["cp", "c:/data", "-"]).expect_code(0).stdout;
    assert!(archive.windows(7).any(|part| part == b"data/in"));
    std::fs::write(host("sent"), "outside\n").unwrap();
    drop(lab.cofferdam(&["cp", &host("sent"), "c:/data/out"]).expect_code(0));
    drop(lab.cofferdam(&["kill", "--signal", "USR1", "c"]).expect_code(0));
    assert_eq!(lab.cofferdam(&["wait", "c"]).text(), "4");
    assert_eq!(lab.cofferdam(&["logs", "c"]).text(), "up\noutside");
    let mut unpack = lab.command(["cp", "-", "c:/home"]);
    unpack.stdin(Stdio::piped());
    let mut unpack = Running::start(unpack);
    unpack.child.stdin.take().unwrap().write_all(&archive).unwrap();
    drop(unpack.finish().expect_code(0));
    drop(lab.cofferdam(&["cp", "c:/home/data/in", &host("back")]).expect_code(0));
    assert_eq!(std::fs::read_to_string(host("back")).unwrap(), "inside\n");
    drop(lab.cofferdam(&["cp", "c:/nope", &host("nope")]).expect_error("E0710"));
    drop(lab.cofferdam(&["cp", "c:/data/in", "c:/data/x"]).expect_error("E0101"));
    drop(lab.cofferdam(&["cp", "none:/data/in", &host("x")]).expect_error("E0103"));
    drop(lab.cofferdam(&["rm", "c"]).expect_code(0));
    leads_nowhere_else(lab, &tool);
    lab.expect_clean();
}

/// Links of a container are followed inside of it.
fn leads_nowhere_else(lab: &Lab, tool: &str) {
    let secret = lab.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let script =
        format!("ln -s {0} /data/file; ln -s {1} /data/folder", secret.display(), lab.path().display());
    drop(
        lab.run_image(&["--name", "h"], &[tool, "/bin/busybox", "sh", "-c", &with_ln(&script)])
            .expect_code(0),
    );
    let to = lab.path().join("stolen");
    let to = to.to_str().unwrap();
    drop(lab.cofferdam(&["cp", "-L", "h:/data/file", to]).expect_error("E0710"));
    drop(lab.cofferdam(&["cp", "h:/data/folder/secret", to]).expect_error("E0710"));
    std::fs::write(to, "harm").unwrap();
    drop(lab.cofferdam(&["cp", to, "h:/data/file"]));
    drop(lab.cofferdam(&["cp", to, "h:/data/folder/planted"]));
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
    assert!(!lab.path().join("planted").exists());
    drop(lab.cofferdam(&["rm", "h"]).expect_code(0));
}

/// The root filesystem has no `ln` of its own.
fn with_ln(script: &str) -> String {
    script.replace("ln -s", "busybox ln -s")
}

fn changes_are_listed_and_packed(lab: &Lab) {
    let script = "echo x > /data/new; busybox rm /data/kept; chmod 600 /etc/group; true";
    drop(lab.run_image(&["--name", "c"], &[&tool(lab), "sh", "-c", script]).expect_code(0));
    let text = lab.cofferdam(&["diff", "c"]).expect_code(0).text();
    let written: Vec<&str> = text.lines().collect();
    assert_eq!(written, ["C /data", "D /data/kept", "A /data/new", "C /etc", "C /etc/group"]);
    // What is mounted is no change.
    drop(lab.run_image(&["--name", "idle"], &[&tool(lab), "true"]).expect_code(0));
    assert_eq!(lab.cofferdam(&["diff", "idle"]).expect_code(0).text(), "");
    drop(lab.cofferdam(&["commit", "idle", "idle:1"]).expect_code(0));
    drop(lab.cofferdam(&["rm", "idle"]).expect_code(0));
    let file = lab.path().join("all.tar");
    drop(lab.cofferdam(&["export", "--output", file.to_str().unwrap(), "c"]).expect_code(0));
    let mut list = cofferdam_testkit::lab::new_command("tar");
    list.arg("tf").arg(&file);
    let names = cofferdam_testkit::lab::finish(list).expect_code(0).text();
    let names: Vec<&str> = names.lines().map(|name| name.trim_start_matches("./")).collect();
    assert!(names.contains(&"data/new") && names.contains(&"bin/busybox"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("kept") || name.contains(".wh.")), "{names:?}");
    assert_eq!(lab.cofferdam(&["export", "c"]).expect_code(0).stdout, std::fs::read(&file).unwrap());
    drop(lab.cofferdam(&["rm", "c"]).expect_code(0));
    lab.expect_clean();
}

fn a_container_becomes_an_image(lab: &Lab) {
    let tool = tool(lab);
    let script = "echo new > /data/new; busybox rm /data/kept; echo up; sleep 1000";
    drop(lab.run_image(&["-d", "--name", "c"], &[&tool, "sh", "-c", script]).expect_code(0));
    eventually("it has written", || lab.cofferdam(&["logs", "c"]).text() == "up");
    let changes = ["--change", "CMD [\"ls\", \"/data\"]", "--change", "ENV D=4", "-m", "a test"];
    let made = lab.cofferdam(&[&["commit"], &changes[..], &["c", "made:1"]].concat()).expect_code(0).text();
    assert!(made.starts_with("sha256:"), "{made}");
    assert_eq!(lab.inspect("c")["state"]["status"], "running", "it was paused for that alone");
    drop(lab.cofferdam(&["rm", "--force", "c"]).expect_code(0));
    assert_eq!(lab.run_image(&["--rm"], &["made:1"]).expect_code(0).text(), "new");
    assert_eq!(lab.run_image(&["--rm"], &["made:1", "sh", "-c", "echo $D"]).expect_code(0).text(), "4");
    let seen = lab.cofferdam(&["image", "inspect", "made:1"]).expect_code(0).json();
    assert_eq!((&seen[0]["id"], &seen[0]["names"]), (&json!(made), &json!(["made:1"])));
    assert_eq!(seen[0]["layers"].as_array().map(Vec::len), Some(3));
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    drop(lab.cofferdam(&["rmi", "made:1"]).expect_code(0));
    // Of a container whose image was removed.
    drop(lab.run_image(&["--name", "c"], &[&tool, "sh", "-c", "echo late > /data/late"]).expect_code(0));
    let base = lab.inspect("c")["source"]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{:#}", lab.inspect("c")))
        .to_owned();
    drop(lab.cofferdam(&["rmi", "--force", &base]).expect_code(0));
    drop(lab.cofferdam(&["commit", "c", "late:1"]).expect_code(0));
    drop(lab.cofferdam(&["rm", "c"]).expect_code(0));
    assert_eq!(lab.run_image(&["--rm"], &["late:1", "cat", "/data/late"]).expect_code(0).text(), "late");
    lab.expect_clean();
}

fn a_killed_commit_leaves_nothing_frozen(lab: &Lab) {
    let script = "busybox dd if=/dev/urandom of=/data/big bs=1M count=96 2>/dev/null; echo up; sleep 1000";
    drop(lab.run_image(&["-d", "--name", "c"], &[&tool(lab), "sh", "-c", script]).expect_code(0));
    eventually("it has written", || lab.cofferdam(&["logs", "c"]).text() == "up");
    let status = || lab.inspect("c")["state"]["status"].as_str().unwrap().to_owned();
    let commit = Running::start(lab.command(["commit", "c", "big:1"]));
    eventually("it is paused", || status() == "paused");
    commit.signal(Signal::KILL);
    drop(commit.finish());
    eventually("it goes on", || status() == "running");
    drop(lab.cofferdam(&["rm", "--force", "c"]).expect_code(0));
    drop(lab.cofferdam(&["gc"]).expect_code(0));
    lab.expect_clean();
}
