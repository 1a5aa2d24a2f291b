//! Standard streams: byte for byte, apart, in order, and never in the way of the end.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use cofferdam_testkit::lab::{Lab, Running, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("streams::output_and_errors_stay_apart", output_and_errors_stay_apart),
    case("streams::input_comes_back_byte_for_byte", input_comes_back_byte_for_byte),
    case("streams::nothing_of_ours_gets_in", nothing_of_ours_gets_in).real(),
    case("streams::without_interactive_input_is_empty", without_interactive_input_is_empty),
    case(
        "streams::a_gigabyte_arrives_whole_past_a_stalling_reader",
        a_gigabyte_arrives_whole_past_a_stalling_reader,
    )
    .only(|choice| matches!(choice, Choice::Runc | Choice::Crun | Choice::Runsc(RUNSC_DEBIAN))),
    case("streams::a_reader_that_leaves_ends_the_writer", a_reader_that_leaves_ends_the_writer),
    case("streams::a_full_disk_changes_no_exit_code", a_full_disk_changes_no_exit_code),
    case("streams::files_take_the_output_of_the_background", files_take_the_output_of_the_background),
    case("streams::a_terminal_has_size_and_code", a_terminal_has_size_and_code)
        .real()
        .needs(&[Need::ScriptCommand]),
];

/// Size of the file that is printed again and again, in bytes, and how often: 1 GiB in all.
const PIECE_BYTES: usize = 16 << 20;
const PIECES: usize = 64;
/// What the supervisor may have of its own at most, in KiB. The pages of its file are shared.
const MEMORY_LIMIT_KIB: u64 = 8 << 10;

/// Bytes that do not repeat with a short period.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        // xorshift64: every byte value, no period that a buffer's size could hide.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

fn output_and_errors_stay_apart(lab: &Lab) {
    let done = lab.run(&["--rm"], &["sh", "-c", "printf 'a\\0b'; printf 'c\\377' >&2"]).expect_code(0);
    assert_eq!(done.stdout, b"a\0b");
    assert_eq!(done.stderr, "c\u{fffd}");
    lab.expect_clean();
}

fn input_comes_back_byte_for_byte(lab: &Lab) {
    let bytes = noise(3 << 20);
    let mut command = lab.command(lab.launch_args("run", &["--rm", "-i"], &["cat"]));
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let done = running.finish().expect_code(0);
    writer.join().unwrap().unwrap();
    assert!(done.stdout == bytes, "{} bytes came back of {}", done.stdout.len(), bytes.len());
}

/// What a container sees of its descriptors and of processes: the way out of CVE-2024-21626 and CVE-2019-5736.
fn nothing_of_ours_gets_in(lab: &Lab) {
    // Our own caller may leave anything open to us, a directory of the host say.
    let with_open_directory = |words: &[String]| {
        let quoted: Vec<String> =
            words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let cofferdam = lab.command(["x"]).get_program().to_string_lossy().into_owned();
        let mut command = new_command("sh");
        command.args(["-c", &format!("exec 9</; exec 8>/dev/null; exec {cofferdam} {}", quoted.join(" "))]);
        command.envs(lab.command(["x"]).get_envs().filter_map(|(key, value)| Some((key, value?))));
        cofferdam_testkit::lab::finish(command)
    };
    // The shell itself looks: nothing is started that would open something of its own.
    let look = "for fd in /proc/self/fd/*; do [ -e $fd ] && echo ${fd##*/}; done; \
                for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done";
    let args = lab.launch_args("run", &["--rm"], &["sh", "-c", look]);
    let expect = |done: cofferdam_testkit::lab::Finished| {
        let text = done.expect_code(0).text();
        let open: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(open.iter().all(|fd| *fd <= 3 || *fd == 10), "{text}");
        assert!(!text.contains("cofferdam") && !text.contains("monitor"), "{text}");
    };
    expect(with_open_directory(&args));
    let args = lab.launch_args("run", &["--detach"], &["sleep", "1000"]);
    let id = with_open_directory(&args).expect_code(0).text();
    let exec: Vec<String> = ["exec", &id, "sh", "-c", look].iter().map(|word| (*word).to_owned()).collect();
    expect(with_open_directory(&exec));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn without_interactive_input_is_empty(lab: &Lab) {
    // The caller's input stays open: the container must not see it, nor wait for it.
    let mut command = lab.command(lab.launch_args("run", &["--rm"], &["cat"]));
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let _kept = running.child.stdin.take();
    assert_eq!(running.finish().expect_code(0).stdout, b"");
}

fn a_gigabyte_arrives_whole_past_a_stalling_reader(lab: &Lab) {
    let piece = noise(PIECE_BYTES);
    std::fs::write(lab.rootfs.join("data/piece"), &piece).unwrap();
    let script = format!("i=0; while [ $i -lt {PIECES} ]; do cat /data/piece; i=$((i+1)); done");
    let mut running = lab.start_run(&["--name", "big"], &["sh", "-c", &script]);
    let mut stdout = running.child.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let (mut position, mut most_kib) = (0, 0);
    loop {
        let count = stdout.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let expected = &piece[position % PIECE_BYTES..];
            let length = rest.len().min(expected.len());
            assert!(rest[..length] == expected[..length], "wrong bytes at or after {position}");
            position += length;
            rest = &rest[length..];
        }
        if position >> 28 != (position - count) >> 28 {
            // Four stalls: the container must wait, and the supervisor must not keep what it cannot hand on.
            std::thread::park_timeout(Duration::from_secs(1));
            most_kib = most_kib.max(own_memory_kib(running.pid()).unwrap_or(0));
        }
    }
    drop(running.finish().expect_code(0));
    assert_eq!(position, PIECE_BYTES * PIECES);
    assert!((1..MEMORY_LIMIT_KIB).contains(&most_kib), "the supervisor used {most_kib} KiB");
    assert_eq!(lab.report("big")["stdio"]["stdout_bytes"], PIECE_BYTES * PIECES);
}

/// The memory that a process has for itself now, in KiB.
fn own_memory_kib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn a_reader_that_leaves_ends_the_writer(lab: &Lab) {
    let mut running = lab.start_run(&["--rm"], &["yes"]);
    let mut stdout = running.child.stdout.take().unwrap();
    let mut first = [0; 2];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"y\n");
    drop(stdout);
    let done = running.finish();
    // The writer is told by SIGPIPE or by an error, as it chooses.
    assert!(done.code.is_some_and(|code| code == 1 || code == 141), "{done:?}");
    lab.expect_clean();
}

fn a_full_disk_changes_no_exit_code(lab: &Lab) {
    let mut command =
        lab.command(lab.launch_args("run", &["--name", "full"], &["sh", "-c", "echo x; exit 3"]));
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()).stderr(Stdio::null());
    let status = command.status().unwrap();
    assert_eq!(status.code(), Some(3));
    let stdio = &lab.report("full")["stdio"];
    assert_eq!(
        (stdio["stdout_bytes"].as_u64(), stdio["dropped_bytes"].as_u64()),
        (Some(2), Some(2)),
        "{stdio}"
    );
}

fn files_take_the_output_of_the_background(lab: &Lab) {
    let file = |name: &str| lab.path().join(name).to_string_lossy().into_owned();
    std::fs::write(file("in"), "given\n").unwrap();
    let (input, output, errors) = (file("in"), file("out"), file("err"));
    let options = ["--stdin", &input, "--stdout", &output, "--stderr", &errors];
    let id = lab.run_detached(&options, &["sh", "-c", "cat; echo bad >&2; exit 4"]);
    assert_eq!(lab.cofferdam(&["wait", &id]).expect_code(0).text(), "4");
    assert_eq!(std::fs::read_to_string(output).unwrap(), "given\n");
    assert_eq!(std::fs::read_to_string(errors).unwrap(), "bad\n");
}

fn a_terminal_has_size_and_code(lab: &Lab) {
    let in_terminal = |args: &str| {
        let plain = lab.command(["x"]);
        let line = format!("stty rows 40 cols 120; {} {args}", plain.get_program().to_string_lossy());
        let mut command = new_command("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        cofferdam_testkit::lab::finish(command)
    };
    let args = lab.launch_args("run", &["--rm", "-it"], &["sh", "-c", "'tty; stty size; exit 6'"]).join(" ");
    let done = in_terminal(&args).expect_code(6);
    // gVisor's terminals have no name.
    assert!(lab.choice.is_gvisor() || done.text().contains("/dev/pts/"), "{done:?}");
    assert!(done.text().contains("40 120"), "{done:?}");
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    let done =
        in_terminal(&format!("exec -it {id} sh -c 'test -t 0 && test -t 1 && echo a terminal; exit 5'"));
    assert!(done.expect_code(5).text().contains("a terminal"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    // Without a terminal, -it is refused by name.
    drop(lab.run(&["-it"], &["true"]).expect_code(125).expect_error("E0101"));
    lab.expect_clean();
}
