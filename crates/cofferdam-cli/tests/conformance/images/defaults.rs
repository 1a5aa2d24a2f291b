//! What an image brings its containers beside a command: volumes, and a way to ask them whether they are well.

use cofferdam_testkit::lab::{Lab, eventually};
use serde_json::json;

use super::{image, is_one_of_each, is_runc};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("images::volumes_of_an_image_are_made", volumes_are_made).only(is_one_of_each),
    case("images::volumes_that_make_no_sense_are_refused", wrong_volumes_are_refused).only(is_runc),
    case("images::a_health_check_of_an_image_is_asked", a_health_check_is_asked).only(is_one_of_each),
    case("images::a_health_check_that_is_none_is_told", a_wrong_health_check_is_told).only(is_runc),
];

fn volumes(lab: &Lab) -> Vec<String> {
    lab.cofferdam(&["volume", "ls", "-q"]).expect_code(0).text().lines().map(str::to_owned).collect()
}

fn volumes_are_made(lab: &Lab) {
    let config = json!({
        "Env": ["PATH=/bin"], "Cmd": ["sleep", "1000"],
        "Volumes": { "/data/": {}, "/home/app": {}, "/srv/new": {} },
    });
    let app = image(lab, "app", &config);
    drop(lab.run_image(&["-d", "--name", "app", "-v", "named:/home/app"], &[&app]).expect_code(0));
    assert_eq!(volumes(lab).len(), 3);
    let mounts = lab.inspect("app")["mounts"].take();
    let of = |place: &str| {
        mounts.as_array().unwrap().iter().find(|mount| mount["destination"] == place).unwrap().clone()
    };
    assert_eq!((&of("/data")["anonymous"], &of("/srv/new")["type"]), (&json!(true), &json!("volume")));
    assert_eq!(of("/home/app")["volume"], "named", "the user's word comes first");
    let script = "cat /data/kept; echo mine > /data/mine; echo new > /srv/new/file; echo written";
    let done = lab.cofferdam(&["exec", "app", "sh", "-c", script]).expect_code(0);
    assert_eq!(done.text(), "of the lower layer\nwritten");
    let written = std::path::Path::new(of("/data")["source"].as_str().unwrap()).join("mine");
    assert_eq!(std::fs::read_to_string(written).unwrap(), "mine\n", "it is outside of the root filesystem");
    drop(lab.cofferdam(&["rm", "-f", "-v", "app"]).expect_code(0));
    assert_eq!(volumes(lab), ["named"]);
    let script = "test ! -e /data/mine && cat /data/kept";
    drop(lab.run_image(&["--rm", "--tmpfs", "/srv/new"], &[&app, "sh", "-c", script]).expect_code(0));
    assert_eq!(volumes(lab), ["named"], "they go with a container that is removed");
    drop(lab.cofferdam(&["volume", "rm", "named"]).expect_code(0));
    lab.expect_clean();
}

fn wrong_volumes_are_refused(lab: &Lab) {
    let many: serde_json::Map<_, _> = (0..101).map(|n| (format!("/v{n}"), json!({}))).collect();
    for (tag, volumes) in [
        ("relative", json!({ "data": {} })),
        ("up", json!({ "/data/../../etc": {} })),
        ("proc", json!({ "/proc": {} })),
        ("many", json!(many)),
    ] {
        let app = image(lab, tag, &json!({ "Cmd": ["/bin/true"], "Volumes": volumes }));
        let done = lab.run_image(&["--rm"], &[&app]).expect_code(125).expect_error("E0101");
        assert!(done.stderr.contains("the configuration of"), "{}", done.stderr);
    }
    lab.expect_clean();
}

fn a_health_check_is_asked(lab: &Lab) {
    let check = json!({
        "Test": ["CMD-SHELL", "echo looking; test -e /tmp/well"],
        "Interval": 200_000_000, "StartPeriod": 60_000_000_000_u64, "Retries": 2,
    });
    let app =
        image(lab, "app", &json!({ "Env": ["PATH=/bin"], "Cmd": ["sleep", "1000"], "Healthcheck": check }));
    drop(lab.run_image(&["-d", "--name", "app"], &[&app]).expect_code(0));
    drop(lab.cofferdam(&["wait", "--for", "healthy", "--timeout", "300ms", "app"]).expect_code(124));
    drop(
        lab.cofferdam(&["exec", "app", "sh", "-c", "busybox mkdir -p /tmp; echo > /tmp/well"]).expect_code(0),
    );
    drop(lab.cofferdam(&["wait", "--for", "healthy", "app"]).expect_code(0));
    assert_eq!(lab.inspect("app")["health"]["log"][0]["output"], "looking");
    // The caller's numbers hold for the image's command, and another command replaces it.
    let numbers = ["--health-start-period", "0s", "--health-retries", "1"];
    drop(lab.run_image(&[&["-d", "--name", "ill"], &numbers[..]].concat(), &[&app]).expect_code(0));
    eventually("it is ill", || lab.inspect("ill")["health"]["status"] == "unhealthy");
    assert_eq!(lab.inspect("ill")["health"]["log"][0]["output"], "looking");
    drop(lab.run_image(&["-d", "--name", "own", "--health-cmd", "true"], &[&app]).expect_code(0));
    drop(lab.cofferdam(&["wait", "--for", "healthy", "own"]).expect_code(0));
    drop(lab.run_image(&["-d", "--name", "not", "--no-healthcheck"], &[&app]).expect_code(0));
    assert!(lab.inspect("not")["health"].is_null());
    drop(lab.cofferdam(&["rm", "-f", "app", "ill", "own", "not"]).expect_code(0));
    lab.expect_clean();
}

fn a_wrong_health_check_is_told(lab: &Lab) {
    for (tag, check) in [("word", json!("curl")), ("bare", json!({ "Test": ["curl"] }))] {
        let app = image(lab, tag, &json!({ "Cmd": ["/bin/true"], "Healthcheck": check }));
        let done = lab.run_image(&["--rm"], &[&app]).expect_code(0);
        assert!(done.stderr.contains("Healthcheck"), "{}", done.stderr);
    }
    lab.expect_clean();
}
