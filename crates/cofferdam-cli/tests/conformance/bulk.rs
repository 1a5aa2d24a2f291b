//! Many short containers at once: as many reports, each with the right code. None may be lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_testkit::lab::{Finished, Lab};
use cofferdam_testkit::process::signal_process;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[case("bulk::no_exit_is_lost", no_exit_is_lost).only(takes_part)];

/// Containers at once.
const AT_ONCE: usize = 8;

fn takes_part(choice: &Choice) -> bool {
    matches!(
        choice,
        Choice::Runc | Choice::Crun | Choice::Fake | Choice::RunscHead | Choice::Runsc(RUNSC_DEBIAN)
    )
}

/// Containers of each kind: 50, or what COFFERDAM_TEST_BULK says.
fn count() -> usize {
    std::env::var("COFFERDAM_TEST_BULK").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// One kind of end: what is run, and what must come of it.
struct Kind {
    name: &'static str,
    command: &'static [&'static str],
    code: i32,
    /// The word of the cause; none where the launch is refused and there is no container.
    cause: Option<&'static str>,
}

const KINDS: [Kind; 8] = [
    Kind { name: "exit 7", command: &["sh", "-c", "exit 7"], code: 7, cause: Some("exited") },
    Kind { name: "exit 0", command: &["true"], code: 0, cause: Some("exited") },
    Kind { name: "exit 128", command: &["sh", "-c", "exit 128"], code: 128, cause: Some("exited") },
    Kind { name: "exit 255", command: &["sh", "-c", "exit 255"], code: 255, cause: Some("exited") },
    Kind {
        name: "a TERM handler",
        command: &["sh", "-c", "trap 'exit 143' TERM; kill -TERM $$; sleep 1000"],
        code: 143,
        cause: Some("exited"),
    },
    Kind { name: "not found", command: &["/bin/nope"], code: 127, cause: None },
    Kind { name: "not executable", command: &["/bin/not-executable"], code: 126, cause: None },
    Kind { name: "killed", command: &["sleep", "1000"], code: 137, cause: Some("signaled") },
];

fn no_exit_is_lost(lab: &Lab) {
    for kind in &KINDS {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while next.fetch_add(1, Ordering::Relaxed) < count() {
                        one(lab, kind);
                    }
                });
            }
        });
        lab.expect_clean();
    }
}

fn one(lab: &Lab, kind: &Kind) {
    if kind.cause == Some("signaled") {
        return killed(lab);
    }
    let unique = lab.path().join(format!("id-{:?}", std::thread::current().id()));
    let unique = unique.to_string_lossy();
    let done: Finished = lab.run(&["--cidfile", &unique], kind.command);
    assert_eq!(done.code, Some(kind.code), "{}: {done:?}", kind.name);
    let Some(cause) = kind.cause else { return };
    let id = std::fs::read_to_string(&*unique).unwrap();
    std::fs::remove_file(&*unique).unwrap();
    let report = lab.report(&id);
    assert_eq!(
        (report["cause"]["kind"].as_str(), report["cause"]["code"].as_i64()),
        (Some(cause), Some(kind.code.into()))
    );
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
}

fn killed(lab: &Lab) {
    let id = lab.run_detached(&[], &["sleep", "1000"]);
    signal_process(crate::exit::pid_of(lab, &id), rustix::process::Signal::KILL);
    let report = lab.report(&id);
    assert_eq!(
        (report["cause"]["kind"].as_str(), report["cause"]["signal"].as_str()),
        (Some("signaled"), Some("SIGKILL"))
    );
    drop(lab.cofferdam(&["rm", &id]).expect_code(0));
}
