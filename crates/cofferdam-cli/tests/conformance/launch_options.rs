//! What a container is given, looked at from inside, and what it is not given.

use cofferdam_testkit::fixture::{bundle, spec};
use cofferdam_testkit::lab::{Lab, finish, new_command};
use cofferdam_testkit::needs::Need;
use serde_json::json;

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("options::environment_directory_and_host_name", environment_directory_and_host_name),
    case("options::users_are_looked_up_inside", users_are_looked_up_inside).real(),
    case("options::volumes_are_bound", volumes_are_bound).real(),
    case("options::shared_memory_has_its_size", shared_memory_has_its_size).real(),
    case("options::a_read_only_root", a_read_only_root).real(),
    case("options::the_default_is_strict", the_default_is_strict).real(),
    case("options::capabilities_come_and_go", capabilities_come_and_go).real(),
    case("options::the_host_stays_hidden", the_host_stays_hidden)
        .only(|choice| choice.is_real() && !choice.is_gvisor()),
    case("options::limits_are_set", limits_are_set).real(),
    case("options::limits_above_our_own_are_lowered_with_a_word", limits_above_our_own_are_lowered).real(),
    case("options::cgroups_that_cannot_be_written", cgroups_that_cannot_be_written).real(),
    case("options::a_bundle_runs_as_it_says", a_bundle_runs_as_it_says),
    case("options::a_bundle_bends_to_the_command_line", a_bundle_bends_to_the_command_line),
    case("options::a_dry_run_starts_nothing", a_dry_run_starts_nothing),
    case("options::hooks_run_after_the_end", hooks_run_after_the_end).real(),
    case("options::an_init_before_the_command", an_init_before_the_command).real().needs(&[Need::Catatonit]),
    case("options::labels_and_files_of_ids", labels_and_files_of_ids),
];

fn environment_directory_and_host_name(lab: &Lab) {
    let file = lab.path().join("env");
    std::fs::write(&file, "# a comment\nB=2\n\nPATH\n").unwrap();
    let file = file.to_string_lossy();
    let options = [
        "--rm",
        "-e",
        "A=x y",
        "-e",
        "UNSET_BY_CALLER",
        "--env-file",
        &file,
        "-w",
        "/data",
        "--hostname",
        "h1",
    ];
    let done = lab.run(
        &options,
        &["/bin/sh", "-c", "echo $A-$B-$PWD; /bin/env | /bin/grep -c UNSET_BY_CALLER; /bin/hostname"],
    );
    let text = done.expect_code(0).text();
    let expected = if lab.choice.is_real() { "h1" } else { text.lines().last().unwrap_or_default() };
    assert_eq!(text.lines().collect::<Vec<_>>(), ["x y-2-/data", "0", expected]);
}

fn users_are_looked_up_inside(lab: &Lab) {
    let id = |user: &str| lab.run(&["--rm", "-u", user], &["sh", "-c", "id -u; id -g; id -G; echo $HOME"]);
    assert_eq!(id("web").expect_code(0).text(), "1000\n1000\n1000 2000\n/data");
    assert_eq!(id("1000:0").expect_code(0).text().lines().take(2).collect::<Vec<_>>(), ["1000", "0"]);
    assert_eq!(id("4242").expect_code(0).text().lines().take(2).collect::<Vec<_>>(), ["4242", "0"]);
    for unknown in ["nobody", "web:nogroup"] {
        drop(id(unknown).expect_error("E0116"));
    }
    for hostile in ["4294967295", "2147483648", "-1", "0x0", "+0", ""] {
        drop(id(hostile).expect_error("E0101"));
    }
    lab.expect_clean();
}

fn volumes_are_bound(lab: &Lab) {
    let outside = lab.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "seen").unwrap();
    let volume = format!("{}:/data", outside.display());
    drop(
        lab.run(&["--rm", "-v", &volume], &["sh", "-c", "cat /data/file; echo new > /data/new"])
            .expect_code(0),
    );
    assert_eq!(std::fs::read_to_string(outside.join("new")).unwrap(), "new\n");
    let read_only = format!("{volume}:ro");
    let done = lab.run(&["--rm", "-v", &read_only], &["sh", "-c", "echo x > /data/x"]);
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(!outside.join("x").exists());
    drop(lab.run(&["--rm", "-v", "/nonexistent:/data"], &["true"]).expect_error("E0117"));
    for wrong in ["/x:", "x:/y", "/x:y", "/x:/", "/x:/a/../b", "/x:/y:zz"] {
        drop(lab.run(&["--rm", "-v", wrong], &["true"]).expect_error("E0101"));
    }
    lab.expect_clean();
}

fn shared_memory_has_its_size(lab: &Lab) {
    // `stat` counts blocks of its file system.
    let script = "echo $(($(stat -f -c '%b * %S' /dev/shm)))";
    let size = |options: &[&str]| {
        let done = lab.run(&[options, &["--rm"]].concat(), &["sh", "-c", script]).expect_code(0);
        done.text().parse::<u64>().unwrap()
    };
    assert_eq!((size(&[]), size(&["--shm-size", "100m"])), (64 << 20, 100 << 20));
    drop(lab.run(&["--shm-size", "much"], &["true"]).expect_error("E0101"));
    lab.expect_clean();
}

fn a_read_only_root(lab: &Lab) {
    let script = "echo x > /data/x || echo refused; echo y > /dev/shm/y && echo tmpfs";
    let done = lab.run(&["--rm", "--read-only"], &["sh", "-c", script]).expect_code(0);
    assert_eq!(done.text(), "refused\ntmpfs");
    assert!(!lab.rootfs.join("data/x").exists());
}

fn the_default_is_strict(lab: &Lab) {
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; \
                  echo 3 > /proc/sys/vm/drop_caches && echo DROPPED; \
                  mknod /tmp/d b 8 0 && echo DEVICE; mount -t tmpfs x /tmp && echo MOUNTED; true";
    let text = lab.run(&["--rm"], &["sh", "-c", script]).expect_code(0).text();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
    };
    let capabilities = u64::from_str_radix(&field("CapEff"), 16).unwrap();
    for (name, bit) in
        [("SYS_ADMIN", 21), ("NET_RAW", 13), ("MKNOD", 27), ("SYS_MODULE", 16), ("SYS_PTRACE", 19)]
    {
        assert_eq!(capabilities >> bit & 1, 0, "CAP_{name} is there: {text}");
    }
    assert_eq!(capabilities >> 10 & 1, 1, "NET_BIND_SERVICE is there: {text}");
    if !lab.choice.is_gvisor() {
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{text}");
    }
    for leak in ["DROPPED", "MOUNTED"] {
        assert!(!text.contains(leak), "{text}");
    }
    // An older gVisor lets a guest make nodes of devices that its kernel does not have.
    assert!(lab.choice.is_gvisor() || !text.contains("DEVICE"), "{text}");
}

fn capabilities_come_and_go(lab: &Lab) {
    let effective = |options: &[&str]| {
        let options: Vec<&str> = ["--rm"].iter().chain(options).copied().collect();
        let text = lab.run(&options, &["grep", "CapEff", "/proc/self/status"]).expect_code(0).text();
        u64::from_str_radix(text.trim_start_matches("CapEff:").trim(), 16).unwrap()
    };
    assert_eq!(effective(&["--cap-drop", "ALL"]), 0);
    assert_eq!(effective(&["--cap-drop", "ALL", "--cap-add", "kill"]), 1 << 5);
    drop(lab.run(&["--cap-add", "NOPE"], &["true"]).expect_error("E0101"));
}

fn the_host_stays_hidden(lab: &Lab) {
    let script = "cat /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware | wc -l; cat /proc/keys 2>/dev/null | wc -l; cat /proc/1/comm; hostname";
    let done = lab.run(&["--rm", "--name", "h"], &["sh", "-c", script]).expect_code(0);
    let text = done.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..4], ["0", "0", "0", "sh"], "{text}");
    assert_eq!(lines[4].len(), 12, "the host name is the short id: {text}");
}

fn limits_are_set(lab: &Lab) {
    let options = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "64", "--ulimit", "nofile=100:200"];
    let id = lab.run_detached(&options, &["sh", "-c", "ulimit -n > /data/nofile; sleep 1000"]);
    let leaf = lab.cgroup_of(&id);
    let read = |paths: &[&str]| {
        let text =
            paths.iter().find_map(|path| std::fs::read_to_string(format!("/sys/fs/cgroup/{path}")).ok());
        text.unwrap_or_default().trim().to_owned()
    };
    let memory = format!("memory{leaf}/memory.limit_in_bytes");
    let limit = (64 << 20) + crate::limits::headroom(lab, 64 << 20);
    assert_eq!(read(&[&memory, &format!("{leaf}/memory.max")]), limit.to_string());
    let quota = read(&[&format!("cpu{leaf}/cpu.cfs_quota_us"), &format!("{leaf}/cpu.max")]);
    assert!(quota.starts_with("50000"), "{quota}");
    assert_eq!(read(&[&format!("pids{leaf}/pids.max"), &format!("{leaf}/pids.max")]), "64");
    cofferdam_testkit::lab::eventually("it has looked", || lab.rootfs.join("data/nofile").exists());
    let nofile = || std::fs::read_to_string(lab.rootfs.join("data/nofile")).unwrap_or_default();
    cofferdam_testkit::lab::eventually("it has written", || nofile().trim() == "100");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    for wrong in
        [["-m", "5m"], ["-m", "x"], ["--cpus", "0"], ["--pids-limit", "0"], ["--ulimit", "nofile=2:1"]]
    {
        drop(lab.run(&wrong, &["true"]).expect_error("E0101"));
    }
    lab.expect_clean();
}

fn limits_above_our_own_are_lowered(lab: &Lab) {
    let done = lab.run(&["--rm", "--ulimit", "nofile=1000000000:1000000000"], &["sh", "-c", "ulimit -n"]);
    let done = done.expect_code(0);
    assert!(done.stderr.contains("RLIMIT_NOFILE was lowered"), "{}", done.stderr);
}

fn cgroups_that_cannot_be_written(lab: &Lab) {
    let read_only = "for m in $(awk '/ - cgroup/ {print $5}' /proc/self/mountinfo); do mount -o remount,bind,ro $m; done; exec \"$@\"";
    let run = |options: &[&str]| {
        let rootfs = lab.rootfs.to_string_lossy();
        let inner =
            lab.command([&["run", "--rm", "--rootfs", &rootfs], options, &["sh", "-c", "exit 7"]].concat());
        let mut command = new_command("unshare");
        command
            .args(["--mount", "sh", "-c", read_only, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        finish(command)
    };
    drop(run(&[]).expect_code(7));
    drop(run(&["-m", "64m"]).expect_code(125).expect_error("E0411"));
    lab.expect_clean();
}

fn a_bundle_runs_as_it_says(lab: &Lab) {
    let path = bundle(lab.path(), "b1", &spec(&["/bin/sh", "-c", "echo from the bundle; exit 6"]));
    let parent = lab.cgroup_parent();
    let path = path.to_string_lossy();
    let done =
        lab.cofferdam(&["run", "--rm", "--network", "none", "--cgroup-parent", &parent, "--bundle", &path]);
    assert_eq!(done.expect_code(6).text(), "from the bundle");
    let entries: Vec<_> =
        std::fs::read_dir(&*path).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(entries.len(), 2, "the given bundle is left as it was: {entries:?}");
    lab.expect_clean();
}

fn a_bundle_bends_to_the_command_line(lab: &Lab) {
    let mut config = spec(&["/bin/false"]);
    config["process"]["terminal"] = true.into();
    config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=1"]);
    let path = bundle(lab.path(), "b2", &config);
    let parent = lab.cgroup_parent();
    let path = path.to_string_lossy();
    let args = [
        "run",
        "--rm",
        "--cgroup-parent",
        &parent,
        "--bundle",
        &path,
        "-e",
        "A=2",
        "/bin/sh",
        "-c",
        "echo $A$B; exit 4",
    ];
    let done = lab.cofferdam(&args);
    assert_eq!(done.expect_code(4).text(), "21", "without -t there is no terminal to wait for");
    lab.expect_clean();
}

fn a_dry_run_starts_nothing(lab: &Lab) {
    let path = bundle(lab.path(), "b3", &spec(&["/bin/true"]));
    let path = path.to_string_lossy();
    let done = lab.cofferdam(&["run", "--dry-run", "-m", "64m", "--bundle", &path]).expect_code(0);
    let config = done.json();
    assert_eq!(config["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert!(config["linux"]["cgroupsPath"].as_str().unwrap().starts_with("/cofferdam-"));
    for reason in
        ["added /linux/cgroupsPath: a cgroup of its own", "--memory", "/root/path: an absolute path"]
    {
        assert!(done.stderr.contains(reason), "{reason}: {}", done.stderr);
    }
    lab.expect_clean();
}

fn hooks_run_after_the_end(lab: &Lab) {
    let marker = lab.path().join("stopped");
    let script = lab.path().join("hook");
    std::fs::write(&script, format!("#!/bin/sh\necho once >> {}\n", marker.display())).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut config = spec(&["/bin/sh", "-c", "exit 4"]);
    config["hooks"] = json!({ "poststop": [{ "path": script }] });
    let path = bundle(lab.path(), "hooked", &config);
    let (path, parent) = (path.to_string_lossy(), lab.cgroup_parent());
    let args = ["run", "--rm", "--network", "none", "--cgroup-parent", &parent, "--bundle", &path];
    drop(lab.cofferdam(&args).expect_code(4));
    assert_eq!(std::fs::read_to_string(marker).unwrap(), "once\n");
    lab.expect_clean();
}

fn an_init_before_the_command(lab: &Lab) {
    let first = lab.run(&["--rm", "--init"], &["sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; exit 4"]);
    assert_eq!(first.expect_code(4).text(), "/dev/init -- sh -c cat /proc/1/cmdline | tr '\\0' ' '; exit 4");
    drop(lab.run(&["--rm", "--init"], &["no-such-command"]).expect_code(127));
    // Without an init, the kernel would not hand SIGTERM to a first process that has no handler for it.
    let id = lab.run_detached(&["--init"], &["sleep", "1000"]);
    assert_eq!(lab.inspect(&id)["command"], json!(["sleep", "1000"]));
    drop(lab.cofferdam(&["stop", "-t", "60", &id]).expect_code(0));
    assert_eq!(lab.cofferdam(&["wait", &id]).text(), "143");
    // An orphan whose parent has gone is reaped.
    let script =
        "sh -c 'sh -c \"exit 0\" & exit 0'; sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status; echo none";
    assert_eq!(lab.run(&["--rm", "--init"], &["sh", "-c", script]).expect_code(0).text(), "none");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn labels_and_files_of_ids(lab: &Lab) {
    let file = lab.path().join("id");
    let file = file.to_string_lossy();
    drop(lab.run(&["--name", "l", "-l", "a=1", "-l", "b", "--cidfile", &file], &["true"]).expect_code(0));
    let id = std::fs::read_to_string(&*file).unwrap();
    assert_eq!(lab.inspect("l")["id"], id.as_str());
    assert_eq!(lab.inspect("l")["labels"], json!({ "a": "1", "b": "" }));
    let found = |filter: &str| {
        lab.cofferdam(&["ps", "-a", "-q", "--own", "--no-trunc", "-f", filter]).expect_code(0).text()
    };
    assert_eq!((found("label=a=1"), found("label=a=2")), (id.clone(), String::new()));
    assert_eq!((found("exited=0"), found("exited=1")), (id, String::new()));
    // The file is somebody's: it is not written over, and nothing is started.
    drop(lab.run(&["--cidfile", &file], &["true"]).expect_error("E0101"));
    drop(lab.run(&["--cidfile", &format!("{file}2")], &["nope"]).expect_code(127));
    assert!(!std::path::Path::new(&format!("{file}2")).exists());
}
