//! Measuring two things in turn.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs that are made first and not counted: caches fill, binaries are read from disk.
const WARM_UP: usize = 3;

/// The medians of two things that were measured in turn.
pub(crate) struct Pair {
    pub(crate) ours: Duration,
    pub(crate) theirs: Duration,
}

impl Pair {
    pub(crate) fn ratio(&self) -> f64 {
        self.ours.as_secs_f64() / self.theirs.as_secs_f64()
    }
}

/// Measures two things in turn, so that both see the same machine.
pub(crate) fn compare(
    runs: usize,
    mut ours: impl FnMut() -> Result<()>,
    mut theirs: impl FnMut() -> Result<()>,
) -> Result<Pair> {
    let (mut mine, mut other) = (Vec::new(), Vec::new());
    for run in 0..runs + WARM_UP {
        // Each goes first as often as the other.
        let (first, second) = if run % 2 == 0 {
            let first = timed(&mut ours)?;
            (first, timed(&mut theirs)?)
        } else {
            let second = timed(&mut theirs)?;
            (timed(&mut ours)?, second)
        };
        if run >= WARM_UP {
            mine.push(first);
            other.push(second);
        }
    }
    Ok(Pair { ours: median(mine), theirs: median(other) })
}

fn timed(work: &mut impl FnMut() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

pub(crate) fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Milliseconds with a tenth.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
