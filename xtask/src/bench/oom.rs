//! How soon an out-of-memory kill is told.

use cofferdam_testkit::lab::Lab;
use cofferdam_testkit::oom_latency::measure;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};

use super::{Bench, Row};

/// From the kernel's line in its log to the event, beside a poller on the same kills.
pub(super) fn told(bench: &Bench, runtime: &str) -> Row {
    let choice = if runtime == "runc" { Choice::Runc } else { Choice::Runsc(RUNSC_DEBIAN) };
    let told = measure(&Lab::new(&bench.cofferdam, &choice), bench.runs);
    let at = |percent| told.percentile_ms(percent).map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1} ms"));
    Row {
        what: format!("an out-of-memory kill is told, {runtime}"),
        ours: format!("{} (median), {} (99th percentile), missed {}", at(50), at(99), told.missed),
        theirs: format!("a poller of 500 ms missed {} of {}", told.missed_by_poller, bench.runs),
        ratio: None,
    }
}
