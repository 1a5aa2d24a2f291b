//! Pumps with fast, slow, dead, failing and stubborn partners.

use std::io::{Read, Write};

use super::*;

struct Fixture {
    pumps: Pumps,
    container: ContainerStdio,
    stdout: Option<std::io::PipeReader>,
}

fn fixture(sink: Option<OwnedFd>, stdin: Option<OwnedFd>) -> Fixture {
    let (container, ours) = pipes(stdin.is_some()).unwrap();
    let (reader, sink) = match sink {
        Some(sink) => (None, sink),
        None => {
            let (reader, writer) = std::io::pipe().unwrap();
            (Some(reader), writer.into())
        }
    };
    let plan = StdioPlan { stdin, stdout: Some(sink), ..StdioPlan::discard() };
    Fixture { pumps: Pumps::start(ours, plan, None, &Outputs::default()).unwrap(), container, stdout: reader }
}

fn finish(mut pumps: Pumps) -> StdioReport {
    pumps.container_ended();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(pumps.finished());
    pumps.report()
}

#[test]
fn bytes_arrive_whole_and_in_order_at_a_slow_reader() {
    let mut fixture = fixture(None, None);
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let copy = sent.clone();
    let mut stdout: std::fs::File = fixture.container.stdout.into();
    drop(fixture.container.stderr);
    let writer = std::thread::spawn(move || stdout.write_all(&copy).unwrap());
    let mut received = Vec::new();
    let mut reader = fixture.stdout.take().unwrap();
    let mut chunk = [0; 997];
    while let Ok(count @ 1..) = reader.read(&mut chunk) {
        received.extend_from_slice(&chunk[..count]);
    }
    writer.join().unwrap();
    assert!(received == sent);
    let report = finish(fixture.pumps);
    assert_eq!((report.stdout_bytes, report.dropped_bytes, report.truncated), (12_000_000, 0, false));
}

#[test]
fn waiting_for_the_end_can_be_given_up_and_begun_again() {
    let Fixture { mut pumps, container, stdout } = fixture(None, None);
    // One stream ends, the other does not yet.
    drop((container.stderr, stdout));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let brief = Duration::from_millis(50);
    for _ in 0..2 {
        assert!(runtime.block_on(async { tokio::time::timeout(brief, pumps.finished()).await }).is_err());
    }
    drop(container.stdout);
    pumps.container_ended();
    runtime.block_on(pumps.finished());
    // And once more after the end.
    runtime.block_on(pumps.finished());
}

#[test]
fn a_dead_reader_closes_the_containers_pipe() {
    let mut fixture = fixture(None, None);
    drop(fixture.stdout.take());
    let mut stdout: std::fs::File = fixture.container.stdout.into();
    drop(fixture.container.stderr);
    let error = (0..).find_map(|_| stdout.write_all(&[0; 4096]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    finish(fixture.pumps);
}

#[test]
fn a_full_disk_does_not_stop_the_container_and_the_loss_is_counted() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let fixture = fixture(Some(full.into()), None);
    let mut stdout: std::fs::File = fixture.container.stdout.into();
    drop(fixture.container.stderr);
    stdout.write_all(&[7; 1_000_000]).unwrap();
    drop(stdout);
    let report = finish(fixture.pumps);
    assert_eq!((report.stdout_bytes, report.dropped_bytes), (1_000_000, 1_000_000));
}

#[test]
fn a_pipe_that_somebody_holds_open_is_given_up() {
    let fixture = fixture(None, None);
    let holder = fixture.container.stdout.try_clone().unwrap();
    drop(fixture.container);
    let report = finish(fixture.pumps);
    assert!(report.truncated);
    drop(holder);
}

#[test]
fn input_is_passed_on_and_its_end_too() {
    let (source, mut caller) = std::io::pipe().unwrap();
    let fixture = fixture(None, Some(source.into()));
    let mut stdin: std::fs::File = fixture.container.stdin.into();
    caller.write_all(b"hello").unwrap();
    drop(caller);
    let mut text = String::new();
    stdin.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    drop((fixture.container.stdout, fixture.container.stderr));
    finish(fixture.pumps);
}

#[test]
fn a_caller_who_never_closes_input_does_not_hold_the_end_up() {
    let (source, caller) = std::io::pipe().unwrap();
    let fixture = fixture(None, Some(source.into()));
    drop(fixture.container);
    finish(fixture.pumps);
    drop(caller);
}
