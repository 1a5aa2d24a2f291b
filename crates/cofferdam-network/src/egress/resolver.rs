//! The resolver of one container: it answers for names that the policy names, and opens the gate before it answers.
//!
//! A name that is not allowed does not exist (NXDOMAIN): musl waits for its whole time when it is refused, and glibc
//! asks again; both go on at once to say that there is no such host, and ask for the name in the next search domain.
//!
//! Invariant: what an answer names can be reached when it arrives; what may not be reached is not in the answer.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answers::{Found, Question};
use super::denials::{Denial, Teller};
use super::gate::{Active, NotAdmitted, Shared};
use super::policy::{Policy, Target};
use super::upstream::Upstream;

/// Questions at a time; more are dropped, and asked again by their client.
const MOST_QUESTIONS: usize = 64;

/// Questions in a second, on average, and at once: each may start a program.
const QUESTIONS_PER_SECOND: f64 = 100.0;
const QUESTIONS_AT_ONCE: f64 = 200.0;

/// Connections at a time, and how long one may be silent.
const MOST_CONNECTIONS: usize = 16;
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// Answers that are kept.
const MOST_KEPT: usize = 512;

/// The longest question that is read, in bytes: a name, and room for options.
const LONGEST_QUESTION: usize = 4096;

#[derive(Debug)]
pub(super) struct Resolver {
    gate: Arc<Shared>,
    upstream: Upstream,
    teller: Arc<Teller>,
    kept: Mutex<HashMap<(String, RecordType), (Found, Instant)>>,
    turns: Arc<Semaphore>,
    rate: Mutex<Rate>,
}

impl Resolver {
    pub(super) fn new(gate: Arc<Shared>, upstream: Upstream, teller: Arc<Teller>) -> Self {
        let rate = Mutex::new(Rate { left: QUESTIONS_AT_ONCE, at: Instant::now() });
        let turns = Arc::new(Semaphore::new(MOST_QUESTIONS));
        Self { gate, upstream, teller, kept: Mutex::default(), turns, rate }
    }

    /// Answers datagrams until the socket breaks.
    pub(super) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; LONGEST_QUESTION];
        loop {
            let (count, client) = socket.recv_from(&mut buffer).await?;
            while tasks.try_join_next().is_some() {}
            if !self.is_within_rate() {
                continue;
            }
            let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else { continue };
            let (resolver, socket, bytes) =
                (Arc::clone(&self), Arc::clone(&socket), buffer[..count].to_vec());
            tasks.spawn(async move {
                if let Some(answer) = resolver.answer(&bytes, None).await {
                    // A client that is gone does not miss it.
                    let _ = socket.send_to(&answer, client).await;
                }
                drop(turn);
            });
        }
    }

    /// Answers connections until the listener breaks.
    pub(super) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            while tasks.try_join_next().is_some() {}
            if tasks.len() < MOST_CONNECTIONS {
                let resolver = Arc::clone(&self);
                tasks.spawn(async move { resolver.converse(stream).await });
            }
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; LONGEST_QUESTION];
        loop {
            let read = async {
                let length = usize::from(stream.read_u16().await?);
                let place = buffer.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
                stream.read_exact(place).await
            };
            let count = timeout(SILENCE_LIMIT, read).await??;
            if !self.is_within_rate() {
                return Ok(());
            }
            let turn = self.turns.acquire().await.map_err(io::Error::other)?;
            let answer = self.answer(&buffer[..count], Some(usize::from(u16::MAX))).await;
            drop(turn);
            let Some(answer) = answer else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let write = async { stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await };
            timeout(SILENCE_LIMIT, write).await??;
        }
    }

    fn is_within_rate(&self) -> bool {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    /// The answer to a question; none where it is dropped.
    async fn answer(&self, bytes: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
        let question = match Question::read(bytes)? {
            Ok(question) => question,
            Err(refusal) => return Some(refusal),
        };
        let found = self.look_up(&question).await;
        question.answer(&found, limit.unwrap_or_else(|| usize::from(question.udp_limit)))
    }

    async fn look_up(&self, question: &Question) -> Found {
        let active = self.gate.active();
        let Some(name) = question.name.as_deref() else { return Found::nothing(ResponseCode::NXDomain) };
        let targets = active.policy.targets_of(name);
        let is_allowed = match active.policy {
            Policy::None => false,
            Policy::Public => true,
            Policy::Allow(_) => !targets.is_empty(),
        };
        if !is_allowed {
            self.teller.tell_once(Denial::Name { name: name.to_owned() });
            return Found::nothing(ResponseCode::NXDomain);
        }
        if !question.is_looked_up() {
            return Found::nothing(ResponseCode::NoError);
        }
        let key = (name.to_owned(), question.query().query_type);
        let mut found = match self.kept(&key) {
            Some(found) => found,
            None => match self.upstream.ask(question.query()).await {
                Ok(reply) => {
                    let found = Found::chosen(question.query(), &reply);
                    self.keep(key, &found);
                    found
                }
                Err(error) => {
                    tracing::debug!(name, %error, "no resolver of the host answered");
                    return Found::nothing(ResponseCode::ServFail);
                }
            },
        };
        self.open(&active, name, &targets, &mut found).await
    }

    /// Holds back what is guarded, and opens the gate for the rest.
    async fn open(&self, active: &Arc<Active>, name: &str, targets: &[&Target], found: &mut Found) -> Found {
        let is_held_back = |address: IpAddr| {
            active.guards.cover(address) && !active.guards.are_opened_by(&active.policy, address)
        };
        for address in found.without(is_held_back) {
            self.teller.tell_once(Denial::Address { name: name.to_owned(), address });
        }
        let addresses = found.addresses();
        self.gate.remember(name, &addresses);
        let holds_for = Duration::from_secs(found.holds_for().unwrap_or(0).into());
        match self.gate.admit(active, targets, &addresses, holds_for).await {
            Ok(()) => found.clone(),
            Err(NotAdmitted::Changed) => Found::nothing(ResponseCode::ServFail),
            Err(NotAdmitted::Full) => {
                tracing::warn!(name, "too many addresses are open by name; one more name is not answered");
                Found::nothing(ResponseCode::ServFail)
            }
            Err(NotAdmitted::Failed(error)) => {
                tracing::warn!(name, %error, "an address could not be let in; its name is not answered");
                Found::nothing(ResponseCode::ServFail)
            }
        }
    }

    fn kept(&self, key: &(String, RecordType)) -> Option<Found> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, since) = kept.get(key)?;
        let age = since.elapsed().as_secs();
        let holds_for = u64::from(found.holds_for()?);
        (age < holds_for).then(|| found.aged(u32::try_from(age).unwrap_or(u32::MAX)))
    }

    fn keep(&self, key: (String, RecordType), found: &Found) {
        let is_final = matches!(found.code, ResponseCode::NoError | ResponseCode::NXDomain);
        if !is_final || found.holds_for().is_none_or(|seconds| seconds == 0) {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(key, (found.clone(), Instant::now()));
    }
}

/// A bucket that fills over time.
#[derive(Debug)]
struct Rate {
    left: f64,
    at: Instant,
}

impl Rate {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.at).as_secs_f64() * QUESTIONS_PER_SECOND;
        (self.left, self.at) = ((self.left + gained).min(QUESTIONS_AT_ONCE), now);
        let is_there = self.left >= 1.0;
        if is_there {
            self.left -= 1.0;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_slowed_down() {
        let start = Instant::now();
        let mut rate = Rate { left: QUESTIONS_AT_ONCE, at: start };
        assert_eq!((0..1000).filter(|_| rate.take(start)).count(), 200);
        assert_eq!((0..1000).filter(|_| rate.take(start + Duration::from_millis(500))).count(), 50);
        assert_eq!((0..1000).filter(|_| rate.take(start + Duration::from_secs(60))).count(), 200);
    }
}
