//! The world's resolver, as the host's file names it, and a client.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};

use cofferdam_network::namespace::enter;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::host::namespace;
use crate::probe::{connect, datagrams, receive};

/// What names stand for, in order; the last one stays.
type Zone = Arc<Mutex<HashMap<String, Vec<Vec<Record>>>>>;

/// Names longer than this many records are told by TCP alone.
const BY_UDP: usize = 20;

#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    zone: Zone,
    asked: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// Starts it at 9.9.9.9.
    pub(crate) fn start() -> Self {
        let world = Self::default();
        let at: SocketAddr = "9.9.9.9:53".parse().unwrap();
        let open = move || Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?));
        let (udp, tcp) = enter(&namespace("internet"), open).unwrap();
        let by_udp = world.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((count, client)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&by_udp.answer(&buffer[..count], true), client);
            }
        });
        let by_tcp = world.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut question).unwrap();
                let answer = by_tcp.answer(&question, false);
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat()).unwrap();
            }
        });
        world
    }

    /// Adds what a name stands for, after what it stood for each time before. Aliases and addresses, `name target` each.
    pub(crate) fn add(&self, name: &str, records: &[&str], ttl: u32) {
        let records = records.iter().map(|text| record(text, ttl)).collect();
        self.zone.lock().unwrap().entry(name.to_owned()).or_default().push(records);
    }

    /// The names that were asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, question: &[u8], is_by_udp: bool) -> Vec<u8> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let name = query.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        self.asked.lock().unwrap().push(name.clone());
        let mut reply = Message::response(question.metadata.id, OpCode::Query);
        reply.add_query(query.clone());
        match self.zone.lock().unwrap().get_mut(&name) {
            None => reply.metadata.response_code = ResponseCode::NXDomain,
            Some(times) => {
                let now = if times.len() > 1 { times.remove(0) } else { times[0].clone() };
                let kinds = [query.query_type, RecordType::CNAME];
                reply.add_answers(now.into_iter().filter(|record| kinds.contains(&record.record_type())));
                if is_by_udp && reply.answers.len() > BY_UDP {
                    reply.answers.clear();
                    reply.metadata.truncation = true;
                }
            }
        }
        reply.to_vec().unwrap()
    }
}

fn record(text: &str, ttl: u32) -> Record {
    let (owner, target) = text.split_once(' ').unwrap();
    let data = match target.parse() {
        Ok(IpAddr::V4(address)) => RData::A(A(address)),
        Ok(IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
        Err(_) => RData::CNAME(CNAME(Name::from_ascii(format!("{target}.")).unwrap())),
    };
    Record::from_rdata(Name::from_ascii(format!("{owner}.")).unwrap(), ttl, data)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    question
}

/// Asks a resolver from a namespace, by UDP.
pub(crate) fn ask_for(from: &Path, resolver: &str, name: &str, kind: RecordType) -> Option<Message> {
    let question = question(name, kind);
    let socket = datagrams(from, resolver);
    socket.send(&question.to_vec().unwrap()).ok()?;
    let mut buffer = [0; 4096];
    let count = receive(&socket, &mut buffer).ok()?;
    let answer = Message::from_vec(&buffer[..count]).unwrap();
    assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
    Some(answer)
}

/// The same by TCP.
pub(crate) fn ask_by_tcp(from: &Path, resolver: &str, name: &str) -> Option<Message> {
    let bytes = question(name, RecordType::A).to_vec().unwrap();
    let mut stream = connect(from, resolver)?;
    stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(Message::from_vec(&answer).unwrap())
}

/// The addresses in an answer.
pub(crate) fn addresses(answer: &Message) -> Vec<String> {
    answer
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .map(|address| address.to_string())
        .collect()
}
