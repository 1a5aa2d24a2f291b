//! Logs: every line once and in order, byte for byte, also from a full disk on, and read while they are written.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use cofferdam_testkit::lab::{Lab, Running, eventually, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::endings::SmallDisk;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("logs::both_streams_in_order", both_streams_in_order),
    case("logs::bytes_stay_what_they_are", bytes_stay_what_they_are),
    case("logs::who_follows_sees_all_of_it", who_follows_sees_all_of_it),
    case("logs::who_stops_reading_is_not_waited_for", who_stops_reading_is_not_waited_for)
        .only(|choice| *choice == Choice::Runc),
    case("logs::files_are_bounded", files_are_bounded).only(is_one_of_each),
    case("logs::journald_gets_every_byte", journald_gets_every_byte)
        .only(is_one_of_each)
        .needs(&[Need::Journald]),
    case("logs::what_is_not_kept_is_said_to_be", what_is_not_kept_is_said_to_be).only(is_one_of_each),
    case("logs::a_full_disk_leaves_a_counted_gap", a_full_disk_leaves_a_counted_gap).only(is_one_of_each),
    case("logs::a_full_disk_can_hold_the_container_up", a_full_disk_can_hold_it_up).only(is_one_of_each),
    case("logs::a_full_disk_can_stop_the_container", a_full_disk_can_stop_it).only(is_one_of_each),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

/// Prints numbered lines to both streams.
fn numbers(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo out $i; echo err $i >&2; done")
}

fn expect_numbers(text: &str, word: &str, count: u32) {
    let expected: Vec<String> = (1..=count).map(|number| format!("{word} {number}")).collect();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines == expected, "{} lines, from {:?} to {:?}", lines.len(), lines.first(), lines.last());
}

fn both_streams_in_order(lab: &Lab) {
    for driver in ["cri", "json-file"] {
        let id = lab.run_detached(&["--log-driver", driver], &["sh", "-c", &numbers(500)]);
        assert_eq!(lab.cofferdam(&["wait", &id]).text(), "0");
        let done = lab.cofferdam(&["logs", &id]).expect_code(0);
        expect_numbers(&done.text(), "out", 500);
        expect_numbers(&done.stderr, "err", 500);
        let tail = lab.cofferdam(&["logs", "--tail", "1", "--timestamps", &id]).expect_code(0);
        let last = format!("{}{}", tail.text(), tail.stderr);
        let (time, line) = last.trim_end().split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && line.ends_with(" 500"), "{last}");
        assert_eq!(
            lab.cofferdam(&["logs", "--since", "2999-01-01T00:00:00Z", &id]).expect_code(0).text(),
            ""
        );
        assert_eq!(lab.cofferdam(&["logs", "--until", "1h", &id]).expect_code(0).text(), "");
        drop(lab.cofferdam(&["rm", &id]).expect_code(0));
        lab.expect_clean();
    }
}

fn bytes_stay_what_they_are(lab: &Lab) {
    // No line's end at the end, bytes that are no text, and a line longer than an entry.
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).chain([b'x'; 100_000]).collect();
    std::fs::write(lab.rootfs.join("data/bytes"), &bytes).unwrap();
    for driver in ["cri", "json-file"] {
        let id = lab.run_detached(&["--log-driver", driver], &["cat", "/data/bytes"]);
        assert_eq!(lab.cofferdam(&["wait", &id]).text(), "0");
        let done = lab.cofferdam(&["logs", &id]).expect_code(0);
        assert!(done.stdout == bytes, "{driver}: {} bytes of {}", done.stdout.len(), bytes.len());
        drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    }
    lab.expect_clean();
}

fn who_follows_sees_all_of_it(lab: &Lab) {
    let script = format!("{}; sleep 0.3; echo out 301; exit 7", numbers(300));
    let id = lab.run_detached(&["--rm", "--log-opt", "max-size=64k"], &["sh", "-c", &script]);
    let followers: Vec<Running> =
        (0..3).map(|_| Running::start(lab.command(["logs", "--follow", id.as_str()]))).collect();
    for follower in followers {
        // It ends with the container, also when that is forgotten at its end.
        expect_numbers(&follower.finish().expect_code(0).text(), "out", 301);
    }
    lab.expect_clean();
}

fn who_stops_reading_is_not_waited_for(lab: &Lab) {
    let id = lab.run_detached(&[], &["sh", "-c", "echo first; sleep 1000"]);
    for (args, expected) in
        [(&["logs", "--follow", &id][..], "first"), (&["events", "--after", "0"], "create")]
    {
        let mut command = lab.command(args);
        let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(follower.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains(expected), "{line}");
        // Nothing more comes, and the pipe is closed.
        eventually("it ends", || follower.try_wait().unwrap().is_some_and(|status| status.success()));
    }
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn files_are_bounded(lab: &Lab) {
    let options = ["--log-opt", "max-size=64k", "--log-opt", "max-file=3"];
    // One stream: of two, the one that is read last may fill all the files.
    let id = lab.run_detached(&options, &["seq", "5000"]);
    assert_eq!(lab.cofferdam(&["wait", &id]).text(), "0");
    let files: Vec<u64> = std::fs::read_dir(lab.state().join("logs").join(&id))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "index")
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(files.len() == 3 && files.iter().all(|size| *size <= 64 << 10), "{files:?}");
    let done = lab.cofferdam(&["logs", &id]).expect_code(0);
    let entries = |after: &str| -> Vec<Value> {
        let text = lab.cofferdam(&["logs", "--after", after, "--format", "json", &id]).expect_code(0).text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // A line may be in two entries.
    let all = entries("0");
    let number = |entry: &Value| entry["seq"].as_u64().unwrap();
    assert!(all.windows(2).all(|pair| number(&pair[1]) == number(&pair[0]) + 1));
    let last = number(all.last().unwrap());
    assert!((5000..5010).contains(&last), "{last}");
    assert_eq!(entries(&(last - 2).to_string()), all[all.len() - 2..]);
    let lines: Vec<u32> = done.text().lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.windows(2).all(|pair| pair[1] == pair[0] + 1) && lines.last() == Some(&5000));
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

/// A systemd-journald of its own, which ends with the test.
struct Journald {
    namespace: String,
    process: Running,
}

impl Journald {
    fn start(lab: &Lab) -> Self {
        let namespace = lab.path().file_name().unwrap().to_string_lossy().into_owned();
        let mut journald = Self { process: Self::spawn(&namespace), namespace };
        journald.until_it_listens();
        journald
    }

    fn spawn(namespace: &str) -> Running {
        let mut command = new_command("/lib/systemd/systemd-journald");
        command.arg(namespace);
        Running::start(command)
    }

    fn until_it_listens(&mut self) {
        let socket = format!("/run/systemd/journal.{}/socket", self.namespace);
        eventually("journald listens", || UnixDatagram::unbound().unwrap().connect(&socket).is_ok());
    }

    fn end(&mut self) {
        self.process.signal(Signal::KILL);
        drop(self.process.child.wait());
    }

    /// The entries of a container: priority, message, whether the line goes on.
    fn entries(&self, id: &str) -> Vec<(String, Value, bool)> {
        let mut command = new_command("journalctl");
        let namespace = format!("--namespace={}", self.namespace);
        command.args([&namespace, "--output=json", "--all", &format!("CONTAINER_ID_FULL={id}")]);
        let text = finish(command).expect_code(0).text();
        let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries
            .map(|mut entry| {
                let priority = entry["PRIORITY"].as_str().unwrap().to_owned();
                (priority, entry["MESSAGE"].take(), entry["CONTAINER_PARTIAL_MESSAGE"] == "true")
            })
            .collect()
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        if matches!(self.process.child.try_wait(), Ok(None)) {
            self.end();
        }
        // Of this namespace alone.
        let _ = std::fs::remove_dir_all(format!("/run/systemd/journal.{}", self.namespace));
        for folder in ["/var/log/journal", "/run/log/journal"] {
            let ours = |name: &str| name.ends_with(&format!(".{}", self.namespace));
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name().to_str().is_some_and(ours) {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
    }
}

fn journald_gets_every_byte(lab: &Lab) {
    let mut journald = Journald::start(lab);
    let namespace = format!("journal-namespace={}", journald.namespace);
    let options = ["--log-driver", "journald", "--log-opt", &namespace];
    let script = "trap 'echo again; exit 3' USR1; echo out; echo err >&2; printf 'a\\377b\\nno end'; \
                  while :; do sleep 0.05; done";
    let id = lab.run_detached(&options, &["sh", "-c", script]);
    eventually("it has come", || journald.entries(&id).len() >= 4);
    let mut entries = journald.entries(&id);
    entries.sort_by_key(|(priority, ..)| priority.clone());
    assert_eq!(entries[0], ("3".into(), json!("err"), false));
    assert_eq!(entries[1], ("6".into(), json!("out"), false));
    assert_eq!(entries[2], ("6".into(), json!([97, 255, 98]), false));
    assert_eq!(entries[3], ("6".into(), json!("no end"), true));
    let refused = lab.cofferdam(&["logs", &id]).expect_error("E0507");
    assert!(refused.stderr.contains(&format!("CONTAINER_ID_FULL={id}")), "{}", refused.stderr);
    // The container goes on without it, and what is missing is said.
    journald.end();
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    let report = lab.report(&id);
    assert_eq!(report["cause"]["code"], 3, "{report:#}");
    assert_eq!(report["stdio"]["dropped_bytes"], 6, "{report:#}");
    journald.process = Journald::spawn(&journald.namespace);
    journald.until_it_listens();
    let quick = lab.run_detached(&options, &["echo", "x"]);
    assert_eq!(lab.cofferdam(&["wait", &quick]).text(), "0");
    eventually("a new one gets it", || journald.entries(&quick) == [("6".into(), json!("x"), false)]);
    drop(journald);
    let args = lab.launch_args("run", &[&["--detach"], &options[..]].concat(), &["true"]);
    drop(finish(lab.command(args)).expect_error("E0508"));
    drop(lab.cofferdam(&["rm", &id, &quick]).expect_code(0));
    lab.expect_clean();
}

fn what_is_not_kept_is_said_to_be(lab: &Lab) {
    let id = lab.run_detached(&["--log-driver", "none"], &["echo", "x"]);
    drop(lab.cofferdam(&["logs", &id]).expect_error("E0507"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    for options in [
        &["--log-driver", "syslog"][..],
        &["--log-driver", "journald", "--log-opt", "max-size=1m"],
        &["--log-driver", "journald", "--log-opt", "journal-namespace=../x"],
        &["--log-opt", "max-size=1"],
        &["--log-opt", "max-file=0"],
        &["--log-opt", "on-full=explode"],
        &["--log-opt", "tag=x"],
        &["--log-opt", "max-size"],
    ] {
        let options: Vec<&str> = ["--detach"].iter().chain(options).copied().collect();
        drop(lab.run(&options, &["true"]).expect_error("E0101"));
    }
    drop(lab.run(&["--log-driver", "cri"], &["true"]).expect_error("E0101"));
    lab.expect_clean();
}

/// A container that writes a line every now and then until it is told to end with code 7, and then a last one.
const CHATTY: &str = "trap 'echo last; exit 7' USR1; touch /data/ready; \
                      while :; do echo 0123456789012345678901234567890123456789; sleep 0.01; done";

fn start_chatty(lab: &Lab, on_full: &str) -> String {
    let option = format!("on-full={on_full}");
    let id = lab.run_detached(&["--log-opt", &option], &["sh", "-c", CHATTY]);
    eventually("it writes", || lab.rootfs.join("data/ready").exists());
    id
}

/// Whether a log does not grow.
fn is_still(lab: &Lab, id: &str) -> bool {
    let size = || std::fs::metadata(lab.state().join("logs").join(id).join("log")).unwrap().len();
    let before = size();
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    size() == before
}

fn dropped(report: &Value) -> u64 {
    report["stdio"]["dropped_bytes"].as_u64().unwrap()
}

fn a_full_disk_leaves_a_counted_gap(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    let id = start_chatty(lab, "drop");
    let filler = disk.fill();
    eventually("nothing comes any more", || {
        let mut file = std::fs::OpenOptions::new().append(true).open(&filler).unwrap();
        while file.write_all(&[0; 64]).is_ok() {}
        // For a second and more: a busy machine has its pauses.
        (0..4).all(|_| is_still(lab, &id))
    });
    assert_eq!(lab.inspect(&id)["state"]["status"], "running");
    std::fs::remove_file(filler).unwrap();
    eventually("it comes again", || !is_still(lab, &id));
    drop(lab.cofferdam(&["kill", "--signal", "USR1", &id]).expect_code(0));
    let report = lab.report(&id);
    assert_eq!(report["cause"]["code"], 7, "{report:#}");
    assert!(dropped(&report) > 0, "{report:#}");
    let done = lab.cofferdam(&["logs", &id]).expect_code(0);
    assert!(done.stderr.contains("bytes of output are missing here: No space left"), "{}", done.stderr);
    assert!(done.text().lines().all(|line| line.len() == 40 || line == "last"), "whole lines only");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
    drop(disk);
}

fn a_full_disk_can_hold_it_up(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    let lines = 20_000;
    let id = lab.run_detached(&["--log-opt", "on-full=block"], &["sh", "-c", &numbers(lines)]);
    let filler = disk.fill();
    eventually("nothing comes any more", || is_still(lab, &id));
    assert_eq!(lab.inspect(&id)["state"]["status"], "running");
    std::fs::remove_file(filler).unwrap();
    // The log does not fit the disk as a whole: what is lost then is told.
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    let done = lab.cofferdam(&["logs", &id]).expect_code(0);
    let count = u32::try_from(done.text().lines().count()).unwrap();
    expect_numbers(&done.text(), "out", count);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
    drop(disk);
}

fn a_full_disk_can_stop_it(lab: &Lab) {
    let disk = SmallDisk::new(lab);
    let id = lab.run_detached(
        &["--log-opt", "on-full=stop", "--stop-timeout", "0"],
        &["sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done"],
    );
    let filler = disk.fill();
    let report = lab.report(&id);
    assert_eq!(report["asked_by"], "log_full", "{report:#}");
    let evidence = report["evidence"].as_array().unwrap();
    let signals = evidence.iter().filter(|evidence| evidence["kind"] == "signal_sent").count();
    assert!(signals <= 2, "{report:#}");
    // There is no space for its report; to remove it gives some.
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
    std::fs::remove_file(filler).unwrap();
    drop(disk);
}
