//! The task that owns a session: it serves callers, keeps what the process writes, and reports its end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::control::{self, Answer, Command, Request};
use super::exec::{ExecEnd, ExecLimit, Executing};
use super::hub::Hub;
use super::requests::{log_failure, only_over_the_socket};
use super::watch::sleep_until;
use crate::error::{Code, Failure};
use crate::event::Happening;
use crate::exit::{AskedBy, ExitReport, REPORT_VERSION};
use crate::request::DEFAULT_GRACE;
use crate::signal::Signal;
use crate::state::{ContainerDir, ContainerLock, Record, SessionRecord, StateDir};

/// Requests that may wait at once.
const COMMAND_QUEUE: usize = 64;
/// How long callers may take to read the last answers.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// How often the report is tried to be written, and the pause between.
const WRITE_ATTEMPTS: u32 = 600;
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// A session that this process supervises.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) state: StateDir,
    pub(crate) folder: ContainerDir,
    pub(crate) lock: ContainerLock,
    pub(crate) record: SessionRecord,
    /// Its container's.
    pub(crate) container: Record,
    pub(crate) executing: Executing,
    pub(crate) hub: Arc<Hub>,
    pub(crate) listener: UnixListener,
    pub(crate) limit: Option<ExecLimit>,
    /// As long as it runs, its container is not idle.
    pub(crate) _hold: Option<UnixStream>,
}

impl Session {
    /// Supervises it to its end.
    pub(crate) async fn attend(self) -> ExitReport {
        let Self { state, folder, lock, record, container, mut executing, hub, listener, limit, _hold: hold } =
            self;
        let (sender, mut commands) = mpsc::channel(COMMAND_QUEUE);
        let (last_words, words_to_come) = watch::channel(None);
        let server = tokio::spawn(control::serve(listener, sender, Arc::clone(&hub), words_to_come));
        let mut asked = Asked::default();
        let end = loop {
            let kill_at = asked.kill_at.map(|(at, _)| at);
            tokio::select! {
                biased;
                end = executing.wait(limit) => break end,
                () = sleep_until(kill_at) => {
                    let by = asked.kill_at.take().map_or(AskedBy::Stop, |(_, by)| by);
                    executing.kill_tree(by).await.unwrap_or_else(log_failure);
                }
                Some(command) = commands.recv() => asked.take(command, &mut executing).await,
            }
        };
        let report = report_of(&record, &end);
        write(&folder, &report).await;
        let what = Happening::ExecExit { pid: executing.pid(), cause: end.cause };
        if let Err(error) = state.append_event(&container.id, container.name.as_ref(), what) {
            tracing::warn!(error = %Failure::of(&error), "an event is lost");
        }
        executing.let_go().await;
        hub.close();
        // Whoever finds it gone reads the report.
        let _ = std::fs::remove_file(folder.control_socket());
        for reply in asked.waiting {
            // The caller may have gone.
            let _ = reply.send(Answer::Ended(Box::new(report.clone())));
        }
        last_words.send_replace(Some(Arc::new(report.clone())));
        commands.close();
        while let Ok(Command { request, reply }) = commands.try_recv() {
            // The caller may have gone.
            let _ = reply.send(request.answer_after_the_end(&report));
        }
        let _ = tokio::time::timeout(FAREWELL_LIMIT, server).await;
        drop((hold, lock));
        report
    }
}

/// What callers have asked for that is not done yet.
#[derive(Debug, Default)]
struct Asked {
    waiting: Vec<oneshot::Sender<Answer>>,
    kill_at: Option<(Instant, AskedBy)>,
}

impl Asked {
    async fn take(&mut self, Command { request, reply }: Command, executing: &mut Executing) {
        let outcome = match request {
            Request::Wait { .. } => {
                self.waiting.retain(|reply| !reply.is_closed());
                self.waiting.push(reply);
                return;
            }
            Request::Stop { signal, grace_ms, by } => {
                let grace = grace_ms.map_or(DEFAULT_GRACE, Duration::from_millis);
                self.kill_at = Instant::now().checked_add(grace).map(|at| (at, by));
                let sent = executing.signal(signal.unwrap_or(Signal::TERM), by).await;
                // Whatever becomes of it, SIGKILL follows.
                sent.unwrap_or_else(log_failure);
                self.waiting.push(reply);
                return;
            }
            Request::Kill { signal: Signal::KILL, by, .. } => executing.kill_tree(by).await,
            Request::Kill { signal, by, .. } => executing.signal(signal, by).await,
            Request::Attach { .. } | Request::Hold { .. } => Err(only_over_the_socket()),
            Request::Start
            | Request::Pause
            | Request::Resume
            | Request::Update { .. }
            | Request::Egress { .. } => Err(not_of_a_session()),
        };
        // The caller may have gone.
        let _ = reply.send(match outcome {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        });
    }
}

/// The report of a session has the form of a container's, under the session's id.
pub(crate) fn report_of(record: &SessionRecord, end: &ExecEnd) -> ExitReport {
    ExitReport {
        version: REPORT_VERSION,
        id: record.id.clone(),
        name: None,
        runtime: record.runtime.clone(),
        restarts: 0,
        cause: end.cause.clone(),
        asked_by: end.asked_by,
        evidence: end.evidence.clone(),
        started: Some(record.started),
        ended: Timestamp::now(),
        usage: crate::cgroup::Usage::default(),
        stdio: end.stdio,
        cleanup: vec![],
    }
}

/// Writes the report, and tries on while the disk is full. Callers that wait are served after it.
async fn write(folder: &ContainerDir, report: &ExitReport) {
    for _ in 0..WRITE_ATTEMPTS {
        let Err(error) = folder.write_report(report) else { return };
        // Its container has been forgotten, and it with it.
        if !folder.path().exists() {
            return;
        }
        tracing::warn!(error = %Failure::of(&error), "the report of a session is not written yet");
        tokio::time::sleep(WRITE_PAUSE).await;
    }
}

fn not_of_a_session() -> Failure {
    Failure {
        code: Code::InvalidValue,
        what: "this is for containers: a session is attached to, signalled, stopped and waited for".into(),
        why: vec![],
        next: None,
    }
}
