//! The end of a supervised container: evidence, report, clean-up, answers, in this order.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::control::{Answer, Command, Request};
use super::remains::{Clearing, clear_away, complete, forget, runtime_words};
use super::stdio::Pumps;
use super::supervisor::Supervisor;
use crate::error::Failure;
use crate::exit::{Cause, Death, ExitReport, REPORT_VERSION, decide};
use crate::fault;
use crate::lifecycle::{Status, Verb};

/// How long the report waits for a slow reader of the container's output, before it is written without the last bytes.
const REPORT_PATIENCE: Duration = Duration::from_millis(100);

impl Supervisor {
    /// Evidence, report, clean-up, in this order.
    pub(super) async fn finish(
        mut self,
        mut pumps: Pumps,
        mut death: Death,
        commands: &mut mpsc::Receiver<Command>,
    ) -> ExitReport {
        let ended = Timestamp::now();
        pumps.container_ended();
        let mut cleanup = vec![];
        if !self.record.own_pid_namespace {
            self.remains().end_processes(true, &mut cleanup);
        }
        self.remains().end_children(self.reaper, &mut cleanup).await;
        let counters = self.remains().read_counters();
        complete(&mut death, &counters, self.record.process.as_ref());
        let (mut cause, mut asked_by, mut evidence) = decide(&death);
        if let Some(failure) = self.start_failure.take() {
            (cause, asked_by) = (Cause::StartFailed { failure }, None);
        }
        if matches!(cause, Cause::RuntimeLost { .. } | Cause::StartFailed { .. }) {
            evidence.extend(runtime_words(&self.container));
        }
        let drained = tokio::time::timeout(REPORT_PATIENCE, pumps.finished()).await.is_ok();
        let mut report = ExitReport {
            version: REPORT_VERSION,
            id: self.container.id.clone(),
            name: self.record.name.clone(),
            runtime: self.record.runtime.name.clone(),
            cause,
            asked_by,
            evidence,
            started: self.record.started,
            ended,
            usage: counters.usage,
            stdio: pumps.report(),
            cleanup,
        };
        self.write_report(&mut report);
        clear_away(self.remains(), self.clearing(&report.cause), &mut report.cleanup).await;
        if !drained {
            // The container is gone; only its last output waits for its reader, however long that takes.
            pumps.finished().await;
        }
        report.stdio = pumps.report();
        self.conclude(&mut report, drained);
        self.answer_all(&report, commands);
        report
    }

    /// Who takes the container away. After anything but an end of its own, the runtime does.
    fn clearing(&self, cause: &Cause) -> Clearing {
        match cause {
            Cause::StartFailed { .. } | Cause::RuntimeLost { .. } => Clearing::ByRuntime,
            Cause::Exited { .. }
            | Cause::Signaled { .. }
            | Cause::OomKilled { .. }
            | Cause::TimedOut { .. } => self.clearing,
        }
    }

    pub(super) fn write_report(&mut self, report: &mut ExitReport) {
        if let Err(error) = self.container.write_report(report) {
            report.cleanup.push(Failure::of(&error));
        }
        self.note(Status::Stopped);
        if let Err(error) = fault::reached("end.reported") {
            tracing::debug!(%error, "a test");
        }
    }

    /// Forgets the container, or completes its report on disk.
    pub(super) fn conclude(&mut self, report: &mut ExitReport, drained: bool) {
        if let Err(error) = fault::reached("end.deleted") {
            tracing::debug!(%error, "a test");
        }
        if self.record.remove {
            forget(&self.state, &self.container, &self.record, &mut report.cleanup);
        } else if (!report.cleanup.is_empty() || !drained)
            && let Err(error) = self.container.write_report(report)
        {
            report.cleanup.push(Failure::of(&error));
        }
    }

    pub(super) fn answer_all(&mut self, report: &ExitReport, commands: &mut mpsc::Receiver<Command>) {
        commands.close();
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Ok(Command { request, reply }) = commands.try_recv() {
            match request {
                Request::Wait | Request::Stop { .. } => waiting.push(reply),
                Request::Start
                | Request::Kill { .. }
                | Request::Pause
                | Request::Resume
                | Request::Update { .. } => {
                    let failure = self.check(Verb::Kill).err();
                    // The caller may have gone.
                    let _ = reply.send(failure.map_or(Answer::Done, Answer::Failed));
                }
            }
        }
        for reply in waiting {
            // The caller may have gone.
            let _ = reply.send(Answer::Ended(Box::new(report.clone())));
        }
    }
}
