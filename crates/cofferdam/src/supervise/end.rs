//! The end of a supervised container: evidence, report, clean-up, answers, in this order.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::control::{Answer, Command, Request};
use super::lost::unseen;
use super::remains::{clear_away, complete, forget, release_gpus, runtime_words};
use super::stdio::Pumps;
use super::supervisor::Supervisor;
use crate::error::{Code, Failure};
use crate::event::Happening;
use crate::exit::{Cause, Death, Evidence, ExitReport, decide};
use crate::fault::{self, passed};
use crate::lifecycle::Status;
use crate::runtime::Clearing;

/// How long the report waits for a slow reader of the container's output, before it is written without the last bytes.
const REPORT_PATIENCE: Duration = Duration::from_millis(100);
/// The same where the output goes into a log of ours: whoever has waited for the end finds it whole, but for a disk that
/// is full or hangs.
const LOG_PATIENCE: Duration = Duration::from_secs(5);
/// How long a supervisor in the foreground tries to write the report: its caller gets it all the same. A monitor has
/// nobody else to tell, and tries on.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);
/// The first pause before the report is written again; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest of these pauses.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Whom the end is told to: callers with a request under way, and those who come later.
#[derive(Debug)]
pub(super) struct Callers {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) last_words: watch::Sender<Option<Arc<ExitReport>>>,
}

/// A run that has ended.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) report: ExitReport,
    pub(super) pumps: Pumps,
    /// Whether all of its output has been handed on.
    pub(super) drained: bool,
}

impl Supervisor {
    /// Collects what there is to say of a run that has ended, and hands its last output on if that goes fast.
    pub(super) async fn see_off(&mut self, mut pumps: Pumps, death: Option<Death>) -> Run {
        pumps.container_ended();
        let mut report = self.judge(death).await;
        let patience = if self.record.log.is_some() { LOG_PATIENCE } else { REPORT_PATIENCE };
        let drained = tokio::time::timeout(patience, pumps.finished()).await.is_ok();
        report.stdio = pumps.report();
        Run { report, pumps, drained }
    }

    /// The end: report, clean-up, answers, in this order.
    pub(super) async fn finish(&mut self, run: Run, callers: &mut Callers) -> ExitReport {
        let Run { report, mut pumps, drained } = run;
        self.tell_last_kills(&report);
        self.untold.push(Happening::end(&report));
        let mut report = self.conclude(report, callers).await;
        if !drained {
            drain(&mut pumps, &report, callers).await;
            report.stdio = pumps.report();
            if !self.record.remove
                && let Err(error) = self.container.write_report(&report)
            {
                report.cleanup.push(Failure::of(&error));
            }
        }
        report
    }

    /// The end of a container whose last output has been handed on, or will be.
    pub(super) async fn conclude(&mut self, mut report: ExitReport, callers: &mut Callers) -> ExitReport {
        self.write_report(&mut report, callers).await;
        self.clear_and_conclude(&mut report).await;
        self.answer_waiting(&report);
        report
    }

    /// Tells of the end of a run after which another one comes.
    pub(super) fn tell_end(&mut self, report: &ExitReport) {
        self.tell_last_kills(report);
        self.untold.push(Happening::end(report));
        self.flush_events();
    }

    /// Ends what is left of the container, and decides from all that was seen why it ended.
    async fn judge(&mut self, death: Option<Death>) -> ExitReport {
        let ended = Timestamp::now();
        let mut cleanup = vec![];
        if !self.record.own_pid_namespace {
            self.remains().end_processes(true, &mut cleanup).await;
        }
        self.remains().end_children(self.reaper, &mut cleanup).await;
        let counters = self.last_counters();
        let (mut cause, mut asked_by, mut evidence) = match death {
            Some(mut death) => {
                complete(&mut death, &counters, self.record.process.as_ref());
                decide(&death)
            }
            None => {
                let evidence = counters.memory.clone().map(|counters| Evidence::Memory { counters });
                (Cause::RuntimeLost { failure: unseen(&self.record.title()) }, None, Vec::from_iter(evidence))
            }
        };
        if let Some(failure) = self.start_failure.take() {
            (cause, asked_by) = (Cause::StartFailed { failure }, None);
        }
        if matches!(cause, Cause::RuntimeLost { .. } | Cause::StartFailed { .. }) {
            evidence.extend(runtime_words(&self.container));
        }
        ExitReport {
            usage: counters.usage,
            cleanup,
            ..ExitReport::of(&self.record, cause, asked_by, evidence, ended)
        }
    }

    /// Writes the report, and tries again while that fails: the disk may be full, and soon not be. Callers are served
    /// from memory meanwhile. Nothing of the container is taken away before.
    async fn write_report(&mut self, report: &mut ExitReport, callers: &mut Callers) {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        while let Err(failure) = self.try_to_write(report) {
            let gives_up = !self.unattended && begun.elapsed() >= WRITE_PATIENCE;
            if gives_up || !self.container.path().exists() {
                report.cleanup.push(failure);
                return;
            }
            tracing::warn!(container = %self.container.id, %failure, "the report is not written yet");
            self.answer_waiting(report);
            serve_until(tokio::time::sleep(pause), report, callers).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        passed("end.reported");
    }

    /// Writes the report, and then the event.
    fn try_to_write(&mut self, report: &ExitReport) -> Result<(), Failure> {
        fault::reached("end.report").map_err(Failure::from)?;
        self.container.write_report(report).map_err(|error| Failure::of(&error))?;
        if self.flush_events() {
            return Ok(());
        }
        // The space that was set aside is for them, too.
        self.container.release_reserve();
        if self.flush_events() { Ok(()) } else { Err(events_missing()) }
    }

    /// Takes the container away, and forgets it or says in its record that it has ended.
    async fn clear_and_conclude(&mut self, report: &mut ExitReport) {
        let mut left = vec![];
        self.serving = None;
        clear_away(self.remains(), self.clearing(&report.cause), &mut left).await;
        passed("end.deleted");
        self.record.cleared = left.is_empty();
        if self.record.cleared {
            self.record.attachment = None;
        }
        report.cleanup.extend(left);
        if self.record.remove && self.record.cleared {
            let mut left = vec![];
            forget(&self.state, &self.container, &self.record, Some(report), &mut left);
            report.cleanup.extend(left);
            self.tell(Happening::Remove);
            return;
        }
        self.container.release_reserve();
        if !report.cleanup.is_empty()
            && let Err(error) = self.container.write_report(report)
        {
            report.cleanup.push(Failure::of(&error));
        }
        self.note(Status::Stopped);
        release_gpus(&self.state, &self.record);
    }

    fn answer_waiting(&mut self, report: &ExitReport) {
        for (_, reply) in self.waiting.drain(..) {
            // The caller may have gone.
            let _ = reply.send(Answer::Ended(Box::new(report.clone())));
        }
    }

    /// Who takes the container away. After anything but an end of its own, the runtime does.
    pub(super) fn clearing(&self, cause: &Cause) -> Clearing {
        match cause {
            Cause::Exited { .. }
            | Cause::Signaled { .. }
            | Cause::OomKilled { .. }
            | Cause::TimedOut { .. }
                if !self.adopted =>
            {
                self.record.clearing
            }
            _ => Clearing::ByRuntime,
        }
    }

    /// Answers everybody who has asked; whoever comes later is answered from the last words.
    pub(super) fn say_goodbye(&self, report: &ExitReport, callers: &mut Callers) {
        // Whoever finds it gone reads the report.
        let _ = std::fs::remove_file(self.container.control_socket());
        callers.last_words.send_replace(Some(Arc::new(report.clone())));
        callers.commands.close();
        while let Ok(Command { request, reply }) = callers.commands.try_recv() {
            // The caller may have gone.
            let _ = reply.send(request.answer_after_the_end(report));
        }
    }
}

/// Waits for something, and answers callers meanwhile as is right after the end.
async fn serve_until(done: impl Future<Output = ()>, report: &ExitReport, callers: &mut Callers) {
    tokio::pin!(done);
    loop {
        tokio::select! {
            biased;
            () = &mut done => return,
            Some(Command { request, reply }) = callers.commands.recv() => {
                // The caller may have gone.
                let _ = reply.send(request.answer_after_the_end(report));
            }
        }
    }
}

/// Waits until the reader of the container's last output has taken it, however long that takes, or somebody asks for
/// the end of what has ended: that can only be meant for this.
async fn drain(pumps: &mut Pumps, report: &ExitReport, callers: &mut Callers) {
    loop {
        tokio::select! {
            () = pumps.finished() => return,
            Some(Command { request, reply }) = callers.commands.recv() => {
                let abandon = match &request {
                    Request::Stop { .. } => true,
                    Request::Kill { signal, .. } => signal.asks_for_the_end(),
                    _ => false,
                };
                let is_kill = matches!(request, Request::Kill { .. });
                let answer = if abandon && is_kill { Answer::Done } else { request.answer_after_the_end(report) };
                // The caller may have gone.
                let _ = reply.send(answer);
                if abandon {
                    pumps.abandon();
                    return;
                }
            }
        }
    }
}

fn events_missing() -> Failure {
    Failure {
        code: Code::StateWrite,
        what: "the events of its end could not be written down".into(),
        why: vec![],
        next: Some("see whether the file system of the state directory is full or read-only".into()),
    }
}
