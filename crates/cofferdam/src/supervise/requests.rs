//! What callers ask of a running container, carried out by the task that owns it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::control::{Answer, Command, Request, Until, WAITING_LIMIT};
use super::supervisor::{Made, Supervisor};
use super::update::change_limits;
use crate::bundle::read_config;
use crate::cgroup::CgroupPath;
use crate::error::{Code, Failure};
use crate::event::Happening;
use crate::exit::{AskedBy, SentSignal};
use crate::fault;
use crate::health::HealthStatus;
use crate::lifecycle::{Status, Verb, WrongState};
use crate::request::Limits;
use crate::rootfs::{Rootfs, check_process};
use crate::runtime::{KillScope, RuntimeError};
use crate::signal::Signal;
use crate::spec::SpecView;
use crate::state::Record;
use crate::sys::PidFd;

impl Supervisor {
    pub(super) async fn handle(&mut self, command: Command, made: &Made) {
        let Command { request, reply } = command;
        let outcome = match request {
            Request::Wait { until } => return self.let_wait(until, reply),
            Request::Stop { signal, grace_ms, by } => {
                let stopping = self.record.stopping;
                let grace = grace_ms.map_or(stopping.grace, Duration::from_millis);
                self.begin_stop(made, signal.unwrap_or(stopping.signal), grace, by).await;
                return self.let_wait_for_stop(reply);
            }
            Request::Kill { signal, all, by } => match self.check(Verb::Kill) {
                Ok(()) => self.send(made, signal, all, by).await,
                Err(failure) => Err(failure),
            },
            Request::Attach { .. } | Request::Hold { .. } => Err(only_over_the_socket()),
            Request::Start => self.start(made).await,
            Request::Pause => self.pause().await,
            Request::Resume => self.resume().await,
            Request::Update { limits } => self.update(&limits).await,
            Request::Egress { policy } => self.change_egress(&policy).await,
        };
        // The caller may have gone.
        let _ = reply.send(match outcome {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        });
    }

    /// Keeps a caller until what he waits for is so.
    pub(super) fn let_wait(&mut self, until: Until, reply: oneshot::Sender<Answer>) {
        // Those who have gone make room.
        self.waiting.retain(|(_, reply)| !reply.is_closed());
        if self.waiting.len() >= WAITING_LIMIT {
            // The caller may have gone.
            let _ = reply.send(Answer::Failed(too_many()));
            return;
        }
        if until == Until::Healthy && self.record.health_check.is_none() {
            // The caller may have gone.
            let _ = reply.send(Answer::Failed(no_health_check(&self.record.title())));
            return;
        }
        self.waiting.push((until, reply));
        self.answer_those_who_wait();
    }

    /// Keeps a caller who has asked for the end, even where too many wait: it is on its way, and the answer with it.
    pub(super) fn let_wait_for_stop(&mut self, reply: oneshot::Sender<Answer>) {
        self.waiting.push((Until::Exit, reply));
    }

    /// Answers those for whom what they wait for has come true, but for the end.
    pub(super) fn answer_those_who_wait(&mut self) {
        let is_running = matches!(self.record.status, Status::Running | Status::Paused);
        let health = self.record.health.as_ref().map(|health| health.status).filter(|_| is_running);
        let come = |(until, _): &mut (Until, _)| match until {
            Until::Exit => false,
            Until::Running => is_running,
            Until::Healthy => health.is_some_and(|status| status != HealthStatus::Starting),
        };
        for (until, reply) in self.waiting.extract_if(.., come) {
            let is_ill = until == Until::Healthy && health == Some(HealthStatus::Unhealthy);
            // The caller may have gone.
            let _ = reply.send(if is_ill { Answer::Failed(unhealthy(&self.record)) } else { Answer::Done });
        }
    }

    pub(super) async fn start(&mut self, made: &Made) -> Result<(), Failure> {
        self.check(Verb::Start)?;
        let started = match self.look_again() {
            Ok(()) => self.call_start().await,
            Err(failure) => Err(failure),
        };
        match started {
            Ok(()) => {
                self.has_started();
                self.begin_probing(made.init.pid);
                self.note(Status::Running);
                self.tell(Happening::Start);
                Ok(())
            }
            Err(failure) => {
                self.start_failure = Some(failure.clone());
                // runsc's sandbox has ended by itself; runc's process still waits.
                if let Some(process) = &made.init.pidfd {
                    // ESRCH: it has ended.
                    let _ = process.signal(Signal::KILL);
                }
                self.remains().end_processes(true, &mut vec![]).await;
                Err(failure)
            }
        }
    }

    async fn call_start(&self) -> Result<(), Failure> {
        self.runtime.start(self.target.target()).await.map_err(|error| Failure::of(&error))?;
        fault::reached("start.called").map_err(Failure::from)
    }

    /// Whether the command is still there: under runc, one that has gone since looks like the container's own exit 1.
    pub(super) fn look_again(&self) -> Result<(), Failure> {
        let (Ok(rootfs), Ok(config)) =
            (Rootfs::open(&self.record.rootfs), read_config(&self.container.bundle()))
        else {
            return Ok(());
        };
        check_process(&rootfs, SpecView::of(&config), &self.host).map_err(|error| Failure::of(&error))
    }

    pub(super) async fn pause(&mut self) -> Result<(), Failure> {
        self.check(Verb::Pause)?;
        self.runtime.pause(self.target.target()).await.map_err(|error| Failure::of(&error))?;
        self.note(Status::Paused);
        self.tell(Happening::Pause);
        Ok(())
    }

    pub(super) async fn resume(&mut self) -> Result<(), Failure> {
        self.check(Verb::Resume)?;
        self.runtime.resume(self.target.target()).await.map_err(|error| Failure::of(&error))?;
        self.note(Status::Running);
        self.tell(Happening::Unpause);
        Ok(())
    }

    pub(super) async fn update(&mut self, limits: &Limits) -> Result<(), Failure> {
        self.check(Verb::Update)?;
        let runtime = (self.runtime.as_ref(), self.target.target());
        let limits = change_limits(runtime, &self.host, &self.container, &mut self.record, limits).await?;
        if limits.cpu_quota_us.is_some() {
            self.quota_at = None;
        }
        // systemd writes the memory files of a scope anew whatever is changed.
        let is_scope = self.record.cgroup.as_ref().is_some_and(CgroupPath::is_scope);
        self.record.memory_warned &= limits.memory_bytes.is_none();
        self.memory_limit_has_changed |= limits.memory_bytes.is_some() || is_scope;
        self.note(self.record.status);
        self.tell(Happening::Update { limits });
        Ok(())
    }

    /// A frozen container cannot be ended: thaw it first.
    pub(super) async fn thaw(&mut self) {
        if self.record.status == Status::Paused {
            self.resume().await.unwrap_or_else(log_failure);
        }
    }

    pub(super) async fn begin_stop(&mut self, made: &Made, signal: Signal, grace: Duration, by: AskedBy) {
        self.thaw().await;
        let started = self.record.status != Status::Created;
        // A process that has not started has no handler for the signal, and nothing to lose.
        let (signal, grace) = if started { (signal, grace) } else { (Signal::KILL, Duration::ZERO) };
        if let Some(at) = Instant::now().checked_add(grace) {
            self.kill_no_later_than(at, by);
        }
        // Whatever becomes of it, SIGKILL follows.
        self.send(made, signal, false, by).await.unwrap_or_else(log_failure);
    }

    /// A stop never gives more time than one that was asked for before.
    pub(super) fn kill_no_later_than(&mut self, at: Instant, by: AskedBy) {
        if self.kill_at.is_none_or(|(earlier, _)| at < earlier) {
            self.kill_at = Some((at, by));
        }
    }

    /// Sends a signal and remembers it: it decides how an ambiguous end is read.
    pub(super) async fn send(
        &mut self,
        made: &Made,
        signal: Signal,
        all: bool,
        by: AskedBy,
    ) -> Result<(), Failure> {
        let direct = !all && (!self.record.sandboxed || signal == Signal::KILL);
        if self.record.status == Status::Paused && !direct {
            // gVisor refuses it; runc would keep it for later.
            let (container, verb, status) = (self.record.title(), Verb::Kill, Status::Paused);
            return Err(Failure::of(&WrongState { container, verb, status }));
        }
        // Before it is sent: the container may be dead when the call returns.
        let sent = SentSignal { signal, by, at: Timestamp::now() };
        self.record.put_down(sent);
        if sent.asks_for_the_end() {
            self.note(self.record.status);
        }
        let Some(process) = &made.init.pidfd else { return Ok(()) };
        // SIGKILL to the sandbox works even when it hangs; other signals are for the guest inside.
        let result = if direct {
            signal_directly(process, signal)?;
            Ok(())
        } else {
            let scope = if all { KillScope::All } else { KillScope::Init };
            self.runtime.kill(self.target.target(), signal, scope).await
        };
        match result {
            Ok(()) => {
                self.tell(Happening::Kill { signal, by });
                Ok(())
            }
            // It ended between the question and the answer.
            Err(_) if process.has_ended().unwrap_or(false) => Ok(()),
            Err(error) => {
                // A runtime that was too slow may have sent it all the same.
                if !matches!(error, RuntimeError::TimedOut { .. }) {
                    self.record.sent.pop();
                }
                Err(Failure::of(&error))
            }
        }
    }
}

pub(super) fn only_over_the_socket() -> Failure {
    Failure {
        code: Code::InvalidValue,
        what: "this goes over the control socket only".into(),
        why: vec![],
        next: Some("use Engine::attach".into()),
    }
}

fn unhealthy(record: &Record) -> Failure {
    let name = record.title();
    let last = record.health.as_ref().and_then(|health| health.log.last());
    Failure {
        code: Code::WrongState,
        what: format!("{name} is unhealthy"),
        why: last.map(|answer| answer.output.clone()).into_iter().collect(),
        next: Some(format!(
            "`cofferdam inspect --format '{{{{json .health}}}}' {name}` shows its last answers"
        )),
    }
}

fn no_health_check(name: &str) -> Failure {
    Failure {
        code: Code::InvalidValue,
        what: format!("{name} has no health check: it never becomes healthy"),
        why: vec![],
        next: Some("make it with --health-cmd, --health-http or --health-tcp".into()),
    }
}

fn too_many() -> Failure {
    Failure {
        code: Code::SupervisorUnreachable,
        what: format!("{WAITING_LIMIT} callers wait for its end already"),
        why: vec![],
        next: Some("wait in one place, and hand the answer on from there".into()),
    }
}

fn signal_directly(process: &PidFd, signal: Signal) -> Result<(), Failure> {
    match process.signal(signal) {
        // It ended meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Ok(()) => Ok(()),
        Err(error) => Err(Failure {
            code: Code::Internal,
            what: format!("{signal} could not be sent"),
            why: vec![error.to_string()],
            next: None,
        }),
    }
}

pub(super) fn log_failure(failure: Failure) {
    tracing::warn!(%failure, "a request could not be carried out");
}
