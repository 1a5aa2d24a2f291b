//! Whether a container is well, as docker has it: starting, healthy, unhealthy.
//!
//! Not here: asking it (`supervise::probing`). [`Health::take`] is a pure function of what was answered.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::request::HealthCheck;

/// Answers that are kept: docker's number.
const LOG_LENGTH: usize = 5;

/// How a running container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub status: HealthStatus,
    /// How many probes have failed one after the other.
    pub failing_streak: u32,
    /// The last answers, oldest first.
    pub log: Vec<Answer>,
}

/// How a container is, in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// It has not answered yet.
    #[default]
    Starting,
    /// It is well.
    Healthy,
    /// It is not.
    Unhealthy,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// When the container was asked.
    pub begun: Timestamp,
    /// When it had answered.
    pub ended: Timestamp,
    /// Whether it is well.
    pub passed: bool,
    /// What it said, or why it could not be asked.
    pub output: String,
}

impl Health {
    /// Takes an answer in, that was asked for so long after the start of the process. Gives the new status where it has
    /// changed.
    pub fn take(
        &mut self,
        answer: Answer,
        check: &HealthCheck,
        since_start: Duration,
    ) -> Option<HealthStatus> {
        let passed = answer.passed;
        if self.log.len() == LOG_LENGTH {
            self.log.remove(0);
        }
        self.log.push(answer);
        let status = if passed {
            self.failing_streak = 0;
            HealthStatus::Healthy
        } else if self.status == HealthStatus::Starting && since_start < check.start_period {
            // It is given time to come up.
            HealthStatus::Starting
        } else {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries { HealthStatus::Unhealthy } else { self.status }
        };
        let changed = status != self.status;
        self.status = status;
        changed.then_some(status)
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::HealthRequest;

    #[test]
    fn a_streak_of_failures_makes_it_unhealthy() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let request = HealthRequest {
            command: vec!["true".into()],
            retries: Some(2),
            start_period_ms: Some(1000),
            ..HealthRequest::default()
        };
        let check = HealthCheck::parse(&request).unwrap();
        let mut health = Health::default();
        for (passed, after_ms, expected) in [
            (false, 0, Starting),
            (false, 500, Starting),
            (false, 1000, Starting),
            (true, 1500, Healthy),
            (false, 2000, Healthy),
            (true, 2500, Healthy),
            (false, 3000, Healthy),
            (false, 3500, Unhealthy),
            (false, 4000, Unhealthy),
            (true, 4500, Healthy),
        ] {
            let now = Timestamp::UNIX_EPOCH;
            let answer = Answer { begun: now, ended: now, passed, output: after_ms.to_string() };
            let before = health.status;
            let changed = health.take(answer, &check, Duration::from_millis(after_ms));
            assert_eq!((health.status, changed.is_some()), (expected, before != expected), "{after_ms}");
        }
        let outputs: Vec<&str> = health.log.iter().map(|answer| answer.output.as_str()).collect();
        assert_eq!(outputs, ["2500", "3000", "3500", "4000", "4500"]);
    }
}
