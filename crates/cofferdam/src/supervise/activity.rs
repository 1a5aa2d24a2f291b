//! Whether anybody still has to do with a container.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When a container was last active: it wrote, was asked for something, or somebody was attached or ran something in it.
#[derive(Debug)]
pub(super) struct Activity {
    begun: Instant,
    /// Milliseconds from there to the last time.
    last_ms: AtomicU64,
    /// Who is at it now.
    busy: AtomicUsize,
}

/// Somebody who is at it, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Activity);

impl Default for Activity {
    fn default() -> Self {
        Self { begun: Instant::now(), last_ms: AtomicU64::new(0), busy: AtomicUsize::new(0) }
    }
}

impl Activity {
    pub(super) fn touch(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(since, Ordering::Release);
    }

    pub(super) fn begin(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self)
    }

    /// When it will have been idle for so long, as it looks now.
    pub(super) fn idle_at(&self, limit: Duration) -> Option<Instant> {
        let last = if self.busy.load(Ordering::Acquire) > 0 {
            Instant::now()
        } else {
            self.begun.checked_add(Duration::from_millis(self.last_ms.load(Ordering::Acquire)))?
        };
        last.checked_add(limit)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_is_who_has_nothing_to_do() {
        let (second, activity) = (Duration::from_secs(1), Activity::default());
        tokio::time::advance(second * 5).await;
        assert_eq!(activity.idle_at(second), Some(activity.begun + second));
        let busy = activity.begin();
        assert_eq!(activity.idle_at(second), Some(Instant::now() + second));
        tokio::time::advance(second * 5).await;
        drop(busy);
        assert_eq!(activity.idle_at(second), Some(Instant::now() + second));
        tokio::time::advance(second).await;
        assert_eq!(activity.idle_at(second), Some(Instant::now()));
        activity.touch();
        assert_eq!(activity.idle_at(second), Some(Instant::now() + second));
    }
}
