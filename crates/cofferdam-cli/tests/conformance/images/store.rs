//! Where images come from, what they are called, and where they go to.

use std::io::Write;
use std::process::Stdio;

use cofferdam_testkit::image::{Layout, layers};
use cofferdam_testkit::lab::{Finished, Lab, Running, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::registry::{RegistryServer, Tls};
use serde_json::{Value, json};

use super::{image, is_one_of_each, is_runc, stored, tool};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("images::come_from_a_registry_once", come_from_a_registry_once)
        .only(is_one_of_each)
        .needs(&[Need::DockerRegistry]),
    case("images::have_names", have_names).only(is_runc),
    case("images::of_containers_are_kept", of_containers_are_kept).only(is_one_of_each),
    case("images::without_use_are_pruned", without_use_are_pruned).only(is_runc),
    case("images::content_that_nobody_needs_is_garbage", content_that_nobody_needs).only(is_runc),
    case("images::go_through_archives", go_through_archives).only(is_runc).needs(&[Need::Skopeo]),
    case("images::what_is_no_archive_is_not_read", what_is_no_archive_is_not_read).only(is_runc),
    case("images::that_are_damaged_are_told_of", that_are_damaged_are_told_of).only(is_runc),
];

/// What the registry wants to hear.
const USER: (&str, &str) = ("reader", "a good password");

/// A command that knows a registry of the test, and has logins of its own.
fn asking(lab: &Lab, registry: &str, args: &[String], input: &str) -> Finished {
    let mut command = lab.command(args);
    command.env("COFFERDAM_INSECURE_REGISTRIES", registry);
    command.env("DOCKER_CONFIG", lab.path().join("docker")).env("HOME", lab.path());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name);
    }
    let mut running = Running::start({
        command.stdin(Stdio::piped());
        command
    });
    // Whoever does not read it has closed it.
    let _ = running.child.stdin.take().unwrap().write_all(input.as_bytes());
    running.finish()
}

fn come_from_a_registry_once(lab: &Lab) {
    let registry = RegistryServer::start(Some(USER), Tls::None);
    let host = registry.host().to_owned();
    let layout = Layout::new(&lab.path().join("oci")).add(
        "app",
        &layers(),
        &json!({ "Env": ["PATH=/bin"], "Cmd": ["cat", "/data/kept"] }),
    );
    let digest = registry.push(&layout, "team/app:1");
    let name = format!("{host}/team/app:1");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let run = |options: &[&str]| {
        asking(lab, &host, &lab.image_args("run", &[&["--rm"], options].concat(), &[&name]), "")
    };
    let login = |password: &str| {
        asking(lab, &host, &words(&["login", "-u", USER.0, "--password-stdin", &host]), password)
    };
    drop(run(&["--pull", "never"]).expect_code(125).expect_error("E0702"));
    drop(run(&[]).expect_code(125).expect_error("E0704"));
    drop(login("another").expect_error("E0704"));
    assert!(!lab.path().join("docker/config.json").exists(), "what is refused is not stored");
    let done = login(&format!("{}\n", USER.1)).expect_code(0);
    assert!(!format!("{done:?}").contains(USER.1), "{done:?}");
    drop(asking(lab, &host, &words(&["pull", &format!("{host}/team/none:1")]), "").expect_error("E0702"));
    assert_eq!(run(&[]).expect_code(0).text(), "of the lower layer");
    assert_eq!(
        asking(lab, &host, &words(&["pull", "-q", &format!("{host}/team/app@{digest}")]), "").code,
        Some(0)
    );
    drop(registry);
    let again = run(&[]).expect_code(0);
    assert_eq!((again.text().as_str(), again.stderr.as_str()), ("of the lower layer", ""));
    drop(run(&["--pull", "never"]).expect_code(0));
    drop(run(&["--pull", "always"]).expect_code(125).expect_error("E0703"));
    drop(asking(lab, &host, &words(&["logout", &host]), "").expect_code(0));
    let logins = std::fs::read_to_string(lab.path().join("docker/config.json")).unwrap_or_default();
    assert!(!logins.contains(&host), "{logins}");
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    lab.expect_clean();
}

fn listed(lab: &Lab) -> Vec<Value> {
    serde_json::from_value(lab.cofferdam(&["images", "--format", "json"]).expect_code(0).json()).unwrap()
}

fn have_names(lab: &Lab) {
    let tool = tool(lab);
    assert_eq!(listed(lab), Vec::<Value>::new());
    stored(lab, &tool, "a:1");
    stored(lab, &tool, "registry.example/b");
    let images = listed(lab);
    assert_eq!(images.len(), 1, "{images:#?}");
    assert_eq!(images[0]["names"], json!(["a:1", "registry.example/b:latest"]));
    assert_eq!(images[0]["layers"].as_array().map(Vec::len), Some(2));
    let id = lab.cofferdam(&["images", "-q"]).expect_code(0).text();
    let seen = lab.cofferdam(&["image", "inspect", "docker.io/library/a:1"]).expect_code(0).json();
    assert_eq!((&seen[0]["id"], &seen[0]["config"]["config"]["Cmd"]), (&images[0]["id"], &json!(["sh"])));
    for name in ["a:1", "registry.example/b", &id, images[0]["id"].as_str().unwrap()] {
        drop(lab.run_image(&["--rm", "--pull", "never"], &[name, "true"]).expect_code(0));
    }
    for wrong in ["A:1", "a:1:2", "/a", "a@sha256:1", ""] {
        drop(lab.cofferdam(&["tag", "a:1", wrong]).expect_error("E0701"));
    }
    drop(lab.cofferdam(&["tag", "none:1", "b:1"]).expect_error("E0702"));
    drop(lab.cofferdam(&["rmi", &id]).expect_error("E0707"));
    assert_eq!(lab.cofferdam(&["rmi", "a:1"]).expect_code(0).text(), "Untagged: a:1");
    let last = lab.cofferdam(&["rmi", "registry.example/b"]).expect_code(0).text();
    assert!(last.starts_with("Untagged: registry.example/b:latest\nDeleted: sha256:"), "{last}");
    drop(lab.cofferdam(&["rmi", "a:1"]).expect_error("E0702"));
    assert_eq!(listed(lab), Vec::<Value>::new());
    lab.expect_clean();
}

fn of_containers_are_kept(lab: &Lab) {
    stored(lab, &tool(lab), "kept:1");
    drop(lab.run_image(&["-d", "--name", "user"], &["kept:1", "sleep", "1000"]).expect_code(0));
    let refused = lab.cofferdam(&["rmi", "kept:1"]).expect_error("E0707");
    let id = lab.inspect("user")["id"].as_str().unwrap().to_owned();
    assert!(refused.stderr.contains(&id[..12]), "it says who: {}", refused.stderr);
    drop(lab.cofferdam(&["kill", "user"]).expect_code(0));
    drop(lab.cofferdam(&["wait", "user"]).expect_code(0));
    drop(lab.cofferdam(&["rmi", "kept:1"]).expect_error("E0707"));
    drop(lab.cofferdam(&["image", "prune", "--all", "--force"]).expect_code(0));
    assert_eq!(listed(lab).len(), 1, "a container that has ended may be started again");
    drop(lab.cofferdam(&["rmi", "--force", "kept:1"]).expect_code(0));
    // Its layers are the container's still.
    let there = lab.path().join("passwd");
    drop(lab.cofferdam(&["cp", "user:/etc/passwd", there.to_str().unwrap()]).expect_code(0));
    drop(lab.cofferdam(&["rm", "user"]).expect_code(0));
    drop(lab.cofferdam(&["image", "prune", "--all", "--force"]).expect_code(0));
    assert_eq!(listed(lab), Vec::<Value>::new());
    lab.expect_clean();
}

fn without_use_are_pruned(lab: &Lab) {
    let other = image(lab, "other", &json!({ "Env": ["PATH=/bin", "C=3"], "Cmd": ["true"] }));
    stored(lab, &tool(lab), "named:1");
    drop(lab.cofferdam(&["pull", "-q", &other]).expect_code(0));
    assert_eq!(listed(lab).len(), 2);
    drop(lab.cofferdam(&["image", "prune"]).expect_error("E0101"));
    drop(lab.cofferdam(&["image", "prune", "--force"]).expect_code(0));
    assert_eq!(listed(lab).len(), 1, "what has no name goes");
    drop(lab.run_image(&["--rm"], &["named:1", "true"]).expect_code(0));
    let done = lab.cofferdam(&["image", "prune", "--all", "--force"]).expect_code(0);
    assert!(done.stderr.contains("2 unpacked layers"), "{}", done.stderr);
    assert_eq!(listed(lab), Vec::<Value>::new());
    lab.expect_clean();
}

fn content_that_nobody_needs(lab: &Lab) {
    stored(lab, &tool(lab), "named:1");
    let gc = |options: &[&str]| {
        lab.cofferdam(&[&["gc", "--format", "json"], options].concat()).expect_code(0).json()
    };
    assert_eq!(gc(&[]), json!([]), "an image is none, whether somebody uses it or not");
    let store = lab.data().join("images");
    let blob = store.join("blobs/sha256").join("0".repeat(64));
    std::fs::write(&blob, "nobody's").unwrap();
    let half = store.join("partial/half-of-a-layer");
    std::fs::create_dir_all(half.join("fs/bin")).unwrap();
    let expected = |done: bool| {
        let (what, why) =
            ("1 blobs, 0 unpacked layers, 1 partial", "neither an image nor a container needs it");
        json!([{ "kind": "image", "what": what, "why": why, "done": done }])
    };
    assert_eq!(gc(&["--dry-run"]), expected(false));
    assert!(blob.exists() && half.exists());
    assert_eq!(gc(&[]), expected(true));
    assert!(!blob.exists() && !half.exists());
    // An image that a container is made of is kept for it, removed or not; then it is garbage.
    drop(lab.run_image(&["-d", "--name", "uses"], &["named:1", "sleep", "1000"]).expect_code(0));
    drop(lab.cofferdam(&["rmi", "--force", "named:1"]).expect_code(0));
    assert_eq!(gc(&[]), json!([]));
    drop(lab.cofferdam(&["rm", "-f", "uses"]).expect_code(0));
    assert_eq!(gc(&[])[0]["what"], "4 blobs, 2 unpacked layers, 0 partial");
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    lab.expect_clean();
}

fn go_through_archives(lab: &Lab) {
    stored(lab, &tool(lab), "app:1");
    drop(lab.cofferdam(&["tag", "app:1", "app:2"]).expect_code(0));
    let id = listed(lab)[0]["id"].clone();
    for format in ["docker-archive", "oci-archive", "oci"] {
        let file = lab.path().join(format);
        let file = file.to_str().unwrap();
        drop(lab.cofferdam(&["save", "--format", format, "-o", file, "app:1"]).expect_code(0));
        let mut inspect = new_command("skopeo");
        inspect.args(["inspect", "--config", &format!("{format}:{file}")]);
        let config = finish(inspect).expect_code(0).json();
        assert_eq!(config["config"]["Cmd"], json!(["sh"]), "{format}");
        drop(lab.cofferdam(&["rmi", "--force", id.as_str().unwrap()]).expect_code(0));
        drop(lab.cofferdam(&["image", "prune", "--all", "--force"]).expect_code(0));
        let loaded = lab.cofferdam(&["load", "--quiet", "--input", file]).expect_code(0).text();
        assert_eq!(loaded, "Loaded image: app:1", "{format}");
        let images = listed(lab);
        assert_eq!((images.len(), &images[0]["id"]), (1, &id), "{format} brings the same image back");
        let done = lab.run_image(&["--rm", "--pull", "never"], &["app:1", "sh", "-c", "ls /data"]);
        assert_eq!(done.expect_code(0).text(), "kept");
    }
    // Through a pipe.
    let archive = lab.cofferdam(&["save", "app:1"]).expect_code(0).stdout;
    let mut load = lab.command(["load"]);
    load.stdin(Stdio::piped());
    let mut load = Running::start(load);
    load.child.stdin.take().unwrap().write_all(&archive).unwrap();
    drop(load.finish().expect_code(0));
    let wrong = lab.path().join("wrong");
    std::fs::write(&wrong, &archive[..archive.len() / 2]).unwrap();
    drop(lab.cofferdam(&["load", "-i", wrong.to_str().unwrap()]).expect_error("E0705"));
    drop(lab.cofferdam(&["save", "none:1"]).expect_error("E0702"));
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    lab.expect_clean();
}

fn what_is_no_archive_is_not_read(lab: &Lab) {
    let load = |path: &str, code: &str, word: &str| {
        let done = lab.cofferdam(&["load", "--input", path]).expect_error(code);
        assert!(done.stderr.contains(word), "{}", done.stderr);
    };
    load("/dev/zero", "E0705", "neither a file nor a pipe");
    let path = |name: &str| lab.path().join(name).to_str().unwrap().to_owned();
    load(&path("missing.tar"), "E0708", "whether the path is right");
    // By its ratio it would be unpacked.
    let made = finish({
        let mut make = new_command("sh");
        make.args([
            "-c",
            &format!("busybox dd if=/dev/zero bs=1M count=64 | gzip -1 > {}", path("zeros.gz")),
        ]);
        make
    });
    drop(made.expect_code(0));
    load(&path("zeros.gz"), "E0705", "it is no tar");
    lab.expect_clean();
}

fn that_are_damaged_are_told_of(lab: &Lab) {
    let tool = tool(lab);
    stored(lab, &tool, "app:1");
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    let layer = listed(lab)[0]["layers"][0].as_str().unwrap().replace(':', "/");
    let blob = lab.data().join("images/blobs").join(layer);
    let mut content = std::fs::read(&blob).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, content).unwrap();
    let told = lab.cofferdam(&["image", "verify"]).expect_code(1).text();
    assert!(told.contains(blob.file_name().unwrap().to_str().unwrap()), "{told}");
    drop(lab.cofferdam(&["image", "verify", "--remove"]).expect_code(1));
    assert!(!blob.exists());
    drop(lab.cofferdam(&["image", "verify"]).expect_code(1));
    drop(lab.cofferdam(&["pull", "--quiet", &tool]).expect_code(0));
    drop(lab.cofferdam(&["image", "verify"]).expect_code(0));
    drop(lab.run_image(&["--rm"], &["app:1", "true"]).expect_code(0));
    lab.expect_clean();
}
