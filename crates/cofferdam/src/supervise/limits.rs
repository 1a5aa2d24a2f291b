//! The times after which a container is ended by itself: of a run, of its life, of being idle.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::activity::Activity;
use super::supervisor::Supervisor;
use crate::exit::AskedBy;

/// What limits a container in time. One that is too far away to be told never comes.
#[derive(Debug, Default)]
pub(super) struct TimeLimits {
    run: Option<(Instant, Duration)>,
    life: Option<(Instant, Duration)>,
    idle: Option<(Arc<Activity>, Duration)>,
}

impl TimeLimits {
    /// When to look at them again.
    pub(super) fn next(&self) -> Option<Instant> {
        let idle = self.idle.as_ref().and_then(|(activity, limit)| activity.idle_at(*limit));
        [self.run.map(|(at, _)| at), self.life.map(|(at, _)| at), idle].into_iter().flatten().min()
    }

    /// The end of the container's life, if that is limited.
    pub(super) fn life(&self) -> Option<Instant> {
        self.life.map(|(at, _)| at)
    }

    /// The one that has been reached. None is reached a second time.
    pub(super) fn take_reached(&mut self, now: Instant) -> Option<(AskedBy, Duration)> {
        let is_idle = |(activity, limit): &(Arc<Activity>, Duration)| {
            activity.idle_at(*limit).is_some_and(|at| at <= now)
        };
        let reached = |limit: Option<(Instant, Duration)>| limit.filter(|(at, _)| *at <= now);
        let run = reached(self.run).map(|(_, limit)| (AskedBy::Timeout, limit));
        let life = || reached(self.life).map(|(_, limit)| (AskedBy::Ttl, limit));
        let idle =
            || self.idle.as_ref().filter(|idle| is_idle(idle)).map(|(_, limit)| (AskedBy::Idle, *limit));
        let reached = run.or_else(life).or_else(idle)?;
        *self = Self::default();
        Some(reached)
    }
}

impl Supervisor {
    /// Sets what limits the container's life, from its making on.
    pub(super) fn limit_life(&mut self, activity: &Arc<Activity>) {
        let stopping = &self.record.stopping;
        self.limits.life = stopping.ttl.and_then(|ttl| Some((left(ttl, self.record.created)?, ttl)));
        self.limits.idle = stopping.idle.map(|idle| (Arc::clone(activity), idle));
    }

    /// Sets what limits a run, from its start on.
    pub(super) fn limit_run(&mut self) {
        let limit = self.record.stopping.timeout;
        self.limits.run =
            self.record.started.zip(limit).and_then(|(started, limit)| Some((left(limit, started)?, limit)));
        let boost = self.record.started.zip(self.record.cpu_boost);
        self.quota_at = boost.and_then(|(started, boost)| left(boost, started));
    }
}

/// When a time that began then is over.
fn left(limit: Duration, since: Timestamp) -> Option<Instant> {
    // A clock that was set back makes it longer, and never shorter than nothing.
    let passed = Timestamp::now().duration_since(since).try_into().unwrap_or_default();
    Instant::now().checked_add(limit.saturating_sub(passed))
}
