//! Talking to a container's supervisor: one JSON line asks, one JSON line answers, over a unix socket.
//!
//! The socket lies in the container's folder, which only its owner may enter; the peer's user is checked all the same.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::frame::{Frame, write_frame};
use super::hub::Hub;
use crate::error::{Code, Failure};
use crate::exit::{AskedBy, ExitReport};
use crate::lifecycle::{Status, Verb, WrongState};
use crate::request::Limits;
use crate::signal::Signal;
use crate::state::ContainerDir;

/// Version of the protocol. A supervisor answers a request of another version with a refusal.
pub const PROTOCOL_VERSION: u32 = 1;
/// The longest request, in bytes.
const REQUEST_LIMIT: u64 = 64 << 10;
/// The longest answer, in bytes: a report with its evidence.
const ANSWER_LIMIT: u64 = 4 << 20;
/// How long a caller may take to send its request, and to read the answer.
const CALLER_PATIENCE: Duration = Duration::from_secs(10);
/// Callers that are served at once; more wait to be let in. Each costs a descriptor.
const CALLERS_LIMIT: usize = 512;
/// How many of them may wait for the end: the others must still find a place.
pub(super) const WAITING_LIMIT: usize = 448;

/// What a supervisor can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Let the created process run.
    Start,
    /// Send a signal.
    Kill {
        /// The signal.
        signal: Signal,
        /// To every process, not only the first.
        all: bool,
        /// On whose behalf.
        by: AskedBy,
    },
    /// End the container: a signal, a time of grace, SIGKILL. Answered when it is over.
    Stop {
        /// The signal; without it the container's own.
        signal: Option<Signal>,
        /// The grace in milliseconds; without it the container's own.
        grace_ms: Option<u64>,
        /// On whose behalf.
        by: AskedBy,
    },
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// Change its limits.
    Update {
        /// The new ones; what is `None` stays.
        limits: Limits,
    },
    /// Change what it may reach.
    Egress {
        /// As `--egress` says it.
        policy: String,
    },
    /// Hand the caller what the container writes from now on, and take his input. Only over the socket: after the answer
    /// the two talk in [frames](super::frame).
    Attach {
        /// Whether the caller sends input.
        input: bool,
    },
    /// Take the container for busy until the caller closes his side of the connection. Only over the socket.
    Hold {
        /// Thaw it then, if it is frozen: whoever froze it may have been killed.
        #[serde(default)]
        thaw: bool,
    },
    /// Answered with the report once the container has ended for good and been cleared away, or when something else has
    /// come true. The caller keeps its side of the connection open until then: one that has closed it is taken to have
    /// given up.
    Wait {
        /// For what.
        #[serde(default)]
        until: Until,
    },
}

/// What can be waited for. The end answers each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// That the container has ended, and is not started again.
    #[default]
    Exit,
    /// That its process has been started.
    Running,
    /// That it is well, by its health check.
    Healthy,
}

/// A supervisor's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// The container has ended.
    Ended(Box<ExitReport>),
    /// The caller is attached; frames follow.
    Attached {
        /// Whether the container has a terminal.
        terminal: bool,
        /// Whether it takes input.
        takes_input: bool,
    },
    /// It could not be done.
    Failed(Failure),
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

/// A request on its way to the task that owns the container.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes. Dropping it unanswered tells the caller that the supervisor has gone.
    pub reply: oneshot::Sender<Answer>,
}

/// How the container ended, once it has: what callers get who have no answer by then.
pub(super) type LastWords = watch::Receiver<Option<Arc<ExitReport>>>;

impl Request {
    /// What is answered to it once the container has ended.
    pub(super) fn answer_after_the_end(&self, report: &ExitReport) -> Answer {
        let verb = match self {
            Self::Wait { .. } | Self::Stop { .. } => return Answer::Ended(Box::new(report.clone())),
            Self::Start => Verb::Start,
            Self::Kill { .. } => Verb::Kill,
            Self::Pause => Verb::Pause,
            Self::Resume => Verb::Resume,
            Self::Update { .. } | Self::Egress { .. } => Verb::Update,
            Self::Attach { .. } | Self::Hold { .. } => Verb::Attach,
        };
        let container = report.title();
        Answer::Failed(Failure::of(&WrongState { container, verb, status: Status::Stopped }))
    }
}

/// Listens for callers and hands their requests on. After the container's end, those who have connected still get their
/// answer; then it ends.
pub(super) async fn serve(
    listener: UnixListener,
    commands: mpsc::Sender<Command>,
    hub: Arc<Hub>,
    mut ended: LastWords,
) {
    let mut callers = JoinSet::new();
    let let_in = {
        let ended = ended.clone();
        move |callers: &mut JoinSet<()>, stream| {
            let (commands, hub, ended) = (commands.clone(), Arc::clone(&hub), ended.clone());
            callers.spawn(async move {
                if let Err(error) = answer(stream, commands, &hub, ended).await {
                    tracing::debug!(%error, "a caller of the control socket was lost");
                }
            });
        }
    };
    loop {
        tokio::select! {
            biased;
            () = has_ended(&mut ended) => break,
            Some(_) = callers.join_next(), if !callers.is_empty() => {}
            accepted = listener.accept(), if callers.len() < CALLERS_LIMIT => match accepted {
                Ok((stream, _)) => let_in(&mut callers, stream),
                Err(error) => {
                    // Out of descriptors, say: wait for some to come back rather than spin.
                    tracing::warn!(%error, "the control socket could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, _)) = listener.accept() {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)) {
                let_in(&mut callers, stream);
            }
        }
    }
    callers.join_all().await;
}

async fn answer(
    stream: UnixStream,
    commands: mpsc::Sender<Command>,
    hub: &Hub,
    mut ended: LastWords,
) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if peer != own && peer != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the user {peer} may not ask")));
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(REQUEST_LIMIT));
    tokio::time::timeout(CALLER_PATIENCE, reader.read_line(&mut line)).await??;
    let answer = match parse(&line) {
        Ok(Request::Attach { input }) => {
            // From here on there is no longest request.
            reader.get_mut().set_limit(u64::MAX);
            return take_part((&mut reader, &mut writer), input, hub, ended).await;
        }
        Ok(Request::Hold { thaw }) => {
            let _busy = hub.activity.begin();
            write_answer(&mut writer, &Answer::Done).await?;
            tokio::select! {
                () = gone(reader) => {}
                () = has_ended(&mut ended) => {}
            }
            if thaw {
                // That it is not frozen is as well.
                hand_on(&Request::Resume, &commands).await;
            }
            return Ok(());
        }
        Ok(request) => {
            if !matches!(request, Request::Wait { .. }) {
                hub.activity.touch();
            }
            let answer = tokio::select! {
                answer = hand_on(&request, &commands) => answer,
                () = gone(reader) => return Ok(()),
            };
            let late = || ended.borrow().as_ref().map(|report| request.answer_after_the_end(report));
            answer.or_else(late).ok_or_else(|| io::Error::other("the supervisor has gone"))?
        }
        Err(failure) => Answer::Failed(failure),
    };
    write_answer(&mut writer, &answer).await
}

/// Serves a caller who takes part in the streams, until he leaves or the end.
async fn take_part(
    (reader, writer): (&mut (impl AsyncRead + Unpin), &mut OwnedWriteHalf),
    input: bool,
    hub: &Hub,
    mut ended: LastWords,
) -> io::Result<()> {
    let (takes_input, terminal) = hub.has();
    write_answer(writer, &Answer::Attached { terminal, takes_input }).await?;
    let _busy = hub.activity.begin();
    if hub.serve(reader, writer, input).await? {
        has_ended(&mut ended).await;
        let report = ended.borrow().as_deref().cloned();
        if let Some(report) = report {
            let last = Frame::Ended(Box::new(report));
            tokio::time::timeout(CALLER_PATIENCE, write_frame(writer, &last)).await??;
        }
    }
    Ok(())
}

async fn write_answer(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    tokio::time::timeout(CALLER_PATIENCE, writer.write_all(&text)).await?
}

/// Resolves when the container has ended, or its supervisor has gone.
async fn has_ended(ended: &mut LastWords) {
    // An error is the end of the supervisor, and of all that is left to say.
    let _ = ended.wait_for(Option::is_some).await;
}

/// The answer of the task that owns the container; `None` when that is over.
async fn hand_on(request: &Request, commands: &mpsc::Sender<Command>) -> Option<Answer> {
    let (reply, answer) = oneshot::channel();
    commands.send(Command { request: request.clone(), reply }).await.ok()?;
    answer.await.ok()
}

/// Resolves when the caller has gone: it keeps its side of the connection open as long as it waits.
async fn gone(mut reader: impl AsyncRead + Unpin) {
    let mut rest = [0; 64];
    while let Ok(1..) = reader.read(&mut rest).await {}
}

fn parse(line: &str) -> Result<Request, Failure> {
    let failure = |what: String| Failure { code: Code::InvalidValue, what, why: vec![], next: None };
    let envelope: Envelope = serde_json::from_str(line)
        .map_err(|error| failure(format!("the request is not understood: {error}")))?;
    if envelope.version != PROTOCOL_VERSION {
        let what = format!(
            "the request has version {}; this supervisor speaks {PROTOCOL_VERSION}",
            envelope.version
        );
        return Err(failure(what));
    }
    Ok(envelope.request)
}

/// Asks a container's supervisor, at most for `limit`. `None` when there is none, or it went before it had answered.
///
/// # Errors
/// What the socket returns beside that; [`io::ErrorKind::TimedOut`]; also an answer that is not understood.
pub async fn ask(
    container: &ContainerDir,
    request: Request,
    limit: Option<Duration>,
) -> io::Result<Option<Answer>> {
    match limit {
        // A supervisor that was stopped (SIGSTOP) accepts and never answers.
        Some(limit) => tokio::time::timeout(limit, converse(container, request)).await?,
        None => converse(container, request).await,
    }
}

async fn converse(container: &ContainerDir, request: Request) -> io::Result<Option<Answer>> {
    let Some(mut stream) = connect(container).await? else { return Ok(None) };
    let sent = send(&mut stream, request).await;
    let mut line = Vec::new();
    let received = (&mut stream).take(ANSWER_LIMIT).read_to_end(&mut line).await;
    if line.is_empty() {
        // Killed between accepting and answering: the peer is gone, which is an answer.
        drop((sent, received));
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(io::Error::from)
}

/// Connects to a container's supervisor; `None` when there is none.
pub(super) async fn connect(container: &ContainerDir) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(container.control_socket()).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Sends a request.
pub(super) async fn send(stream: &mut UnixStream, request: Request) -> io::Result<()> {
    let mut text = serde_json::to_vec(&Envelope { version: PROTOCOL_VERSION, request })?;
    text.push(b'\n');
    stream.write_all(&text).await
}

/// Takes a container for busy until the stream is dropped, and thaws it then if that is wanted; `None` where that cannot be.
pub(crate) async fn hold(container: &ContainerDir, thaw: bool) -> Option<UnixStream> {
    let mut stream = connect(container).await.ok()??;
    send(&mut stream, Request::Hold { thaw }).await.ok()?;
    Some(stream)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        for request in [
            Request::Start,
            Request::Kill { signal: Signal::TERM, all: false, by: AskedBy::Kill },
            Request::Stop { signal: None, grace_ms: Some(5), by: AskedBy::Stop },
            Request::Wait { until: Until::Running },
        ] {
            let line = serde_json::to_string(&Envelope { version: 1, request: request.clone() }).unwrap();
            assert_eq!(parse(&line).unwrap(), request);
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let failure = parse(r#"{"version": 2, "do": "wait"}"#).unwrap_err();
        assert!(failure.what.contains("version 2"), "{failure}");
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".*") {
            let _ = parse(&line);
        }
    }
}
