//! The runs of a container: one, or with a restart policy as many as it takes.
//!
//! ```text
//!   watch ──> judge ──────────> report, clean-up, answers: the end
//!     ^         └──by policy──> clean-up ──> pause ──> make ──┐
//!     └───────────────────────────────────────────────────────┘
//! ```
//!
//! Invariant: of each run there is one exit event, and its output is handed on before the next one begins.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::control::{self, Answer, Command, Request};
use super::end::{Callers, Run};
use super::error::{StartError, supervision};
use super::hub::Hub;
use super::lost::unseen;
use super::remains::clear_away;
use super::requests::only_over_the_socket;
use super::stdio::StdioPlan;
use super::supervisor::{Made, Mode, Started, Supervisor};
use super::watch::sleep_until;
use crate::error::Failure;
use crate::event::Happening;
use crate::exit::{Cause, ExitReport};
use crate::fault::passed;
use crate::lifecycle::{Status, Verb};
use crate::runtime::Clearing;

/// How long callers may take to read the last answers.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// How the time between two runs is over.
#[derive(Debug, PartialEq, Eq)]
enum Between {
    Done,
    /// Somebody wants the next run now.
    Now,
    /// Somebody wants the end.
    Over,
}

impl Supervisor {
    /// Serves callers and attends to a container to its end: one that is there, or one that is about to be started
    /// again.
    pub(super) async fn attend(
        mut self,
        mut made: Option<Made>,
        listener: UnixListener,
        (sender, commands): (mpsc::Sender<Command>, mpsc::Receiver<Command>),
        started: oneshot::Sender<Result<Started, StartError>>,
        hub: Arc<Hub>,
    ) -> ExitReport {
        let (last_words, words_to_come) = watch::channel(None);
        let server = tokio::spawn(control::serve(listener, sender.clone(), Arc::clone(&hub), words_to_come));
        let (pid, terminal) =
            made.as_mut().map_or((None, None), |made| (Some(made.init.pid), made.terminal.take()));
        // The caller may have gone; the container stays.
        let _ = started.send(Ok(Started { pid, terminal }));
        self.limit_life(&hub.activity);
        let mut callers = Callers { commands, last_words };
        let report = self.run_to_the_end(made, &mut callers, &sender, &hub).await;
        // Attached callers have all of it by now, and see the end.
        hub.close();
        self.say_goodbye(&report, &mut callers);
        self.keeping.done().await;
        // The last answers are on their way; a caller who does not read his is not waited for.
        let _ = tokio::time::timeout(FAREWELL_LIMIT, server).await;
        report
    }

    async fn run_to_the_end(
        &mut self,
        mut next: Option<Made>,
        callers: &mut Callers,
        sender: &mpsc::Sender<Command>,
        hub: &Arc<Hub>,
    ) -> ExitReport {
        loop {
            let mut made = match next.take() {
                Some(made) => made,
                None => match self.run_again(callers, sender, hub).await {
                    Ok(made) => made,
                    Err(report) => return self.conclude(report, callers).await,
                },
            };
            let death = self.watch(&mut made, &mut callers.commands).await;
            let run = self.see_off(made.pumps, death).await;
            if !self.record.starts_again(&run.report.cause) {
                return self.finish(run, callers).await;
            }
            if let Err(report) = self.clear_for_the_next(run, callers).await {
                return self.conclude(report, callers).await;
            }
        }
    }

    /// Ends a run after which another one comes. The report comes back where none can come.
    async fn clear_for_the_next(&mut self, run: Run, callers: &mut Callers) -> Result<(), ExitReport> {
        let Run { mut report, mut pumps, drained } = run;
        let mut is_over = false;
        while !drained && !is_over {
            match self.between(pumps.finished(), callers).await {
                Between::Done => break,
                Between::Now => {}
                Between::Over => {
                    pumps.abandon();
                    is_over = true;
                }
            }
        }
        report.stdio = pumps.report();
        if let Err(error) = self.container.write_last_report(&report) {
            tracing::warn!(error = %Failure::of(&error), "the report of a run could not be written");
        }
        passed("restart.reported");
        self.tell_end(&report);
        let mut left = vec![];
        clear_away(self.remains(), self.clearing(&report.cause), &mut left).await;
        passed("restart.cleared");
        if is_over || !left.is_empty() {
            // The same id cannot be made again where something of it is left.
            report.cleanup.extend(left);
            return Err(report);
        }
        let ran = report.started.map_or(Duration::ZERO, |started| {
            // A clock that was set back makes it none.
            Duration::try_from(report.ended.duration_since(started)).unwrap_or_default()
        });
        self.last_report = Some(report);
        self.wait_for_the_next(ran);
        Ok(())
    }

    fn wait_for_the_next(&mut self, ran: Duration) {
        self.record.begin_restart(ran);
        self.adopted = false;
        (self.timed_out, self.kill_at) = (None, None);
        self.note(Status::Restarting);
        let pause_ms = u64::try_from(self.record.restarts.pause.as_millis()).unwrap_or(u64::MAX);
        self.tell(Happening::Restart { count: self.record.restarts.count, pause_ms });
    }

    /// Waits for the time of the next run, and makes it. The report of the last one comes back where there is none.
    async fn run_again(
        &mut self,
        callers: &mut Callers,
        sender: &mpsc::Sender<Command>,
        hub: &Arc<Hub>,
    ) -> Result<Made, ExitReport> {
        loop {
            let pause = tokio::time::sleep(self.record.restarts.pause);
            if self.between(pause, callers).await == Between::Over {
                return Err(self.take_last_report());
            }
            let error = match self.make_again(sender, hub).await {
                Ok(made) => {
                    self.tell_made(&made);
                    return Ok(made);
                }
                Err(error) => self.explain(error),
            };
            self.take_back(&error).await;
            let failure = Failure::of(&error);
            tracing::warn!(container = %self.container.id, %failure, "it could not be started again");
            let report = self.report(Cause::StartFailed { failure });
            if !self.record.starts_again(&report.cause) {
                self.untold.push(Happening::end(&report));
                return Err(report);
            }
            self.last_report = Some(report);
            self.wait_for_the_next(Duration::ZERO);
        }
    }

    async fn make_again(
        &mut self,
        sender: &mpsc::Sender<Command>,
        hub: &Arc<Hub>,
    ) -> Result<Made, StartError> {
        let files = self.record.background.clone().unwrap_or_default();
        let stdio = StdioPlan::open(&files)
            .map_err(|error| supervision("its streams")(std::io::Error::other(error)))?;
        self.make(stdio, Mode::Run, sender, hub).await
    }

    /// What is known of the last run.
    pub(super) fn take_last_report(&mut self) -> ExitReport {
        let failure = || Cause::RuntimeLost { failure: unseen(&self.record.title()) };
        match self.last_report.take() {
            Some(report) => report,
            None => self.report(failure()),
        }
    }

    /// A report without evidence.
    pub(super) fn report(&self, cause: Cause) -> ExitReport {
        ExitReport::of(&self.record, cause, None, vec![], Timestamp::now())
    }

    /// Takes away what a predecessor may have made of a run without writing it down.
    pub(super) async fn clear_half_made(&mut self) {
        self.last_report = self.container.read_last_report().ok().flatten();
        let mut left = vec![];
        self.remains().end_processes(false, &mut left).await;
        clear_away(self.remains(), Clearing::ByRuntime, &mut left).await;
        for failure in left {
            tracing::warn!(container = %self.container.id, %failure, "something of its last run is left");
        }
    }

    /// Waits for something between two runs, and serves callers meanwhile.
    async fn between(&mut self, done: impl Future<Output = ()>, callers: &mut Callers) -> Between {
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                () = &mut done => return Between::Done,
                () = sleep_until(self.limits.life()) => return Between::Over,
                () = sleep_until(self.note_at) => self.note(self.record.status),
                Some(command) = callers.commands.recv() => {
                    if let Some(between) = self.serve_between(command) {
                        return between;
                    }
                }
            }
        }
    }

    fn serve_between(&mut self, Command { request, reply }: Command) -> Option<Between> {
        let refused = |this: &Self, verb| match Status::Restarting.check(verb, &this.record.title()) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed(Failure::of(&error)),
        };
        let (answer, between) = match request {
            Request::Wait { until } => {
                self.let_wait(until, reply);
                return None;
            }
            Request::Stop { .. } => {
                self.let_wait_for_stop(reply);
                return Some(Between::Over);
            }
            Request::Kill { signal, .. } if signal.asks_for_the_end() => (Answer::Done, Some(Between::Over)),
            // No process has it, and there will be one: nothing is wrong.
            Request::Kill { .. } => (Answer::Done, None),
            Request::Start => (Answer::Done, Some(Between::Now)),
            Request::Pause => (refused(self, Verb::Pause), None),
            Request::Resume => (refused(self, Verb::Resume), None),
            Request::Update { .. } | Request::Egress { .. } => (refused(self, Verb::Update), None),
            Request::Attach { .. } | Request::Hold { .. } => (Answer::Failed(only_over_the_socket()), None),
        };
        // The caller may have gone.
        let _ = reply.send(answer);
        between
    }
}
