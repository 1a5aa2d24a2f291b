//! The end of a supervisor's work: every caller gets the answer, and a disk that is full or read-only costs no exit.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use cofferdam_testkit::lab::{Lab, eventually, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::process::signal_process;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use serde_json::{Value, json};

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("endings::every_caller_is_answered", every_caller_is_answered).only(is_one_of_each),
    case("endings::too_many_callers_are_told_so", too_many_callers_are_told_so).only(is_one_of_each),
    case("endings::a_full_state_directory", a_full_state_directory).only(is_one_of_each),
    // A sandbox keeps its log open, which the kernel does not let become read-only.
    case("endings::a_read_only_state_directory", a_read_only_state_directory)
        .only(|choice| *choice == Choice::Runc),
    case("endings::a_state_directory_that_was_full_before", full_before).only(is_one_of_each),
    case("endings::a_clock_that_jumps", a_clock_that_jumps).only(is_one_of_each).needs(&[Need::Faketime]),
    // gVisor itself does not start with so few.
    case("endings::a_supervisor_without_descriptors", a_supervisor_without_descriptors)
        .only(|choice| *choice == Choice::Runc),
    case("endings::a_report_is_kept_for_a_while", a_report_is_kept_for_a_while),
    case("endings::a_pause_on_a_full_disk", a_pause_on_a_full_disk).only(is_one_of_each),
    case("endings::a_supervisor_that_is_stopped", a_supervisor_that_is_stopped).only(is_one_of_each),
    case("endings::a_reader_that_never_reads", a_reader_that_never_reads).only(is_one_of_each),
    case("endings::a_runtime_that_is_gone", a_runtime_that_is_gone).only(|choice| *choice == Choice::Fake),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

/// A container that exits 7 once it is told to.
fn start_until_told(lab: &Lab, name: &str, options: &[&str]) -> String {
    let script = until_told(name);
    let options: Vec<&str> = options.iter().copied().chain(["--name", name]).collect();
    let id = lab.run_detached(&options, &["sh", "-c", &script]);
    eventually("it listens", || lab.rootfs.join("data").join(name).exists());
    id
}

fn until_told(name: &str) -> String {
    format!("trap 'exit 7' USR1; touch /data/{name}; while :; do sleep 0.05; done")
}

fn tell(lab: &Lab, name: &str) {
    drop(lab.cofferdam(&["kill", "--signal", "USR1", name]).expect_code(0));
}

/// Asks a container's supervisor to be told of the end, and does not read the answer yet.
fn ask_to_wait(lab: &Lab, id: &str) -> UnixStream {
    let socket = lab.state().join("containers").join(id).join("control.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"{\"version\":1,\"do\":\"wait\"}\n").unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> Value {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn every_caller_is_answered(lab: &Lab) {
    let id = start_until_told(lab, "c", &["--rm"]);
    let callers: Vec<_> = (0..200).map(|_| ask_to_wait(lab, &id)).collect();
    // Some give up: they cost nobody else his answer.
    let callers: Vec<_> =
        callers.into_iter().enumerate().filter(|(n, _)| n % 10 != 0).map(|(_, caller)| caller).collect();
    tell(lab, "c");
    for caller in callers {
        assert_eq!(answer(caller)["ended"]["cause"], json!({ "kind": "exited", "code": 7 }));
    }
    lab.expect_clean();
}

fn too_many_callers_are_told_so(lab: &Lab) {
    let id = start_until_told(lab, "c", &[]);
    let callers: Vec<_> = (0..470).map(|_| ask_to_wait(lab, &id)).collect();
    // The container can still be ended, and all the others still get their answer.
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    let (mut ended, mut refused) = (0, 0);
    for caller in callers {
        match answer(caller) {
            Value::Object(answer) if answer.contains_key("ended") => ended += 1,
            answer => {
                assert!(answer["failed"].to_string().contains("callers wait"), "{answer}");
                refused += 1;
            }
        }
    }
    assert_eq!((ended, refused), (448, 22));
    lab.expect_no_leftovers();
}

/// A state directory of its own file system, which can be filled and made read-only.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn new(lab: &Lab) -> Self {
        let path = lab.state();
        std::fs::create_dir(&path).unwrap();
        let disk = Self(path);
        disk.mount(&["-t", "tmpfs", "-o", "size=512k,mode=0700", "cofferdam-test"]);
        disk
    }

    fn mount(&self, options: &[&str]) {
        let mut command = new_command("mount");
        command.args(options).arg(&self.0);
        drop(finish(command).expect_code(0));
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a monitor that is just ending may still be in it.
        let mut command = new_command("umount");
        command.arg("--lazy").arg(&self.0);
        drop(finish(command));
    }
}

/// The report as it lies on the disk, without asking anybody.
fn report_on_disk(lab: &Lab, id: &str) -> Option<Value> {
    let text = std::fs::read(lab.state().join("containers").join(id).join("report.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

fn a_full_state_directory(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    let background = start_until_told(lab, "b", &[]);
    let foreground = lab.start_run(&["--name", "f"], &["sh", "-c", &until_told("f")]);
    eventually("it listens", || lab.rootfs.join("data/f").exists());
    // Its record is written by then: a launch that cannot be written down is unmade.
    crate::exit::until_running(lab, "f");
    let filler = disk.fill();
    tell(lab, "b");
    tell(lab, "f");
    assert_eq!(foreground.finish().code, Some(7), "the caller gets the code");
    assert_eq!(lab.report("b")["cause"], json!({ "kind": "exited", "code": 7 }));
    // Space had been set aside for the report.
    eventually("the report is on the disk", || {
        report_on_disk(lab, &background).is_some_and(|report| report["cause"]["code"] == 7)
    });
    std::fs::remove_file(filler).unwrap();
    drop(lab.cofferdam(&["rm", "-f", "b", "f"]).expect_code(0));
    lab.expect_clean();
    drop(disk);
}

fn a_read_only_state_directory(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    // A log that is open for writing would keep it so.
    let id = start_until_told(lab, "c", &["--log-driver", "none"]);
    let caller = ask_to_wait(lab, &id);
    disk.mount(&["-o", "remount,ro"]);
    tell(lab, "c");
    assert_eq!(lab.report(&id)["cause"]["code"], 7, "its monitor tells it, whatever the disk says");
    assert!(report_on_disk(lab, &id).is_none());
    // Its monitor has the only word of it.
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_error("E0604"));
    disk.mount(&["-o", "remount,rw"]);
    eventually("the report is on the disk", || report_on_disk(lab, &id).is_some());
    assert_eq!(answer(caller)["ended"]["cause"]["code"], 7);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
    drop(disk);
}

/// The library by which a process sees another time.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let libraries = folders.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    libraries.into_iter().find(|path| path.exists()).expect("the package libfaketime is installed")
}

fn a_clock_that_jumps(lab: &Lab) {
    let time = lab.path().join("time");
    std::fs::write(&time, "+0").unwrap();
    let script = format!("i=0; {}", "i=$((i+1)); echo $i; ".repeat(3)) + &until_told("c");
    let started = |options: &[&str], script: &str| {
        let mut command = lab.command(lab.launch_args("run", options, &["sh", "-c", script]));
        command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", &time);
        // What jumps is the clock on the wall.
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        finish(command).expect_code(0).text()
    };
    let id = started(&["--detach", "--name", "c", "--timeout", "1h", "--ttl", "1h"], &script);
    let limited = started(&["--detach", "--timeout", "1s", "--stop-timeout", "0"], "sleep 1000");
    for jump in ["-1d", "+10d", "-5d"] {
        std::fs::write(&time, jump).unwrap();
        assert_eq!(lab.inspect(&id)["state"]["status"], "running", "{jump}");
    }
    // A limit is a length of time, whatever the clock says.
    assert_eq!(lab.cofferdam(&["wait", &limited]).text(), "124");
    eventually("it listens", || lab.rootfs.join("data/c").exists());
    tell(lab, "c");
    assert_eq!(lab.report(&id)["cause"]["code"], 7);
    assert_eq!(lab.cofferdam(&["logs", &id]).text(), "1\n2\n3");
    drop(lab.cofferdam(&["rm", &id, &limited]).expect_code(0));
    lab.expect_clean();
}

fn a_supervisor_without_descriptors(lab: &Lab) {
    // As many as its launch takes, and few more.
    let script = format!("echo up; {}", until_told("c"));
    let args = lab.launch_args("run", &["--detach", "--name", "c"], &["sh", "-c", &script]);
    let words: Vec<String> = args.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let program = lab.command::<&str>([]).get_program().to_string_lossy().into_owned();
    let start_with = |descriptors: u32| {
        let mut command = new_command("sh");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec '{program}' {}", words.join(" "))]);
        for (key, value) in lab.command::<&str>([]).get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        finish(command)
    };
    drop(start_with(6).expect_error("E0509"));
    let id = start_with(48).expect_code(0).text();
    let socket = lab.state().join("containers").join(&id).join("control.sock");
    // They are let in until none is left, and the others wait.
    let callers: Vec<_> = (0..64).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    eventually("it goes on", || lab.cofferdam(&["logs", &id]).text() == "up");
    drop(callers);
    // It answers again.
    eventually("it listens", || lab.rootfs.join("data/c").exists());
    let answered = || lab.cofferdam(&["kill", "-s", "WINCH", &id]).code == Some(0);
    eventually("it answers again", answered);
    tell(lab, "c");
    assert_eq!(lab.report(&id)["cause"]["code"], 7);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_report_is_kept_for_a_while(lab: &Lab) {
    let id = lab.run_detached(&["--rm", "--name", "kept"], &["sh", "-c", "exit 7"]);
    eventually("it is forgotten", || !lab.state().join("containers").join(&id).exists());
    assert_eq!(lab.cofferdam(&["ps", "--all", "--quiet", "--own"]).text(), "");
    for name in ["kept", &id, &id[..12]] {
        assert_eq!(lab.cofferdam(&["wait", name]).expect_code(0).text(), "7");
        assert_eq!(lab.inspect(name)["state"]["status"], "removed");
        assert_eq!(lab.report(name)["cause"], json!({ "kind": "exited", "code": 7 }));
    }
    // Its name is free, and the newest is meant.
    drop(lab.run(&["--rm", "--name", "kept"], &["sh", "-c", "exit 8"]).expect_code(8));
    assert_eq!(lab.cofferdam(&["wait", "kept"]).expect_code(0).text(), "8");
    for time in ["0", "100ms"] {
        let short = lab.run_detached(&["--rm", "--keep-report", time], &["true"]);
        eventually("its time is over", || lab.cofferdam(&["wait", &short]).code == Some(125));
        drop(lab.cofferdam(&["inspect", &short]).expect_error("E0103"));
    }
    lab.expect_clean();
}

fn a_pause_on_a_full_disk(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    let id = lab.run_detached(&["--log-driver", "none"], &["sleep", "1000"]);
    let filler = disk.fill();
    drop(lab.cofferdam(&["pause", &id]).expect_code(0));
    // The supervisor knows, whatever the disk says.
    drop(lab.cofferdam(&["pause", &id]).expect_error("E0501"));
    drop(lab.cofferdam(&["unpause", &id]).expect_code(0));
    drop(lab.cofferdam(&["pause", &id]).expect_code(0));
    std::fs::remove_file(filler).unwrap();
    eventually("the record is written again", || lab.inspect(&id)["state"]["status"] == "paused");
    drop(lab.cofferdam(&["unpause", &id]).expect_code(0));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
    drop(disk);
}

fn a_supervisor_that_is_stopped(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let supervisor = lab.inspect(&id)["supervisor"]["pid"].as_i64().unwrap();
    signal_process(i32::try_from(supervisor).unwrap(), rustix::process::Signal::STOP);
    let began = std::time::Instant::now();
    let done = lab.cofferdam(&["stop", &id]).expect_error("E0502");
    assert!(done.stderr.contains("SIGSTOP"), "{}", done.stderr);
    drop(lab.cofferdam(&["rm", "--force", &id]).expect_code(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    lab.expect_clean();
}

fn full_before(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    // Its directories are there.
    drop(lab.cofferdam(&["ps"]).expect_code(0));
    let filler = disk.fill();
    let done = lab.run(&["--name", "n"], &["true"]).expect_error("E0604");
    assert!(done.stderr.contains("full"), "{}", done.stderr);
    drop(lab.run(&["--name", "n", "--detach"], &["true"]).expect_error("E0604"));
    std::fs::remove_file(filler).unwrap();
    lab.expect_clean();
    drop(lab.run(&["--name", "n", "--rm"], &["true"]).expect_code(0));
    lab.expect_clean();
    drop(disk);
}

fn a_reader_that_never_reads(lab: &Lab) {
    let args = lab.launch_args("run", &["--name", "n"], &["sh", "-c", "yes | head -c 100000; exit 7"]);
    let start = || {
        let mut command = lab.command(args.clone());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        eventually("its output waits, and only that", || {
            lab.cofferdam(&["ps", "-a", "--own"]).text().contains("exited")
        });
        child
    };
    // The container is over for everybody else, and another command can forget it.
    let mut child = start();
    assert_eq!(lab.report("n")["cause"]["code"], 7);
    drop(lab.cofferdam(&["rm", "--force", "n"]).expect_code(0));
    assert_eq!(child.wait().unwrap().code(), Some(7));
    lab.expect_clean();
    // Whoever interrupts what is left of it is obeyed, and the code is still the container's.
    let mut child = start();
    let pid = i32::try_from(child.id()).unwrap();
    signal_process(pid, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(lab.report("n")["stdio"]["truncated"], true);
    drop(lab.cofferdam(&["rm", "n"]).expect_code(0));
    lab.expect_clean();
}

fn a_runtime_that_is_gone(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let supervisor = lab.inspect(&id)["supervisor"]["pid"].as_i64().unwrap();
    signal_process(i32::try_from(supervisor).unwrap(), rustix::process::Signal::KILL);
    std::fs::rename(lab.runtime(), lab.path().join("uninstalled")).unwrap();
    // All that there is of it carries its id, so it can be ended and forgotten without its runtime.
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    std::fs::rename(lab.path().join("uninstalled"), lab.runtime()).unwrap();
    lab.expect_clean();
}
