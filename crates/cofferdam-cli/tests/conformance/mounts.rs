//! Paths of the host, volumes and file systems in memory, seen from inside; and what is left of them outside.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cofferdam_testkit::lab::{Finished, Lab, eventually, finish, new_command};
use cofferdam_testkit::runtimes::Choice;
use rustix::process::Signal;
use serde_json::json;

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("mounts::read_only_is_read_only", read_only_is_read_only).real(),
    case("mounts::what_lies_below_a_read_only_mount_is_too", what_lies_below).real(),
    case("mounts::options_hold_inside", options_hold_inside).real(),
    case("mounts::a_file_onto_a_file_and_a_link_as_source", a_file_onto_a_file).real(),
    case("mounts::a_missing_source_is_refused", a_missing_source_is_refused),
    case("mounts::relative_sources_are_meant_from_here", relative_sources).real(),
    case("mounts::a_link_in_the_root_filesystem_leads_nowhere_out", a_link_leads_nowhere_out).real(),
    case("mounts::memory_has_its_size_and_mode", memory_has_its_size_and_mode).real(),
    case("mounts::places_of_the_default_are_the_users", places_of_the_default).real(),
    case("mounts::parents_come_before_children", parents_come_before_children).real(),
    case("mounts::mounts_of_the_host_come_in_where_they_may", mounts_come_in).real(),
    case("mounts::mounts_go_out_where_they_may", mounts_go_out).only(|choice| *choice == Choice::Runc),
    case("mounts::volumes_outlive_containers", volumes_outlive_containers).real(),
    case("mounts::a_new_volume_gets_what_the_image_has", a_new_volume_gets_the_content).real(),
    case("mounts::a_volume_in_use_stays", a_volume_in_use_stays),
    case("mounts::volumes_without_a_name_go_with_rm", anonymous_volumes),
    case("mounts::a_killed_launch_leaves_no_volume", a_killed_launch).only(|_| cfg!(feature = "failpoints")),
    case("mounts::a_killed_rm_leaves_no_volume", a_killed_rm)
        .only(|choice| *choice == Choice::Fake && cfg!(feature = "failpoints")),
    case("mounts::a_filling_that_is_cut_short_leaves_nothing", a_filling_that_is_cut_short)
        .only(|choice| matches!(choice, Choice::Runc | Choice::Fake)),
    case("mounts::a_volume_of_any_depth_is_removed", a_volume_of_any_depth)
        .only(|choice| *choice == Choice::Runc),
    case("mounts::volumes_are_made_listed_and_removed", volumes_are_made_listed_and_removed)
        .only(|choice| *choice == Choice::Fake),
    case("mounts::a_record_keeps_its_mounts", a_record_keeps_its_mounts).real(),
];

/// A directory of the lab with a file in it.
fn outside(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.path().join(name);
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("file"), "from outside").unwrap();
    path
}

fn sh(lab: &Lab, options: &[&str], script: &str) -> Finished {
    lab.run(&[&["--rm"], options].concat(), &["sh", "-c", script])
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn volume_names(lab: &Lab) -> Vec<String> {
    let names = lab.cofferdam(&["volume", "ls", "--quiet"]).expect_code(0).text();
    names.lines().map(str::to_owned).collect()
}

fn read_only_is_read_only(lab: &Lab) {
    let path = text(&outside(lab, "o"));
    drop(lab.cofferdam(&["volume", "create", "ro-volume"]).expect_code(0));
    let script = "cat /m/file 2>/dev/null; echo x > /m/file; echo x > /m/new; busybox rm -rf /m/file; chmod 777 /m/file; \
                  mount -o remount,rw /m; echo x > /m/new; touch /m; ls /m";
    for (option, value, seen) in [
        ("-v", format!("{path}:/m:ro"), "from outsidefile"),
        ("--mount", format!("type=bind,source={path},target=/m,readonly"), "from outsidefile"),
        ("-v", "ro-volume:/m:ro".into(), ""),
        ("--tmpfs", "/m:ro".into(), ""),
    ] {
        let done = sh(lab, &["--cap-add", "DAC_OVERRIDE", option, &value], script).expect_code(0);
        assert_eq!(done.text(), seen, "{value}: {done:?}");
    }
    assert_eq!(std::fs::read_to_string(format!("{path}/file")).unwrap(), "from outside");
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
    lab.expect_clean();
}

/// Runs a command of the lab in a mount namespace of its own, in which a script has mounted something before. Its `$1` is
/// the lab's directory.
fn after_mounting(lab: &Lab, script: &str, args: &[String]) -> Finished {
    let inner = lab.command(args);
    let mut command = new_command("unshare");
    let script = format!("set -e; {script}; shift; exec \"$@\"");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    command.arg(lab.path()).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    finish(command)
}

fn what_lies_below(lab: &Lab) {
    let path = outside(lab, "o");
    std::fs::create_dir(path.join("below")).unwrap();
    let script = "echo x > /m/below/new && echo WRITTEN; grep -c . /m/below/mark";
    let option = format!("{}:/m:ro", path.display());
    let args = lab.launch_args("run", &["--rm", "-v", &option], &["sh", "-c", script]);
    let mounting = "mount -t tmpfs cofferdam-test \"$1/o/below\"; echo mark > \"$1/o/below/mark\"";
    let done = after_mounting(lab, mounting, &args).expect_code(0);
    // crun of Debian 12 does not list the option, and is told not to have it.
    if done.stderr.contains("stays writable") {
        assert_eq!(done.text(), "WRITTEN\n1");
    } else {
        assert_eq!(done.text(), "1", "{}", done.stderr);
    }
    lab.expect_clean();
}

fn options_hold_inside(lab: &Lab) {
    let path = outside(lab, "o");
    std::fs::copy("/bin/busybox", path.join("busybox")).unwrap();
    let run = |option: &str| {
        let option = format!("{}:/m{option}", path.display());
        sh(lab, &["-v", &option], "/m/busybox true && echo ran").text()
    };
    assert_eq!((run(""), run(":noexec"), run(":exec")), ("ran".into(), String::new(), "ran".into()));
    let done = sh(lab, &["-v", &format!("{}:/m:z,cached", path.display())], "true").expect_code(0);
    for word in ["z is ignored", "cached is ignored"] {
        assert!(done.stderr.contains(word), "{word}: {}", done.stderr);
    }
    lab.expect_clean();
}

fn a_file_onto_a_file(lab: &Lab) {
    let path = outside(lab, "o");
    symlink(path.join("file"), lab.path().join("link-to-file")).unwrap();
    symlink(&path, lab.path().join("link-to-directory")).unwrap();
    std::fs::write(lab.rootfs.join("data/here"), "below").unwrap();
    let options = [
        "-v".to_owned(),
        format!("{}:/data/here:ro", path.join("file").display()),
        "-v".to_owned(),
        format!("{}/link-to-file:/data/by-link", lab.path().display()),
        "-v".to_owned(),
        format!("{}/link-to-directory:/data/directory", lab.path().display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let script = "cat /data/here /data/by-link /data/directory/file; echo changed > /data/by-link";
    let done = sh(lab, &options, script).expect_code(0);
    assert_eq!(done.text(), "from outside".repeat(3));
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "changed\n", "the link was followed");
    assert_eq!(std::fs::read_to_string(lab.rootfs.join("data/here")).unwrap(), "below");
    lab.expect_clean();
}

fn a_missing_source_is_refused(lab: &Lab) {
    let missing = text(&lab.path().join("nowhere"));
    for [option, value] in [
        ["-v".to_owned(), format!("{missing}:/m")],
        ["--mount".to_owned(), format!("type=bind,source={missing},target=/m")],
    ] {
        let refused = lab.run(&[&option, &value, "-v", "/anonymous", "-v", "named:/n"], &["true"]);
        let refused = refused.expect_error("E0117");
        assert!(refused.stderr.contains("docker would make a directory"), "{}", refused.stderr);
        drop(lab.run(&["--detach", &option, &value], &["true"]).expect_error("E0117"));
    }
    assert!(!Path::new(&missing).exists());
    assert!(!lab.data().exists(), "no volume was made either");
    lab.expect_clean();
}

fn relative_sources(lab: &Lab) {
    drop(outside(lab, "o"));
    let run = |options: &[&str]| {
        let args = lab.launch_args("run", &[&["--rm"], options].concat(), &["cat", "/m/file"]);
        let mut command = lab.command(args);
        command.current_dir(lab.path());
        finish(command).expect_code(0).text()
    };
    assert_eq!(run(&["-v", "./o:/m"]), "from outside");
    assert_eq!(run(&["--mount", "type=bind,source=./o,target=/m"]), "from outside");
    lab.expect_clean();
}

/// The root filesystem is hostile: a link in it leads to a directory of the host.
fn a_link_leads_nowhere_out(lab: &Lab) {
    let canary = outside(lab, "canary");
    let inside = outside(lab, "i");
    let depth = "../".repeat(20);
    symlink(&canary, lab.rootfs.join("absolute")).unwrap();
    symlink(format!("{depth}{}", canary.display()), lab.rootfs.join("climbing")).unwrap();
    let before = std::fs::metadata(&canary).unwrap();
    for place in ["/absolute", "/climbing/below", "/absolute/file"] {
        let option = format!("{}:{place}", inside.display());
        let volume = format!("vv:{place}");
        let tmpfs = format!("{place}:size=1m");
        for options in [["-v", &option], ["-v", &volume], ["--tmpfs", &tmpfs]] {
            // Whether a runtime resolves the link inside, or refuses, is its own matter.
            drop(sh(lab, &options, &format!("echo x > {place}/escaped")));
            let names: Vec<_> =
                std::fs::read_dir(&canary).unwrap().flatten().map(|e| e.file_name()).collect();
            assert_eq!(names, ["file"], "{options:?}");
        }
        drop(lab.cofferdam(&["volume", "rm", "vv"]));
    }
    let after = std::fs::metadata(&canary).unwrap();
    assert_eq!((before.mode(), before.mtime(), before.ino()), (after.mode(), after.mtime(), after.ino()));
    assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "from outside");
    lab.expect_clean();
}

fn memory_has_its_size_and_mode(lab: &Lab) {
    let script = "stat -c %a /t; dd if=/dev/zero of=/t/x bs=64k count=32 2>/dev/null; stat -c %s /t/x; \
                  cat /bin/busybox > /t/busybox; chmod 755 /t/busybox; /t/busybox true && echo ran";
    let run = |options: &[&str]| sh(lab, options, script);
    let seen = |done: Finished| done.text().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(seen(run(&["--tmpfs", "/t:size=1m"])), ["1777", "1048576"]);
    // The first run has left the place, as runtimes do.
    let place = lab.rootfs.join("t");
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o751)).unwrap();
    let done = run(&["--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700"]);
    let expected = if done.stderr.contains("runc gives it the mode") { "751" } else { "700" };
    assert_eq!(seen(done), [expected, "1048576"]);
    let done = sh(
        lab,
        &["--tmpfs", "/t:exec,size=16m"],
        "cat /bin/busybox > /t/busybox; chmod 755 /t/busybox; /t/busybox echo ran",
    );
    assert_eq!(done.expect_code(0).text(), "ran");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    lab.expect_clean();
}

fn places_of_the_default(lab: &Lab) {
    let size = "echo $(($(stat -f -c '%b * %S' /dev/shm)))";
    let done = sh(lab, &["--tmpfs", "/dev/shm:size=3m"], &format!("{size}; echo x > /dev/shm/x && echo ok"));
    assert_eq!(done.expect_code(0).text(), format!("{}\nok", 3 << 20));
    drop(sh(lab, &["--tmpfs", "/dev/shm", "--shm-size", "1m"], "true").expect_error("E0101"));
    let path = outside(lab, "o");
    // As in every image; runc before 1.1.9 takes its mode.
    std::fs::set_permissions(lab.rootfs.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let script = "echo x > /tmp/x && echo y > /data/y; echo z > /dev/shm/z && cat /tmp/x; touch /refused; \
                  echo w > /run/w && ls /m";
    let bind = format!("{}:/m", path.display());
    let options = ["--read-only", "--tmpfs", "/tmp", "--tmpfs", "/run:mode=1777", "-v", &bind, "-u", "1000"];
    let done = sh(lab, &options, script).expect_code(0);
    assert_eq!(done.text(), "x\nfile", "{}", done.stderr);
    assert!(!lab.rootfs.join("data/y").exists() && !lab.rootfs.join("refused").exists());
    lab.expect_clean();
}

fn parents_come_before_children(lab: &Lab) {
    let (parent, child) = (outside(lab, "p"), outside(lab, "c"));
    let options = [
        "--tmpfs".to_owned(),
        "/m/tmpfs/deep".to_owned(),
        "-v".to_owned(),
        format!("{}:/m/child", child.display()),
        "-v".to_owned(),
        format!("{}:/m", parent.display()),
    ];
    for place in ["child", "tmpfs/deep"] {
        std::fs::create_dir_all(parent.join(place)).unwrap();
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let done = sh(lab, &options, "cat /m/child/file; echo x > /m/tmpfs/deep/x; echo y > /m/y; ls /m");
    assert_eq!(done.expect_code(0).text(), "from outsidechild\nfile\ntmpfs\ny");
    assert!(parent.join("y").exists() && !parent.join("tmpfs/deep/x").exists());
    drop(sh(lab, &["-v", "/tmp:/m", "--tmpfs", "/m/"], "true").expect_error("E0101"));
    lab.expect_clean();
}

/// A container with a mount of this propagation, in whose mount namespace something is mounted while it runs.
fn with_late_mount(lab: &Lab, propagation: &str, sharing: &str) -> Finished {
    let path = lab.path().join("late");
    std::fs::create_dir_all(path.join("sub")).unwrap();
    let option = format!("{}:/m:{propagation}", path.display());
    let script = "touch /m/started; while ! [ -e /m/go ]; do sleep 0.01; done; ls /m/sub";
    let args = lab.launch_args("run", &["--rm", "-v", &option], &["sh", "-c", script]);
    let mounting = format!(
        "mount -t tmpfs cofferdam-test \"$1/late\"; mount --make-{sharing} \"$1/late\"; mkdir \"$1/late/sub\"; \
         (while ! [ -e \"$1/late/started\" ]; do sleep 0.01; done; mount -t tmpfs cofferdam-test \"$1/late/sub\"; \
          touch \"$1/late/sub/inside\" \"$1/late/go\") &"
    );
    after_mounting(lab, &format!("{mounting} true"), &args)
}

fn mounts_come_in(lab: &Lab) {
    assert_eq!(with_late_mount(lab, "rslave", "rshared").expect_code(0).text(), "inside");
    assert_eq!(with_late_mount(lab, "rw", "rshared").expect_code(0).text(), "");
    let done = with_late_mount(lab, "rshared", "rshared").expect_code(0);
    assert_eq!(done.text(), "inside");
    assert_eq!(done.stderr.contains("do not reach the host"), lab.choice.is_gvisor(), "{}", done.stderr);
    let path = outside(lab, "o");
    for propagation in ["rslave", "rshared"] {
        let option = format!("{}:/m:{propagation}", path.display());
        let args = lab.launch_args("run", &["--rm", "-v", &option], &["true"]);
        let refused = after_mounting(lab, "true", &args).expect_error("E0101");
        assert!(refused.stderr.contains("not shared"), "{}", refused.stderr);
    }
    lab.expect_clean();
}

fn mounts_go_out(lab: &Lab) {
    let look = |propagation: &str| {
        let path = lab.path().join("late");
        std::fs::create_dir_all(&path).unwrap();
        let option = format!("{}:/m:{propagation}", path.display());
        let script = "busybox mkdir -p /m/sub; mount -t tmpfs cofferdam-test /m/sub && touch /m/sub/inside";
        let options = ["--rm", "--cap-add", "SYS_ADMIN", "-v", &option];
        let args = lab.launch_args("run", &options, &["sh", "-c", script]);
        let mounting = "mount -t tmpfs cofferdam-test \"$1/late\"; mount --make-rshared \"$1/late\"; keep=$1";
        // The shell stays, to look at it after the end of the container.
        let inner = lab.command(&args);
        let mut command = new_command("unshare");
        let script = format!("set -e; {mounting}; shift; \"$@\" >&2; ls \"$keep/late/sub\"");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.arg(lab.path()).arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        finish(command).expect_code(0).text()
    };
    assert_eq!((look("rshared"), look("rslave")), ("inside".into(), String::new()));
    lab.expect_clean();
}

fn volumes_outlive_containers(lab: &Lab) {
    drop(sh(lab, &["-v", "db:/data"], "echo kept > /data/x").expect_code(0));
    assert_eq!(volume_names(lab), ["db"]);
    assert!(!lab.rootfs.join("data/x").exists());
    assert_eq!(sh(lab, &["-v", "db:/elsewhere"], "cat /elsewhere/x").expect_code(0).text(), "kept");
    // At the same time, from two containers.
    let id =
        lab.run_detached(&["-v", "db:/data"], &["sh", "-c", "while ! [ -e /data/y ]; do sleep 0.01; done"]);
    drop(sh(lab, &["--mount", "source=db,target=/m"], "echo y > /m/y").expect_code(0));
    assert_eq!(lab.cofferdam(&["wait", &id]).expect_code(0).text(), "0");
    drop(lab.cofferdam(&["rm", "--volumes", &id]).expect_code(0));
    assert_eq!(volume_names(lab), ["db"], "one with a name stays");
    let place = lab.cofferdam(&["volume", "inspect", "-f", "{{.mountpoint}}", "db"]).expect_code(0).text();
    assert_eq!(std::fs::read_to_string(Path::new(&place).join("x")).unwrap(), "kept\n");
    drop(lab.cofferdam(&["volume", "rm", "db"]).expect_code(0));
    lab.expect_clean();
}

fn a_new_volume_gets_the_content(lab: &Lab) {
    let place = lab.rootfs.join("srv");
    std::fs::create_dir_all(place.join("deep")).unwrap();
    std::fs::write(place.join("deep/file"), "from the image").unwrap();
    symlink("deep", place.join("link")).unwrap();
    std::os::unix::fs::chown(&place, Some(1000), Some(1000)).unwrap();
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o750)).unwrap();
    let look = |options: &[&str]| sh(lab, options, "cat /srv/link/file; stat -c ' %a %u' /srv").text();
    assert_eq!(look(&["-v", "full:/srv", "-u", "1000"]), "from the image 750 1000");
    assert_eq!(look(&["-v", "/srv"]), "from the image 750 1000");
    assert_eq!(look(&["-v", "bare:/srv:nocopy"]), " 755 0");
    // It is the volume's now: what changes there stays, and the image is as it was.
    drop(sh(lab, &["-v", "full:/srv"], "busybox rm /srv/deep/file").expect_code(0));
    drop(sh(lab, &["-v", "full:/srv"], "echo new > /srv/deep/file").expect_code(0));
    assert_eq!(sh(lab, &["-v", "full:/srv"], "cat /srv/deep/file").expect_code(0).text(), "new");
    assert_eq!(std::fs::read_to_string(place.join("deep/file")).unwrap(), "from the image");
    lab.expect_clean();
}

fn a_volume_in_use_stays(lab: &Lab) {
    let id = lab.run_detached(&["--name", "user", "-v", "db:/data"], &["sleep", "1000"]);
    let refused = lab.cofferdam(&["volume", "rm", "db"]).expect_error("E0712");
    assert!(refused.stderr.contains("used by user"), "{}", refused.stderr);
    assert_eq!(lab.cofferdam(&["volume", "prune", "--all", "--force"]).expect_code(0).text(), "");
    assert_eq!(lab.cofferdam(&["volume", "ls", "--filter", "dangling=true", "-q"]).text(), "");
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    drop(lab.cofferdam(&["volume", "rm", "db"]).expect_error("E0712"));
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    assert_eq!(lab.cofferdam(&["volume", "ls", "--filter", "dangling=true", "-q"]).text(), "db");
    drop(lab.cofferdam(&["volume", "rm", "db"]).expect_code(0));
    lab.expect_clean();
}

fn anonymous_volumes(lab: &Lab) {
    drop(lab.run(&["--rm", "-v", "/data", "-v", "db:/m"], &["true"]).expect_code(0));
    assert_eq!(volume_names(lab), ["db"]);
    let id = lab.run_detached(&["--rm", "-v", "/data"], &["true"]);
    drop(lab.cofferdam(&["wait", &id]));
    eventually("it goes with its container", || volume_names(lab) == ["db"]);
    // One that cannot be started takes it along, too.
    let missing = lab.rootfs.join("data");
    drop(lab.run(&["-v", "/data", "-w", "/no/such/directory", "--name", "x"], &["true"]));
    assert!(missing.exists());
    drop(lab.cofferdam(&["rm", "-fv", "x"]));
    assert_eq!(volume_names(lab), ["db"]);
    for options in [&["rm"][..], &["rm", "--volumes"]] {
        let id = lab.run_detached(&["-v", "/data"], &["true"]);
        drop(lab.cofferdam(&["wait", &id]));
        drop(lab.cofferdam(&[options, &[id.as_str()]].concat()).expect_code(0));
    }
    let left: Vec<String> = volume_names(lab).into_iter().filter(|name| name.len() == 64).collect();
    assert_eq!(left.len(), 1, "`rm` alone leaves it, as docker does");
    assert_eq!(lab.cofferdam(&["volume", "prune", "--force"]).expect_code(0).text(), left[0]);
    assert_eq!(volume_names(lab), ["db"]);
    lab.expect_clean();
}

/// A launch that is killed between the making of its volumes and its record.
fn a_killed_launch(lab: &Lab) {
    let args = lab.launch_args("run", &["-v", "/data", "-v", "db:/m"], &["true"]);
    let mut command = lab.command(args);
    command.env("FAILPOINTS", "launch.bundle=return(kill)");
    let done = finish(command);
    assert_eq!(done.code, None, "it was killed: {done:?}");
    assert_eq!(volume_names(lab).len(), 2);
    let shown = lab.cofferdam(&["gc", "--dry-run", "--format", "json"]).expect_code(0).json();
    assert!(shown.to_string().contains("folder"), "{shown}");
    let found = || lab.cofferdam(&["gc", "--format", "json"]).expect_code(0).json();
    let kinds = found().to_string();
    assert!(kinds.contains("\"volume\""), "{kinds}");
    assert_eq!(volume_names(lab), ["db"]);
    assert_eq!(found(), json!([]));
    lab.expect_clean();
}

/// A removal that is killed when it has begun with the volumes: the next one ends it, or `gc` does.
fn a_killed_rm(lab: &Lab) {
    let id = lab.run_detached(&["-v", "/data"], &["true"]);
    drop(lab.cofferdam(&["wait", &id]));
    let mut command = lab.command(["rm", "--volumes", &id]);
    command.env("FAILPOINTS", "remove.volumes=return(kill)");
    assert_eq!(finish(command).code, None);
    assert_eq!(volume_names(lab).len(), 1);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    let found = lab.cofferdam(&["gc", "--format", "json"]).expect_code(0).json();
    assert_eq!(found[0]["kind"], "volume", "{found}");
    assert_eq!(volume_names(lab), Vec::<String>::new());
    lab.expect_clean();
}

/// Ctrl-C, and SIGKILL, while what the image has is copied.
fn a_filling_that_is_cut_short(lab: &Lab) {
    const FILES: usize = 20_000;
    let place = lab.rootfs.join("big");
    std::fs::create_dir(&place).unwrap();
    for number in 0..FILES {
        std::fs::write(place.join(number.to_string()), "x").unwrap();
    }
    let volume = lab.data().join("volumes/db");
    let count = || std::fs::read_dir(volume.join("_data")).map_or(0, Iterator::count);
    for signal in [Signal::INT, Signal::KILL] {
        let running = lab.start_run(&["--rm", "-v", "db:/big", "-v", "/anonymous"], &["true"]);
        eventually("it is being filled", || count() > 10);
        running.signal(signal);
        let done = running.finish();
        if signal == Signal::INT {
            drop(done.expect_error("E0503"));
            assert_eq!((count(), volume.join("filling").exists()), (0, false));
        } else {
            assert_eq!(done.code, None, "it was killed before its end: {done:?}");
            assert!((1..FILES).contains(&count()) && volume.join("filling").exists());
            drop(lab.cofferdam(&["gc"]).expect_code(0));
        }
        assert_eq!(volume_names(lab), ["db"]);
    }
    drop(lab.run(&["--rm", "-v", "db:/big"], &["true"]).expect_code(0));
    assert_eq!((count(), volume.join("filling").exists()), (FILES, false));
    lab.expect_clean();
}

fn a_volume_of_any_depth(lab: &Lab) {
    let script = "cd /data; i=0; while [ $i -lt 1500 ]; do busybox mkdir d && cd d && i=$((i + 1)) || break; done; echo $i";
    assert_eq!(sh(lab, &["-v", "/data"], script).expect_code(0).text(), "1500");
    assert_eq!(volume_names(lab), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(lab.data().join("volumes")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "the lock alone: {left:?}");
    lab.expect_clean();
}

fn volumes_are_made_listed_and_removed(lab: &Lab) {
    let volume = |args: &[&str]| lab.cofferdam(&[&["volume"], args].concat());
    assert_eq!(volume(&["ls"]).expect_code(0).text(), "VOLUME NAME   USED BY");
    assert_eq!(volume(&["create", "-l", "tier=db", "one"]).expect_code(0).text(), "one");
    assert_eq!(volume(&["create", "one"]).expect_code(0).text(), "one");
    let unnamed = volume(&["create"]).expect_code(0).text();
    assert_eq!(unnamed.len(), 64);
    let shown = volume(&["inspect", "one"]).expect_code(0).json();
    assert_eq!((&shown[0]["labels"], &shown[0]["used_by"]), (&json!({ "tier": "db" }), &json!([])));
    assert!(shown[0]["mountpoint"].as_str().unwrap().ends_with("d/volumes/one/_data"), "{shown}");
    assert_eq!(volume(&["ls", "-q", "--filter", "label=tier"]).expect_code(0).text(), "one");
    assert_eq!(volume(&["ls", "--format", "{{.name}}", "--filter", "name=on"]).text(), "one");
    drop(volume(&["inspect", "two"]).expect_error("E0711"));
    drop(volume(&["rm", "two"]).expect_error("E0711"));
    drop(volume(&["rm", "--force", "two"]).expect_code(0));
    drop(volume(&["rm", "../one"]).expect_error("E0101"));
    drop(volume(&["create", "a/b"]).expect_error("E0101"));
    drop(volume(&["prune"]).expect_error("E0101"));
    assert_eq!(volume(&["prune", "-f", "--filter", "label=x"]).expect_code(0).text(), "");
    assert_eq!(volume(&["prune", "-f"]).expect_code(0).text(), unnamed);
    assert_eq!(volume(&["prune", "-f", "--all"]).expect_code(0).text(), "one");
    let other = text(&lab.path().join("elsewhere"));
    drop(lab.cofferdam(&["--data-dir", &other, "volume", "create", "two"]).expect_code(0));
    assert!(Path::new(&other).join("volumes/two/_data").is_dir());
    assert_eq!(volume_names(lab), Vec::<String>::new());
}

fn a_record_keeps_its_mounts(lab: &Lab) {
    let path = text(&outside(lab, "o"));
    let bind = format!("{path}:/m:ro");
    drop(
        lab.run(&["--name", "r", "-v", &bind, "-v", "db:/data", "--tmpfs", "/t:size=1m"], &["true"])
            .expect_code(0),
    );
    let mounts = lab.inspect("r")["mounts"].take();
    assert_eq!(mounts.as_array().unwrap().len(), 3, "{mounts}");
    let of = |place: &str| {
        mounts.as_array().unwrap().iter().find(|mount| mount["destination"] == place).unwrap().clone()
    };
    assert_eq!(
        of("/m"),
        json!({ "type": "bind", "source": path, "destination": "/m", "options": ["rbind", "rprivate", "ro"] })
    );
    assert_eq!((&of("/data")["volume"], &of("/data")["type"]), (&json!("db"), &json!("volume")));
    assert_eq!(of("/t")["options"][1], "size=1048576");
    drop(lab.cofferdam(&["rm", "r"]).expect_code(0));
    lab.expect_clean();
}
