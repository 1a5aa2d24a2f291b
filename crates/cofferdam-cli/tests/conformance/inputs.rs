//! Bad inputs: each gets a clear error with its code, in time, and leaves nothing.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_testkit::fixture::{bundle, spec};
use cofferdam_testkit::lab::{Finished, Lab, finish};
use cofferdam_testkit::runtimes::Choice;
use serde_json::{Value, json};

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("inputs::root_file_systems_that_are_traps", root_file_systems_that_are_traps),
    case("inputs::words_that_do_not_fit", words_that_do_not_fit).only(|choice| *choice == Choice::Fake),
    case("inputs::names_and_ids", names_and_ids),
    case("inputs::bundles_that_are_none", bundles_that_are_none),
    case("inputs::specifications_that_cannot_be_right", specifications_that_cannot_be_right),
    case("inputs::root_file_systems_that_are_none", root_file_systems_that_are_none),
    case("inputs::arguments_that_are_too_long", arguments_that_are_too_long),
    case("inputs::ten_thousand_variables_are_fine", ten_thousand_variables_are_fine),
    case("inputs::state_directories_that_cannot_be", state_directories_that_cannot_be),
    case("inputs::runtimes_that_are_none", runtimes_that_are_none),
    case("inputs::users_who_may_not", users_who_may_not),
    case("inputs::hooks_that_fail", hooks_that_fail).real(),
];

/// No refusal may take longer: it is one look at a file or two.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);

fn refused(lab: &Lab, code: &str, args: &[&str]) {
    let began = Instant::now();
    drop(lab.cofferdam(args).expect_code(125).expect_error(code));
    assert!(began.elapsed() < REFUSAL_LIMIT, "{args:?} took {:?}", began.elapsed());
}

fn names_and_ids(lab: &Lab) {
    let rootfs = lab.rootfs.to_string_lossy();
    let long = "a".repeat(1000);
    for name in ["", ".", "..", "../x", "a/b", "-x", "--help", "a\nb", "%0a", "ä", &long] {
        refused(lab, "E0101", &["run", &format!("--name={name}"), "--rootfs", &rootfs, "true"]);
        for verb in ["kill", "stop", "rm", "start", "wait", "inspect", "pause", "top"] {
            drop(lab.cofferdam(&[verb, "--", name]).expect_error("E0103"));
        }
    }
    let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let mut command = lab.command(["rm", "--"]);
    command.arg(bytes);
    drop(finish(command).expect_error("E0101"));
    lab.expect_clean();
}

fn bundles_that_are_none(lab: &Lab) {
    let run = |code: &str, path: &Path| refused(lab, code, &["run", "--bundle", &path.to_string_lossy()]);
    run("E0110", &lab.path().join("nowhere"));
    run("E0110", Path::new("/etc/passwd"));
    let path = lab.path().join("bundle");
    std::fs::create_dir(&path).unwrap();
    let config = path.join("config.json");
    run("E0111", &path);
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    run("E0111", &path);
    std::fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &config).unwrap();
    run("E0111", &path);
    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&config).unwrap();
    run("E0111", &path);
    std::fs::remove_dir(&config).unwrap();
    std::fs::File::create(&config).unwrap().set_len(100 << 20).unwrap();
    run("E0112", &path);
    for text in ["", "{", "null", "[]", "42", "\"x\"", "{\"process\": 1}x", "\u{feff}{}"] {
        std::fs::write(&config, text).unwrap();
        run("E0113", &path);
    }
    std::fs::write(&config, "[".repeat(100_000)).unwrap();
    run("E0113", &path);
    std::fs::write(&config, b"{\"a\": \"\xc3\x28\"}").unwrap();
    run("E0113", &path);
    lab.expect_clean();
}

/// A change that makes a specification wrong.
type Change<'a> = &'a dyn Fn(&mut Value);

fn specifications_that_cannot_be_right(lab: &Lab) {
    let path = bundle(lab.path(), "b", &spec(&["/bin/true"]));
    let try_with = |code: &str, change: Change<'_>| {
        let mut config = spec(&["/bin/true"]);
        change(&mut config);
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        refused(lab, code, &["run", "--network", "none", "--bundle", &path.to_string_lossy()]);
    };
    let wrong: [(&str, Change<'_>); 17] = [
        ("E0114", &|c| c["ociVersion"] = "9.9.9".into()),
        ("E0114", &|c| c["ociVersion"] = "".into()),
        ("E0114", &|c| drop(c.as_object_mut().unwrap().remove("process"))),
        ("E0114", &|c| c["process"]["args"] = json!([])),
        ("E0114", &|c| c["process"]["args"] = json!(["a\0b"])),
        ("E0114", &|c| c["process"]["cwd"] = "relative".into()),
        ("E0114", &|c| c["process"]["cwd"] = "/proc/self/fd/7".into()),
        ("E0114", &|c| c["process"]["env"] = json!(["=x"])),
        ("E0114", &|c| c["process"]["env"] = json!(["X"])),
        ("E0114", &|c| c["process"]["user"]["uid"] = 4_294_967_295_u64.into()),
        ("E0114", &|c| c["process"]["user"]["uid"] = json!(-1)),
        ("E0114", &|c| c["root"]["path"] = "../../..".into()),
        ("E0114", &|c| drop(c.as_object_mut().unwrap().remove("root"))),
        ("E0114", &|c| c["mounts"] = json!([{ "destination": "x", "type": "tmpfs", "source": "tmpfs" }])),
        ("E0114", &|c| c["mounts"] = json!([{ "destination": "/../x", "type": "tmpfs", "source": "tmpfs" }])),
        ("E0114", &|c| c["hooks"] = json!({ "prestart": [{ "path": "relative" }] })),
        ("E0117", &|c| {
            c["mounts"] = json!([{ "destination": "/x", "type": "bind", "source": "/nonexistent", "options": ["bind"] }])
        }),
    ];
    for (code, change) in wrong {
        try_with(code, change);
    }
    lab.expect_clean();
}

fn root_file_systems_that_are_none(lab: &Lab) {
    let directory = lab.path().to_string_lossy().into_owned();
    std::os::unix::fs::symlink("/nonexistent", lab.path().join("dangling")).unwrap();
    for path in ["nowhere", "dangling"] {
        refused(lab, "E0115", &["run", "--rootfs", &format!("{directory}/{path}"), "true"]);
    }
    refused(lab, "E0115", &["run", "--rootfs", "/etc/passwd", "true"]);
    refused(lab, "E0115", &["run", "--rootfs", "/", "true"]);
    refused(lab, "E0101", &["run", "--rootfs", &lab.rootfs.to_string_lossy()]);
    refused(lab, "E0101", &["run"]);
    // A root that is a link inside a bundle is refused: its maker decides where it leads.
    let path = bundle(lab.path(), "b", &spec(&["/bin/true"]));
    std::fs::remove_dir_all(path.join("rootfs")).unwrap();
    std::os::unix::fs::symlink(&lab.rootfs, path.join("rootfs")).unwrap();
    refused(lab, "E0115", &["run", "--bundle", &path.to_string_lossy()]);
    lab.expect_clean();
}

fn root_file_systems_that_are_traps(lab: &Lab) {
    // runc opens the account files, whoever it runs as, and waits for a writer of a FIFO.
    for file in ["passwd", "group"] {
        let path = lab.rootfs.join("etc").join(file);
        let before = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        drop(lab.run(&[], &["true"]).expect_code(125).expect_error("E0116"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, before).unwrap();
    }
    drop(lab.run(&["-w", "/etc/passwd"], &["true"]).expect_error("E0101"));
    drop(lab.run(&["-w", "/etc/passwd/x"], &["true"]).expect_error("E0101"));
    drop(lab.run(&["-v", "/tmp:/proc/x"], &["true"]).expect_error("E0101"));
    // The fake is no container: it cannot make the directory.
    if lab.choice.is_real() {
        drop(lab.run(&["--rm", "-w", "/made/for/it"], &["true"]).expect_code(0));
    }
    lab.expect_clean();
}

fn arguments_that_are_too_long(lab: &Lab) {
    let rootfs = lab.rootfs.to_string_lossy();
    // The kernel refuses a longer argument to us already, so it comes by file.
    let file = lab.path().join("env");
    std::fs::write(&file, format!("A={}", "x".repeat(200_000))).unwrap();
    refused(lab, "E0101", &["run", "--rootfs", &rootfs, "--env-file", &file.to_string_lossy(), "true"]);
    lab.expect_clean();
}

fn ten_thousand_variables_are_fine(lab: &Lab) {
    let file = lab.path().join("env");
    let lines: Vec<String> = (0..10_000).map(|index| format!("V{index}={index}")).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let done = lab.run(&["--rm", "--env-file", &file.to_string_lossy()], &["sh", "-c", "echo $V9999"]);
    assert_eq!(done.expect_code(0).text(), "9999");
}

fn state_directories_that_cannot_be(lab: &Lab) {
    let run = |state: &str| -> Finished {
        let mut command = lab.command(lab.launch_args("run", &[], &["true"]));
        command.env("COFFERDAM_STATE_DIR", state);
        finish(command)
    };
    let open = lab.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let long = format!("/tmp/{}", "x".repeat(60));
    for state in ["relative", "/etc/passwd", "/proc/nowhere", &open.to_string_lossy(), &long] {
        drop(run(state).expect_code(125).expect_error("E0601"));
    }
}

fn runtimes_that_are_none(lab: &Lab) {
    let run = |runtime: &str| -> Finished {
        let mut command = lab.command(lab.launch_args("run", &[], &["true"]));
        command.env("COFFERDAM_RUNTIME", runtime);
        finish(command).expect_code(125)
    };
    for missing in ["/nonexistent/runc", "/etc/passwd", "/tmp"] {
        drop(run(missing).expect_error("E0201"));
    }
    drop(run("docker").expect_error("E0101"));
    drop(run("/bin/true").expect_error("E0202"));
    drop(run("/bin/busybox").expect_error("E0202"));
    lab.expect_clean();
}

fn words_that_do_not_fit(lab: &Lab) {
    let id = "0123456789abcdef0123456789abcdef";
    let run = |options: &[&str]| lab.run(options, &["true"]);
    drop(run(&["--name", id]).expect_error("E0101"));
    drop(run(&["--stdout", "/tmp/x"]).expect_error("E0101"));
    for limit in ["99999999999", "0", "-2"] {
        drop(run(&["--pids-limit", limit]).expect_error("E0101"));
    }
    drop(run(&["--ulimit", "nofile=2"]).expect_error("E0101"));
    assert!(run(&["--cpus", "1e300"]).expect_error("E0101").stderr.contains("1e300"));
    let mut command = lab.command(["ps"]);
    command.env("COFFERDAM_LOG", "loud!");
    assert!(finish(command).expect_error("E0101").stderr.contains("loud!"));
    let help = lab.cofferdam(&[]).expect_code(0);
    assert!(help.text().contains("Usage:") && help.stderr.is_empty(), "{help:?}");
    // As long as anybody can say, and no longer than a clock can tell.
    let longest = u64::MAX.to_string();
    for limit in [&longest, "900000000 years"] {
        drop(run(&["--rm", "--timeout", limit, "--stop-timeout", limit]).expect_code(0));
    }
    lab.expect_clean();
}

fn users_who_may_not(lab: &Lab) {
    // Below the lab's directory nobody else can look; the binary is where everybody can.
    let mut command = lab.command(lab.launch_args("run", &[], &["true"]));
    command.env_remove("COFFERDAM_STATE_DIR").uid(65534).gid(65534);
    let done = finish(command).expect_code(125).expect_error("E0118");
    assert!(done.stderr.contains("sudo"), "{}", done.stderr);
    // Who has a runtime directory can look at what there is: a state directory of his own, with nothing in it.
    let own = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(own.path(), Some(65534), Some(65534)).unwrap();
    for (args, code) in [(vec!["ps", "--own", "--quiet"], 0), (vec!["run", "--rootfs", "/", "true"], 125)] {
        let mut command = lab.command(&args);
        command.env_remove("COFFERDAM_STATE_DIR").env("XDG_RUNTIME_DIR", own.path()).uid(65534).gid(65534);
        let done = finish(command).expect_code(code);
        assert!(code == 0 || done.stderr.contains("E0118"), "{args:?}: {}", done.stderr);
    }
    assert!(own.path().join("cofferdam/containers").is_dir());
}

fn hooks_that_fail(lab: &Lab) {
    let path = bundle(lab.path(), "b", &spec(&["/bin/true"]));
    for hook in [json!({ "path": "/nonexistent/hook" }), json!({ "path": "/bin/false" })] {
        let mut config = spec(&["/bin/true"]);
        config["hooks"] = json!({ "createRuntime": [hook] });
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        let parent = lab.cgroup_parent();
        let args =
            ["run", "--network", "none", "--cgroup-parent", &parent, "--bundle", &path.to_string_lossy()];
        drop(lab.cofferdam(&args).expect_code(125).expect_error("E0204"));
        lab.expect_clean();
    }
}
