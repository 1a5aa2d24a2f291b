//! Attaching: what the container writes from then on, what the caller types, and the container's own exit code.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use cofferdam_testkit::lab::{Finished, Lab, Running, eventually, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::Choice;
use rustix::process::Signal;

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("attach::input_and_output_and_code", input_and_output_and_code),
    case("attach::a_start_can_be_attached", a_start_can_be_attached).only(is_one_of_each),
    case("attach::goes_on_with_the_next_supervisor", goes_on_with_the_next_supervisor),
    case("attach::several_at_once_see_the_same", several_at_once_see_the_same),
    case("attach::a_caller_who_does_not_read", a_caller_who_does_not_read).only(is_one_of_each),
    case("attach::signals_are_passed_on_unless_they_are_not", signals_are_passed_on),
    case("attach::where_it_cannot_be", where_it_cannot_be).only(is_one_of_each),
    case("attach::a_terminal_can_be_left_and_found_again", a_terminal_can_be_left_and_found_again)
        .real()
        .needs(&[Need::ScriptCommand]),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(cofferdam_testkit::runtimes::RUNSC_DEBIAN))
}

/// A container that answers each line, and ends with 9 at the line `end`.
const ECHO: &str =
    "echo ready; while read line; do echo got $line; echo err $line >&2; [ $line = end ] && exit 9; done";

/// An attached command whose standard input we hold.
fn attach(lab: &Lab, id: &str, options: &[&str]) -> Running {
    let args = ["attach"].iter().chain(options).copied().chain([id]);
    let mut command = lab.command(args);
    command.stdin(Stdio::piped());
    Running::start(command)
}

/// Waits until so many callers are attached: each has a connection to the control socket.
pub(crate) fn until_attached(lab: &Lab, id: &str, count: usize) {
    let socket = format!("containers/{id}/control.sock");
    eventually("they are attached", || {
        let table = std::fs::read_to_string("/proc/net/unix").unwrap();
        let connected = |line: &&str| line.ends_with(&socket) && line.split_whitespace().nth(5) == Some("03");
        table.lines().filter(connected).count() == count
    });
    // The supervisor answers a question after those that came before it.
    drop(lab.inspect(id));
}

fn input_and_output_and_code(lab: &Lab) {
    let id = lab.run_detached(&["--interactive"], &["sh", "-c", ECHO]);
    let mut first = attach(lab, &id, &[]);
    until_attached(lab, &id, 1);
    first.child.stdin.take().unwrap().write_all(b"one\n").unwrap();
    eventually("it has answered", || lab.cofferdam(&["logs", &id]).text().contains("got one"));
    // The end of a caller's input is not the end of the container's.
    let mut second = attach(lab, &id, &[]);
    until_attached(lab, &id, 2);
    second.child.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let (first, second) = (first.finish().expect_code(9), second.finish().expect_code(9));
    assert!(first.text().ends_with("got one\ngot end"), "{first:?}");
    assert_eq!((second.text().as_str(), second.stderr.as_str()), ("got end", "err end\n"));
    assert_eq!(lab.report(&id)["cause"]["code"], 9);
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn goes_on_with_the_next_supervisor(lab: &Lab) {
    let id = lab.run_detached(&["--interactive"], &["sh", "-c", ECHO]);
    let mut caller = attach(lab, &id, &[]);
    until_attached(lab, &id, 1);
    crate::keeper::kill_supervisor(lab, &id);
    until_attached(lab, &id, 1);
    caller.child.stdin.as_mut().unwrap().write_all(b"end\n").unwrap();
    let done = caller.finish();
    assert!(done.code == Some(9) || !crate::deaths::kernel_keeps_exits(), "{done:?}");
    assert!(done.text().ends_with("got end") && done.stderr.contains("Another one goes on"), "{done:?}");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_start_can_be_attached(lab: &Lab) {
    let script = "echo first; while read line; do echo got $line; [ $line = end ] && exit 6; done";
    let args = lab.launch_args("create", &["--interactive"], &["sh", "-c", script]);
    let id = finish(lab.command(args)).expect_code(0).text();
    let mut command = lab.command(["start", "--attach", "--interactive", id.as_str()]);
    command.stdin(Stdio::piped());
    let mut caller = Running::start(command);
    caller.child.stdin.as_mut().unwrap().write_all(b"end\n").unwrap();
    let done = caller.finish().expect_code(6);
    assert_eq!(done.text(), "first\ngot end");
    drop(lab.cofferdam(&["start", "--attach", &id]).expect_error("E0501"));
    drop(lab.cofferdam(&["start", "--attach", &id, &id]).expect_error("E0101"));
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn several_at_once_see_the_same(lab: &Lab) {
    let script = "read go; i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; done; exit 3";
    let id = lab.run_detached(&["--interactive", "--rm"], &["sh", "-c", script]);
    let readers: Vec<Running> = (0..8).map(|_| attach(lab, &id, &["--no-stdin"])).collect();
    until_attached(lab, &id, 8);
    let mut writer = attach(lab, &id, &[]);
    until_attached(lab, &id, 9);
    writer.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let expected: Vec<String> = (1..=200).map(|number| format!("line {number}")).collect();
    for reader in readers.into_iter().chain([writer]) {
        let done = reader.finish().expect_code(3);
        assert_eq!(done.text().lines().collect::<Vec<_>>(), expected);
    }
    lab.expect_clean();
}

fn a_caller_who_does_not_read(lab: &Lab) {
    let script = "read go; yes 0123456789 | head -c 4000000; exit 6";
    let id = lab.run_detached(&["--interactive"], &["sh", "-c", script]);
    let socket = lab.state().join("containers").join(&id).join("control.sock");
    let mut stalled = UnixStream::connect(socket).unwrap();
    stalled.write_all(b"{\"version\":1,\"do\":\"attach\",\"input\":true}\n").unwrap();
    let mut answer = [0; 256];
    let count = stalled.read(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer[..count]).contains("attached"));
    // A frame of input: the container starts to write, and ends although nobody takes it.
    stalled.write_all(&[0, 0, 0, 0, 0, 0, 0, 3, b'g', b'o', b'\n']).unwrap();
    let report = lab.report(&id);
    assert_eq!((&report["cause"]["code"], &report["stdio"]["stdout_bytes"]), (&6.into(), &4_000_000.into()));
    assert_eq!(lab.cofferdam(&["logs", &id]).expect_code(0).stdout.len(), 4_000_000, "the log has all of it");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn signals_are_passed_on(lab: &Lab) {
    let script = "trap 'echo term; exit 4' TERM; touch /data/ready; while :; do sleep 0.05; done";
    let id = lab.run_detached(&[], &["sh", "-c", script]);
    eventually("the handler is there", || lab.rootfs.join("data/ready").exists());
    let leaving = attach(lab, &id, &["--no-sig-proxy"]);
    let staying = attach(lab, &id, &[]);
    until_attached(lab, &id, 2);
    leaving.signal(Signal::TERM);
    assert!(leaving.finish().expect_code(0).stderr.contains("detached"));
    staying.signal(Signal::TERM);
    assert_eq!(staying.finish().expect_code(4).text(), "term");
    assert_eq!(lab.report(&id)["asked_by"], "forwarded");
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
    lab.expect_clean();
}

fn where_it_cannot_be(lab: &Lab) {
    let ended = lab.run_detached(&["--name", "ended"], &["true"]);
    assert_eq!(lab.cofferdam(&["wait", &ended]).text(), "0");
    drop(lab.cofferdam(&["attach", "ended"]).expect_error("E0501"));
    drop(lab.cofferdam(&["attach", "nobody"]).expect_error("E0103"));
    drop(lab.cofferdam(&["attach", "--detach-keys", "ctrl-", "ended"]).expect_error("E0101"));
    let id = lab.run_detached(&["--interactive"], &["sleep", "1000"]);
    // Whoever is killed while he is attached takes nothing with him.
    let caller = attach(lab, &id, &[]);
    until_attached(lab, &id, 1);
    caller.signal(Signal::KILL);
    drop(caller.finish());
    assert_eq!(lab.inspect(&id)["state"]["status"], "running");
    drop(lab.cofferdam(&["rm", "-f", &id, "ended"]).expect_code(0));
    lab.expect_clean();
}

fn a_terminal_can_be_left_and_found_again(lab: &Lab) {
    let id = lab.run_detached(&["--interactive", "--tty", "--name", "t"], &["sh"]);
    // `script` gives the command a terminal, and its own input is what is typed on it.
    let type_into = |pieces: &[&str], expected: &[&str]| {
        let cofferdam = lab.command(["attach", "t"]).get_program().to_owned();
        let shell = format!("stty rows 31 cols 97; exec {} attach t", cofferdam.to_string_lossy());
        let mut command = new_command("script");
        command
            .args(["--quiet", "--return", "--flush", "--command", &shell, "/dev/null"])
            .env("COFFERDAM_STATE_DIR", lab.state())
            .stdin(Stdio::piped());
        let mut running = Running::start(command);
        let mut keyboard = running.child.stdin.take().unwrap();
        let mut screen = running.child.stdout.take().unwrap();
        let mut seen = String::new();
        for (keys, answer) in pieces.iter().zip(expected) {
            keyboard.write_all(keys.as_bytes()).unwrap();
            let mut buffer = [0; 4096];
            while !seen.contains(answer) {
                let count = screen.read(&mut buffer).unwrap();
                assert!(count > 0, "the terminal ended; it showed {seen:?}, not {answer:?}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
        drop(keyboard);
        let mut rest = Vec::new();
        screen.read_to_end(&mut rest).unwrap();
        Finished { stdout: rest, ..running.finish() }
    };
    let left = type_into(&["stty size; echo $((6*7))\r", "\u{10}\u{11}"], &["\r\n42", "detached"]);
    assert_eq!(left.code, Some(0));
    assert_eq!(lab.inspect("t")["state"]["status"], "running");
    let ended = type_into(&["stty size\r", "exit 5\r"], &["31 97", "exit 5"]);
    let report = lab.report(&id);
    assert_eq!(report["cause"]["code"], 5, "{report:#}");
    assert_eq!(ended.code, Some(5), "{}", ended.text());
    drop(lab.cofferdam(&["rm", "t"]).expect_code(0));
    lab.expect_clean();
}
