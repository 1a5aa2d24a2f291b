//! One probe of a container: a command in it, a page of it, a connection to it.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::exec::{ExecFiles, ExecLimit, ExecStart, Executing, Place};
use super::probing::no_answer;
use super::stdio::{Outputs, StdioPlan};
use super::supervisor::Supervisor;
use super::target::OwnedTarget;
use crate::bundle::read_config;
use crate::error::Failure;
use crate::exit::{Cause, format_duration};
use crate::health::Answer;
use crate::host::HostFacts;
use crate::keeper::Keeping;
use crate::request::{HealthCheck, NetworkMode, Probe};
use crate::runtime::Runtime;
use crate::state::ContainerDir;

/// What is kept of a probe's output, in bytes: docker's limit.
const OUTPUT_LIMIT: usize = 4096;

/// All that a probe of a container needs.
#[derive(Debug, Clone)]
pub(super) struct Prober {
    runtime: Arc<dyn Runtime>,
    target: OwnedTarget,
    container: ContainerDir,
    host: Arc<HostFacts>,
    place: Place,
    /// The process whose network is the container's; `None` where ours reaches it.
    network_of: Option<i32>,
}

impl Prober {
    pub(super) fn of(supervisor: &Supervisor, pid: i32) -> Self {
        let record = &supervisor.record;
        // A sandbox has its network inside; the namespace around it has none of its addresses.
        let is_ours = record.sandboxed || record.network == NetworkMode::Host;
        Self {
            runtime: Arc::clone(&supervisor.runtime),
            target: supervisor.target.clone(),
            container: supervisor.container.clone(),
            host: Arc::clone(&supervisor.host),
            place: Place::of(record),
            network_of: (!is_ours).then_some(pid),
        }
    }

    /// Asks once.
    pub(super) async fn ask(self, check: HealthCheck) -> Answer {
        let begun = Timestamp::now();
        let asked = async {
            match &check.probe {
                Probe::Command { args } => self.execute(args, check.timeout).await,
                Probe::Tcp { address } => self.connect(address, check.timeout).await.map(|_| String::new()),
                Probe::Http { address, path } => self.get(address, path, check.timeout).await,
            }
        };
        // A command ends by its own limit, with all that it has started.
        let slack = if matches!(check.probe, Probe::Command { .. }) { check.timeout } else { Duration::ZERO };
        match tokio::time::timeout(check.timeout.saturating_add(slack), asked).await {
            Ok(Ok(output)) => Answer { begun, ended: Timestamp::now(), passed: true, output },
            Ok(Err(why)) => no_answer(begun, why),
            Err(_) => no_answer(begun, late(check.timeout)),
        }
    }

    async fn execute(&self, args: &[String], limit: Duration) -> Result<String, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let config = read_config(&self.container.bundle()).map_err(|error| words(&error))?;
        let mut process = config.get("process").cloned().ok_or("config.json has no process")?;
        (process["args"], process["terminal"]) = (args.into(), Value::Bool(false));
        let files = ExecFiles::new(&self.container);
        files.write(&process).map_err(|error| Failure::of(&error).to_string())?;
        let (output, stdio) = captured().map_err(|error| words(&error))?;
        let start = ExecStart {
            runtime: Arc::clone(&self.runtime),
            target: self.target.clone(),
            files,
            terminal: false,
            stdio,
            place: self.place.clone(),
            host: Arc::clone(&self.host),
            outputs: Outputs::default(),
            keeping: Keeping::default(),
        };
        let at = Instant::now() + limit;
        let mut executing = Executing::start(start).await.map_err(|error| Failure::of(&error).to_string())?;
        let (end, output) = tokio::join!(executing.wait(Some(ExecLimit { at, limit })), first_of(output, at));
        match end.cause {
            Cause::Exited { code: 0 } => Ok(output),
            Cause::Exited { .. } if !output.is_empty() => Err(output),
            Cause::TimedOut { .. } => Err(late(limit)),
            cause => Err(cause.to_string()),
        }
    }

    async fn get(&self, address: &str, path: &str, limit: Duration) -> Result<String, String> {
        let stream = self.connect(address, limit).await?;
        let wrong = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(wrong)?;
        let request =
            Request::get(path).header(header::HOST, address).header(header::USER_AGENT, "cofferdam");
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let status = async {
            tokio::select! {
                // It ends with an error, or after the answer.
                Err(error) = connection => Err(wrong(error)),
                response = sender.send_request(request) => response.map(|response| response.status()).map_err(wrong),
            }
        };
        match status.await? {
            status if status.is_success() || status.is_redirection() => Ok(status.to_string()),
            status => Err(status.to_string()),
        }
    }

    async fn connect(&self, address: &str, limit: Duration) -> Result<TcpStream, String> {
        let found = tokio::net::lookup_host(address).await.map_err(|error| format!("{address}: {error}"))?;
        let mut why = format!("{address}: it has no address");
        for address in found {
            let connected = match self.network_of {
                None => TcpStream::connect(address).await,
                Some(pid) => connect_in(pid, address, limit).await,
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        Err(why)
    }
}

/// Connects in another process's network. A socket stays in the network that it was made in.
async fn connect_in(pid: i32, address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let (sender, connected) = tokio::sync::oneshot::channel();
    // A thread of its own: it cannot be brought back, and ends here.
    std::thread::Builder::new().name("probe".into()).spawn(move || {
        let connect = || {
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            StdStream::connect_timeout(&address, limit)
        };
        // Nobody may wait any more.
        let _ = sender.send(connect());
    })?;
    let stream = connected.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Streams whose output can be read.
fn captured() -> io::Result<(OwnedFd, StdioPlan)> {
    let (output, sink) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    rustix::io::ioctl_fionbio(&sink, false)?;
    let stdio = StdioPlan { stdout: Some(sink.try_clone()?), stderr: Some(sink), ..StdioPlan::discard() };
    Ok((output, stdio))
}

/// The beginning of some output, until it ends. The rest is read too: its writer must not wait.
async fn first_of(output: OwnedFd, until: Instant) -> String {
    let mut kept = Vec::new();
    let read = async {
        let mut output = pipe::Receiver::from_owned_fd(output)?;
        let mut buffer = [0; OUTPUT_LIMIT];
        loop {
            match output.read(&mut buffer).await? {
                0 => return io::Result::Ok(()),
                count => kept.extend_from_slice(&buffer[..count.min(OUTPUT_LIMIT - kept.len())]),
            }
        }
    };
    // What cannot be read is not there.
    let _ = tokio::time::timeout_at(until + Duration::from_secs(1), read).await;
    String::from_utf8_lossy(&kept).trim_end().to_owned()
}

fn late(limit: Duration) -> String {
    format!("no answer within {}", format_duration(limit))
}
