//! The rules of [`decide`], one test a rule.

use proptest::prelude::*;

use std::time::Duration;

use super::*;
use crate::cgroup::OomScope;

fn death(end: ProcessEnd) -> Death {
    Death {
        pid: 42,
        end,
        from_pidfd: false,
        sandboxed: false,
        sent: vec![],
        timed_out: None,
        memory: None,
        kernel_line: None,
        oom_line: None,
        helper: None,
    }
}

fn killed() -> ProcessEnd {
    ProcessEnd::Signaled { signal: Signal::KILL, core_dumped: false }
}

fn counters(oom_kill: u64) -> MemoryCounters {
    MemoryCounters {
        file: "/sys/fs/cgroup/memory/x/memory.oom_control".into(),
        oom_kill,
        limit_bytes: Some(64 << 20),
        peak_bytes: Some(64 << 20),
        headroom_bytes: 0,
        scope: None,
    }
}

fn sent(signal: Signal, by: AskedBy) -> Vec<SentSignal> {
    vec![SentSignal { signal, by, at: Timestamp::UNIX_EPOCH }]
}

fn report(death: &Death) -> ExitReport {
    let (cause, asked_by, evidence) = decide(death);
    ExitReport {
        version: REPORT_VERSION,
        id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        name: Some("web".parse().unwrap()),
        runtime: "runc".into(),
        restarts: 0,
        cause,
        asked_by,
        evidence,
        started: None,
        ended: Timestamp::UNIX_EPOCH,
        usage: Usage::default(),
        stdio: StdioReport::default(),
        cleanup: vec![],
    }
}

#[test]
fn a_plain_exit_keeps_its_code_and_prints_nothing() {
    for code in [0, 7, 128, 143, 255] {
        let report = report(&death(ProcessEnd::Exited(code)));
        assert_eq!(report.cause, Cause::Exited { code });
        assert_eq!(report.code(), i32::from(code));
        assert_eq!(report.death_line(), None);
    }
}

#[test]
fn a_kill_without_a_counter_is_never_called_out_of_memory() {
    let report = report(&Death { memory: Some(counters(0)), ..death(killed()) });
    assert_eq!(report.cause, Cause::Signaled { signal: Signal::KILL });
    assert_eq!(report.code(), 137);
    insta::assert_snapshot!(report.death_line().unwrap(), @"web exited 137: ended by SIGKILL from outside. Not an out-of-memory kill of its own limit (oom_kill=0)");
}

#[test]
fn whose_memory_it_was_is_said() {
    let line = |scope, headroom_bytes| {
        let memory = MemoryCounters { scope: Some(scope), headroom_bytes, ..counters(1) };
        let line = report(&Death { memory: Some(memory), ..death(killed()) }).death_line().unwrap();
        line.split_once("out of memory: ").unwrap().1.to_owned()
    };
    insta::assert_snapshot!(line(OomScope::Own, 34 << 20), @"limit 30.0 MiB and 34.0 MiB for the sandbox, peak 64.0 MiB (memory.oom_control oom_kill=1). Give it more: -m 45m");
    insta::assert_snapshot!(line(OomScope::Machine, 0), @"limit 64.0 MiB, peak 64.0 MiB (memory.oom_control oom_kill=1). It was the machine that had none left: run less on it, or limit what else runs there");
    let above = OomScope::Above { cgroup: Some("/pods/a".into()), limit_bytes: Some(40 << 20) };
    insta::assert_snapshot!(line(above, 0), @"limit 64.0 MiB, peak 64.0 MiB (memory.oom_control oom_kill=1). It was the limit of 40.0 MiB of a cgroup above it, /pods/a: raise that one");
    insta::assert_snapshot!(line(OomScope::Above { cgroup: None, limit_bytes: None }, 0), @"limit 64.0 MiB, peak 64.0 MiB (memory.oom_control oom_kill=1). It was the limit of a cgroup above it: raise that one");
}

#[test]
fn a_kill_that_the_counter_shows_is_out_of_memory() {
    let report = report(&Death { memory: Some(counters(1)), ..death(killed()) });
    assert_eq!(report.cause, Cause::OomKilled { victim: OomVictim::Init });
    assert_eq!(report.code(), 137);
    insta::assert_snapshot!(report.death_line().unwrap(), @"web exited 137: out of memory: limit 64.0 MiB, peak 64.0 MiB (memory.oom_control oom_kill=1). Give it more: -m 96m");
}

#[test]
fn which_process_was_killed_is_said_to_be_unknown_where_it_is() {
    let (cause, _, evidence) = decide(&Death { memory: Some(counters(1)), ..death(killed()) });
    assert_eq!(cause, Cause::OomKilled { victim: OomVictim::Init });
    assert!(evidence.iter().any(|fact| matches!(fact, Evidence::Ambiguous { .. })), "{evidence:?}");
    let line = "Memory cgroup out of memory: Killed process 42 (x)".to_owned();
    let oom_line = Some(Ok(line.clone()));
    let (_, _, evidence) = decide(&Death { memory: Some(counters(1)), oom_line, ..death(killed()) });
    assert!(evidence.contains(&Evidence::KernelLog { line }), "{evidence:?}");
    assert!(!evidence.iter().any(|fact| matches!(fact, Evidence::Ambiguous { .. })), "{evidence:?}");
}

#[test]
fn a_helper_that_the_kernel_killed_for_memory_is_out_of_memory() {
    let helper = HelperDeath { helper: "gofer (pid 7)".into(), end: killed() };
    let lost = Death { sandboxed: true, helper: Some(helper), ..death(killed()) };
    let (cause, ..) = decide(&Death { memory: Some(counters(1)), ..lost.clone() });
    assert_eq!(cause, Cause::OomKilled { victim: OomVictim::Helper });
    let (cause, ..) = decide(&Death { memory: Some(counters(2)), ..lost.clone() });
    assert_eq!(cause, Cause::OomKilled { victim: OomVictim::Init }, "both were killed, the helper first");
    let (cause, ..) = decide(&Death { memory: Some(counters(0)), ..lost });
    assert!(matches!(cause, Cause::RuntimeLost { .. }), "{cause}");
}

#[test]
fn a_signal_that_asks_for_no_end_is_not_the_reason_of_an_exit() {
    for (signal, by, expected) in [
        (Signal::USR1, AskedBy::Kill, None),
        (Signal::CONT, AskedBy::Forwarded, None),
        (Signal::USR1, AskedBy::Stop, Some(AskedBy::Stop)),
        (Signal::TERM, AskedBy::Kill, Some(AskedBy::Kill)),
    ] {
        let (cause, asked_by, _) = decide(&Death { sent: sent(signal, by), ..death(ProcessEnd::Exited(3)) });
        assert_eq!((cause, asked_by), (Cause::Exited { code: 3 }, expected), "{signal} {by}");
    }
}

#[test]
fn a_fault_does_not_come_from_outside() {
    let end =
        |number| ProcessEnd::Signaled { signal: Signal::from_number(number).unwrap(), core_dumped: false };
    let line = |number| report(&death(end(number))).death_line().unwrap();
    insta::assert_snapshot!(line(11), @"web exited 139: ended by SIGSEGV, which a process gets for a fault of its own");
    insta::assert_snapshot!(line(15), @"web exited 143: ended by SIGTERM from outside");
}

#[test]
fn our_own_kill_is_ours_even_after_an_out_of_memory_kill_of_a_child() {
    let (cause, asked_by, _) = decide(&Death {
        memory: Some(counters(1)),
        sent: sent(Signal::KILL, AskedBy::Stop),
        ..death(killed())
    });
    assert_eq!((cause, asked_by), (Cause::Signaled { signal: Signal::KILL }, Some(AskedBy::Stop)));
}

#[test]
fn a_childs_137_handed_on_is_out_of_memory_of_the_child() {
    let (cause, ..) = decide(&Death { memory: Some(counters(1)), ..death(ProcessEnd::Exited(137)) });
    assert_eq!(cause, Cause::OomKilled { victim: OomVictim::Child });
    let (cause, ..) = decide(&Death { memory: Some(counters(1)), ..death(ProcessEnd::Exited(3)) });
    assert_eq!(cause, Cause::Exited { code: 3 }, "the process that lived on has a code of its own");
}

#[test]
fn a_trapped_signal_is_an_exit_for_a_process() {
    let (cause, asked_by, _) =
        decide(&Death { sent: sent(Signal::TERM, AskedBy::Stop), ..death(ProcessEnd::Exited(143)) });
    assert_eq!((cause, asked_by), (Cause::Exited { code: 143 }, Some(AskedBy::Stop)));
}

#[test]
fn a_sandbox_that_exits_143_is_ambiguous_and_says_so() {
    let sandboxed = Death { sandboxed: true, ..death(ProcessEnd::Exited(143)) };
    let (cause, _, evidence) = decide(&sandboxed);
    assert_eq!(cause, Cause::Exited { code: 143 });
    assert!(evidence.iter().any(|e| matches!(e, Evidence::Ambiguous { .. })));
    let (cause, asked_by, evidence) =
        decide(&Death { sent: sent(Signal::TERM, AskedBy::Stop), ..sandboxed.clone() });
    assert_eq!((cause, asked_by), (Cause::Signaled { signal: Signal::TERM }, Some(AskedBy::Stop)));
    assert!(evidence.iter().any(|e| matches!(e, Evidence::Ambiguous { .. })));
}

#[test]
fn a_sandbox_that_exits_128_or_255_is_a_plain_exit() {
    for code in [128, 255] {
        let (cause, _, evidence) = decide(&Death { sandboxed: true, ..death(ProcessEnd::Exited(code)) });
        assert_eq!(cause, Cause::Exited { code });
        assert!(!evidence.iter().any(|e| matches!(e, Evidence::Ambiguous { .. })), "{code}");
    }
}

#[test]
fn a_dead_gofer_makes_the_end_unknown() {
    let helper = HelperDeath { helper: "gofer (pid 7)".into(), end: killed() };
    for end in [ProcessEnd::Exited(0), ProcessEnd::Exited(137), killed()] {
        let report = report(&Death { sandboxed: true, helper: Some(helper.clone()), ..death(end) });
        assert!(matches!(report.cause, Cause::RuntimeLost { .. }), "{end}");
        assert_eq!((report.code(), report.cause.shell_code()), (-1, 125));
    }
}

#[test]
fn the_time_limit_wins_over_how_it_ended() {
    let (cause, asked_by, _) =
        decide(&Death { timed_out: Some(Duration::from_millis(1500)), ..death(ProcessEnd::Exited(0)) });
    assert_eq!(cause, Cause::TimedOut { limit_ms: 1500 });
    assert_eq!((cause.shell_code(), asked_by), (124, Some(AskedBy::Timeout)));
}

#[test]
fn codes_of_a_failed_start() {
    let failed =
        |code| Cause::StartFailed { failure: Failure { code, what: String::new(), why: vec![], next: None } };
    assert_eq!(
        (failed(Code::CommandNotFound).code(), failed(Code::CommandNotFound).shell_code()),
        (127, 127)
    );
    assert_eq!(failed(Code::CommandNotExecutable).code(), 126);
    assert_eq!((failed(Code::RuntimeFailed).code(), failed(Code::RuntimeFailed).shell_code()), (-1, 125));
}

fn any_end() -> impl Strategy<Value = ProcessEnd> {
    prop_oneof![
        any::<u8>().prop_map(ProcessEnd::Exited),
        (1..=64_i32).prop_map(|n| ProcessEnd::Signaled {
            signal: Signal::from_number(n).unwrap(),
            core_dumped: false
        }),
    ]
}

proptest! {
    #[test]
    fn out_of_memory_needs_the_counter(end in any_end(), sandboxed: bool, kills in 0..3_u64) {
        let seen = Death { sandboxed, memory: Some(counters(kills)), ..death(end) };
        let (cause, ..) = decide(&seen);
        let blames_memory = matches!(cause, Cause::OomKilled { .. });
        prop_assert!(kills > 0 || !blames_memory);
    }

    #[test]
    fn the_kernels_word_is_never_changed_silently(end in any_end(), sandboxed: bool) {
        let (cause, _, evidence) = decide(&Death { sandboxed, ..death(end) });
        let expected = match end {
            ProcessEnd::Exited(code) => Cause::Exited { code },
            ProcessEnd::Signaled { signal, .. } => Cause::Signaled { signal },
        };
        prop_assert_eq!(&cause, &expected);
        let shows_status = matches!(&evidence[0], Evidence::WaitStatus { pid: 42, .. });
        prop_assert!(shows_status);
    }

    #[test]
    fn a_report_survives_its_file(end in any_end(), sandboxed: bool) {
        let report = report(&Death { sandboxed, memory: Some(counters(1)), ..death(end) });
        let text = serde_json::to_string(&report).unwrap();
        prop_assert_eq!(serde_json::from_str::<ExitReport>(&text).unwrap(), report);
    }
}
