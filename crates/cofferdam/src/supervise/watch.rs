//! Waiting for the end of a container: its own, its gofer's, a deadline's, a caller's.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cgroup::{next_kills, next_warning};
use super::control::Command;
use super::probing::next_answer;
use super::requests::log_failure;
use super::supervisor::{Made, Supervisor};
use crate::exit::{AskedBy, Death, HelperDeath, ProcessEnd};
use crate::process::Claim;
use crate::signal::Signal;

/// How long a sandbox may live on after its gofer was killed, before it is ended too.
const GOFER_GRACE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Waits for the end of the container and serves callers meanwhile. `None` is an end that nobody saw, of a container
    /// that is not our child.
    pub(super) async fn watch(
        &mut self,
        made: &mut Made,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<Death> {
        let pid = made.init.pid;
        let mut helper = None;
        let mut gofer = made.gofer.take();
        if self.record.started.is_some() {
            self.begin_probing(made.init.pid);
        }
        let end = loop {
            if std::mem::take(&mut self.memory_limit_has_changed) {
                made.warning = self.watch_usage();
            }
            let deadlines = [self.kill_at.map(|(at, _)| at), self.limits.next(), self.note_at, self.quota_at];
            let deadline = deadlines.into_iter().flatten().min();
            tokio::select! {
                biased;
                end = &mut made.init.end => break end,
                end = gofer_end(gofer.as_mut()) => {
                    gofer = None;
                    if let Some(death) = end {
                        tracing::warn!(gofer = %death.helper, "the sandbox lost its gofer");
                        helper = Some(death);
                        self.kill_no_later_than(Instant::now() + GOFER_GRACE, AskedBy::Stop);
                    }
                }
                kills = next_kills(made.oom.as_mut()) => match kills {
                    Some(kills) => self.tell_kills(kills),
                    // Its cgroup goes, which is another's to notice.
                    None => made.oom = None,
                },
                warning = next_warning(made.warning.as_mut()) => match warning {
                    Some(warning) => self.tell_warning(warning),
                    None => made.warning = None,
                },
                answer = next_answer(self.probing.as_mut()), if self.can_be_asked() => self.take_answer(answer, made).await,
                () = sleep_until(deadline) => self.on_deadline(made, helper.is_some()).await,
                Some(command) = commands.recv() => self.handle(command, made).await,
            }
        };
        self.keep_counters();
        self.end_probing();
        let end = end.ok()?;
        if helper.is_none() && matches!(end, ProcessEnd::Exited(_)) {
            helper = killed_before(gofer.as_mut()).await;
        }
        Some(Death {
            pid,
            end,
            from_pidfd: self.adopted,
            sandboxed: self.record.sandboxed,
            sent: self.record.sent.clone(),
            timed_out: self.timed_out,
            memory: None,
            kernel_line: None,
            oom_line: None,
            helper,
        })
    }

    pub(super) async fn on_deadline(&mut self, made: &Made, gofer_is_dead: bool) {
        let now = Instant::now();
        if self.note_at.is_some_and(|at| at <= now) {
            self.note(self.record.status);
        }
        if self.quota_at.is_some_and(|at| at <= now) {
            self.end_boost().await;
        }
        if let Some((at, by)) = self.kill_at
            && at <= now
        {
            self.kill_at = None;
            if gofer_is_dead {
                // Not a signal that anybody asked for: the evidence is the gofer's death.
                if let Some(process) = &made.init.pidfd {
                    // ESRCH: it has just ended.
                    let _ = process.signal(Signal::KILL);
                }
                return;
            }
            self.thaw().await;
            self.send(made, Signal::KILL, !self.record.own_pid_namespace, by)
                .await
                .unwrap_or_else(log_failure);
        }
        if let Some((by, limit)) = self.limits.take_reached(now) {
            // A stop that somebody has asked for before is the cause, if the container was still at it.
            if self.kill_at.is_none() {
                self.timed_out = Some(limit);
            }
            let (signal, grace) = (self.record.stopping.signal, self.record.stopping.grace);
            self.begin_stop(made, signal, grace, by).await;
        }
    }
}

/// Resolves when the gofer has ended; with its death if that was not a plain exit. Never, without a gofer.
async fn gofer_end(gofer: Option<&mut Claim>) -> Option<HelperDeath> {
    let Some(gofer) = gofer else { return std::future::pending().await };
    let end = (&mut gofer.end).await.ok()?;
    // A gofer exits by itself when the sandbox closes its connection, which may be seen before the sandbox's end.
    (end != ProcessEnd::Exited(0)).then(|| HelperDeath { helper: format!("gofer (pid {})", gofer.pid), end })
}

/// Whether the gofer of a sandbox that has exited was killed: the sandbox ends within moments of it, and both may be
/// found dead at once. By itself, a gofer exits after its sandbox.
async fn killed_before(gofer: Option<&mut Claim>) -> Option<HelperDeath> {
    let death = tokio::time::timeout(GOFER_GRACE, gofer_end(Some(gofer?))).await.ok()??;
    matches!(death.end, ProcessEnd::Signaled { .. }).then_some(death)
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
