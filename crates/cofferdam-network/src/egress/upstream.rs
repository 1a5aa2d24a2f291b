//! Asking the host's resolvers, from the host's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::names::nameservers;

/// How long one resolver may take, each time. Clients give up after 5 s by default.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How many resolvers are asked, and how often each: as libc does.
const MOST_RESOLVERS: usize = 3;
const ATTEMPTS: usize = 2;

/// The port of resolvers.
const PORT: u16 = 53;

/// What is asked for of an answer by UDP, in bytes: it crosses every network in one piece.
const UDP_PAYLOAD: u16 = 1232;

/// The host's resolvers, as its file says at the time of each question.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) resolv_conf: PathBuf,
}

impl Upstream {
    /// Asks until somebody answers.
    pub(super) async fn ask(&self, query: &Query) -> io::Result<Message> {
        let resolvers = resolvers(&std::fs::read_to_string(&self.resolv_conf)?);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no resolver");
        for _ in 0..ATTEMPTS {
            for resolver in &resolvers {
                match timeout(ANSWER_LIMIT, exchange(*resolver, query)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::ErrorKind::TimedOut.into(),
                }
            }
        }
        Err(last)
    }
}

/// The resolvers that a `resolv.conf` names, as far as they are asked.
fn resolvers(text: &str) -> Vec<IpAddr> {
    nameservers(text).into_iter().take(MOST_RESOLVERS).collect()
}

async fn exchange(resolver: IpAddr, query: &Query) -> io::Result<Message> {
    // Its number is random; and so is the port, which the kernel chooses.
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    question.set_edns(edns);
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let any: IpAddr = match resolver {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // What does not come from there is not taken.
    socket.connect(SocketAddr::new(resolver, PORT)).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let count = socket.recv(&mut buffer).await?;
        match answer_to(&question, &buffer[..count]) {
            Some(answer) if answer.metadata.truncation => break,
            Some(answer) => return Ok(answer),
            None => {}
        }
    }
    let mut stream = TcpStream::connect(SocketAddr::new(resolver, PORT)).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    stream.read_exact(&mut buffer[..length]).await?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the resolver answered another question");
    answer_to(&question, &buffer[..length]).ok_or_else(wrong)
}

fn answer_to(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_it = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries;
    is_it.then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_libc_does() {
        let text = "# nameserver 1.1.1.1\nnameserver 10.0.0.53 # corp\n\tnameserver\t2606:4700::1111 \nnameservers 1.1.1.1\n\
                    nameserver nonsense\nnameserver 9.9.9.9\nnameserver 8.8.8.8\n";
        let read: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(read, ["10.0.0.53", "2606:4700::1111", "9.9.9.9"]);
        assert!(resolvers("").is_empty());
    }
}
