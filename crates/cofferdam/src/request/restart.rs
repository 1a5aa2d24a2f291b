//! Whether a container is started again after its end: docker's policies, and its pauses in between.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exit::Cause;

/// The first pause before a container is started again; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest of these pauses.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A run of this length has been a good one: the pauses begin anew.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// After which ends a container is started again. One whose end somebody has asked for never is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// After none.
    #[default]
    No,
    /// After one whose code is not 0.
    OnFailure {
        /// So often at most; `None` is without a limit.
        most: Option<u32>,
    },
    /// After each.
    Always,
    /// After each. In docker it differs from `always` when the daemon is started anew; here there is no daemon, and a
    /// container that was stopped stays so with both.
    UnlessStopped,
}

/// A policy that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a restart policy: it is no, on-failure[:TIMES], always or unless-stopped")]
pub struct UnknownPolicy(String);

/// Starting a container again: when, and how often it has been.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// After which ends.
    pub policy: RestartPolicy,
    /// How often it has been.
    pub count: u32,
    /// The pause before the last time.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub pause: Duration,
}

impl RestartPolicy {
    /// Whether a container is started again that ended so, after it has been `count` times.
    #[must_use]
    pub fn wants(self, cause: &Cause, count: u32) -> bool {
        // Its time is over.
        if matches!(cause, Cause::TimedOut { .. }) {
            return false;
        }
        match self {
            Self::No => false,
            Self::OnFailure { most } => cause.shell_code() != 0 && most.is_none_or(|most| count < most),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

impl Restarts {
    /// A container that is started again after these ends.
    #[must_use]
    pub fn by(policy: RestartPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Counts one more, after a run of this length, and gives the pause before it.
    pub(crate) fn count_one(&mut self, ran: Duration) -> Duration {
        let next = if ran >= GOOD_RUN { FIRST_PAUSE } else { self.pause.saturating_mul(2) };
        self.pause = next.clamp(FIRST_PAUSE, LAST_PAUSE);
        self.count = self.count.saturating_add(1);
        self.pause
    }

    /// Whether there is nothing to say of it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for RestartPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(text.to_owned());
        match text.split_once(':') {
            None => match text {
                "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure { most: None }),
                "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                _ => Err(unknown()),
            },
            Some(("on-failure", most)) => {
                let most: u32 = most.parse().map_err(|_| unknown())?;
                // As in docker, 0 is no limit.
                Ok(Self::OnFailure { most: (most > 0).then_some(most) })
            }
            Some(_) => Err(unknown()),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { most: None } => f.write_str("on-failure"),
            Self::OnFailure { most: Some(most) } => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = UnknownPolicy;

    fn try_from(text: String) -> Result<Self, UnknownPolicy> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_docker_s() {
        let (good, bad) = (Cause::Exited { code: 0 }, Cause::Exited { code: 3 });
        for (text, count, after_good, after_bad) in [
            ("no", 0, false, false),
            ("on-failure", 1000, false, true),
            ("on-failure:0", 1000, false, true),
            ("on-failure:2", 1, false, true),
            ("on-failure:2", 2, false, false),
            ("always", 1000, true, true),
            ("unless-stopped", 1000, true, true),
        ] {
            let policy: RestartPolicy = text.parse().unwrap();
            assert_eq!(
                (policy.wants(&good, count), policy.wants(&bad, count)),
                (after_good, after_bad),
                "{text}"
            );
            assert!(!policy.wants(&Cause::TimedOut { limit_ms: 1 }, 0), "{text}");
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for text in ["", "yes", "on-failure:", "on-failure:-1", "on-failure:x", "always:3"] {
            assert!(text.parse::<RestartPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew() {
        let mut restarts = Restarts::by(RestartPolicy::Always);
        let pauses: Vec<u128> = (0..12).map(|_| restarts.count_one(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(restarts.count_one(GOOD_RUN), FIRST_PAUSE);
        assert_eq!(restarts.count, 13);
    }
}
