//! Asking a container whether it is well, as long as it runs.

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::probe::Prober;
use super::requests::log_failure;
use super::supervisor::{Made, Supervisor};
use crate::event::Happening;
use crate::exit::AskedBy;
use crate::health::{Answer, HealthStatus};
use crate::lifecycle::Status;
use crate::request::{HealthCheck, OnUnhealthy};
use crate::signal::Signal;

/// The longest time between two probes while a container is coming up.
const COMING_UP: Duration = Duration::from_secs(1);

/// The probes of one run.
#[derive(Debug)]
pub(super) struct Probing {
    prober: Prober,
    check: HealthCheck,
    begun: Instant,
    next_at: Instant,
    under_way: Option<JoinHandle<Answer>>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        if let Some(task) = &self.under_way {
            task.abort();
        }
    }
}

impl Probing {
    /// What came of the next probe. Cancel safe.
    async fn next(&mut self) -> Answer {
        loop {
            if let Some(task) = &mut self.under_way {
                let answer = task.await;
                self.under_way = None;
                self.next_at = Instant::now() + self.check.interval;
                if let Ok(answer) = answer {
                    return answer;
                }
            }
            tokio::time::sleep_until(self.next_at).await;
            self.under_way = Some(tokio::spawn(self.prober.clone().ask(self.check.clone())));
        }
    }
}

/// What came of the next probe, where there are any. Cancel safe.
pub(super) async fn next_answer(probing: Option<&mut Probing>) -> Answer {
    match probing {
        Some(probing) => probing.next().await,
        None => std::future::pending().await,
    }
}

impl Supervisor {
    /// Begins to ask a container that has been started. A first answer is wanted soon.
    pub(super) fn begin_probing(&mut self, pid: i32) {
        let Some(check) = self.record.health_check.clone() else { return };
        let now = Instant::now();
        let prober = Prober::of(self, pid);
        self.probing = Some(Probing { prober, check, begun: now, next_at: now, under_way: None });
    }

    /// A run that has ended is not asked any more.
    pub(super) fn end_probing(&mut self) {
        self.probing = None;
    }

    pub(super) async fn take_answer(&mut self, answer: Answer, made: &Made) {
        let (Some(probing), Some(health)) = (&mut self.probing, &mut self.record.health) else { return };
        let since_start = probing.begun.elapsed();
        let changed = health.take(answer, &probing.check, since_start);
        if health.status == HealthStatus::Starting && since_start < probing.check.start_period {
            probing.next_at = Instant::now() + probing.check.interval.min(COMING_UP);
        }
        let on_failure = probing.check.on_failure;
        self.note(self.record.status);
        let Some(status) = changed else { return };
        self.tell(Happening::HealthStatus { status });
        self.answer_those_who_wait();
        if status != HealthStatus::Unhealthy {
            return;
        }
        match on_failure {
            OnUnhealthy::None => {}
            OnUnhealthy::Kill => {
                let all = !self.record.own_pid_namespace;
                let killed = self.send(made, Signal::KILL, all, AskedBy::Unhealthy).await;
                killed.unwrap_or_else(log_failure);
            }
            OnUnhealthy::Stop => {
                let (signal, grace) = (self.record.stopping.signal, self.record.stopping.grace);
                self.begin_stop(made, signal, grace, AskedBy::Unhealthy).await;
            }
        }
    }

    /// Whether it can be asked now: one that is frozen cannot answer.
    pub(super) fn can_be_asked(&self) -> bool {
        self.record.status == Status::Running
    }
}

/// An answer that we give for a container that could not be asked, or did not answer.
pub(super) fn no_answer(begun: Timestamp, output: String) -> Answer {
    Answer { begun, ended: Timestamp::now(), passed: false, output }
}
