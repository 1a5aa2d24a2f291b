//! Questions and answers of the domain name system, decided upon.
//!
//! Invariant: pure. An answer has nothing in it that was not asked for: the records that a chain of aliases leads to
//! from the question's name, and of addresses those that may be known.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// The longest chain of aliases that is followed; resolvers of the world stop at 8 to 16.
const MOST_ALIASES: usize = 16;

/// The most records in an answer that are handed on.
const MOST_RECORDS: usize = 64;

/// The most that an answer is believed to hold for, in seconds: a policy that is changed shall be felt.
const LONGEST_TTL: u32 = 3600;

/// The smallest answer that every client takes (RFC 1035), and the greatest that crosses every network in one piece.
const SMALLEST_UDP: u16 = 512;
const GREATEST_UDP: u16 = 1232;

/// A question that can be decided upon.
#[derive(Debug, Clone)]
pub(super) struct Question {
    id: u16,
    query: Query,
    recursion_desired: bool,
    edns: bool,
    /// The most bytes of an answer by UDP.
    pub(super) udp_limit: u16,
    /// The name in lower case, without the last dot, where it is made of the letters that names of hosts have.
    pub(super) name: Option<String>,
}

/// What was found out about a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    /// Who says that there is nothing, so that clients know for how long.
    pub(super) authority: Vec<Record>,
}

impl Found {
    /// Without anything but a code.
    pub(super) fn nothing(code: ResponseCode) -> Self {
        Self { code, records: Vec::new(), authority: Vec::new() }
    }

    /// What an answer from elsewhere says about a question, and no more.
    pub(super) fn chosen(query: &Query, reply: &Message) -> Self {
        let mut names = vec![query.name.to_lowercase()];
        let mut records: Vec<Record> = Vec::new();
        let answers = || reply.answers.iter().filter(|record| record.dns_class == DNSClass::IN);
        // Aliases may come in any order, so the chain is followed from its beginning.
        while names.len() <= MOST_ALIASES {
            let last = names[names.len() - 1].clone();
            let of_last = || answers().filter(|record| record.name.to_lowercase() == last);
            let alias = of_last().find_map(|record| match &record.data {
                RData::CNAME(target) => Some((record, target.0.to_lowercase())),
                _ => None,
            });
            records.extend(of_last().filter(|record| record.record_type() == query.query_type).cloned());
            match alias {
                Some((record, target))
                    if query.query_type != RecordType::CNAME && !names.contains(&target) =>
                {
                    records.push(record.clone());
                    names.push(target);
                }
                _ => break,
            }
        }
        records.truncate(MOST_RECORDS);
        let soa = reply.authorities.iter().filter(|record| record.record_type() == RecordType::SOA);
        let mut authority: Vec<Record> = soa.take(1).cloned().collect();
        for record in records.iter_mut().chain(&mut authority) {
            record.ttl = record.ttl.min(LONGEST_TTL);
        }
        Self { code: reply.metadata.response_code, records, authority }
    }

    /// The addresses in it.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.records.iter().filter_map(|record| record.data.ip_addr()).collect()
    }

    /// Leaves out addresses; returns those that were.
    pub(super) fn without(&mut self, is_held_back: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let gone: Vec<IpAddr> =
            self.addresses().into_iter().filter(|address| is_held_back(*address)).collect();
        self.records.retain(|record| record.data.ip_addr().is_none_or(|address| !gone.contains(&address)));
        gone
    }

    /// How many seconds it holds for; none where nothing says so.
    pub(super) fn holds_for(&self) -> Option<u32> {
        self.records.iter().chain(&self.authority).map(|record| record.ttl).min()
    }

    /// The same some seconds later.
    pub(super) fn aged(&self, seconds: u32) -> Self {
        let mut aged = self.clone();
        for record in aged.records.iter_mut().chain(&mut aged.authority) {
            record.ttl = record.ttl.saturating_sub(seconds);
        }
        aged
    }
}

impl Question {
    /// Reads a question. What cannot be answered is dropped (none), or has its refusal.
    pub(super) fn read(bytes: &[u8]) -> Option<Result<Self, Vec<u8>>> {
        let message = Message::from_vec(bytes).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let refused = |code| {
            let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
            reply.metadata.response_code = code;
            reply.to_vec().ok().map(Err)
        };
        if message.metadata.op_code != OpCode::Query {
            return refused(ResponseCode::NotImp);
        }
        let [query] = message.queries.as_slice() else { return refused(ResponseCode::FormErr) };
        let limit = message.edns.as_ref().map_or(SMALLEST_UDP, Edns::max_payload);
        Some(Ok(Self {
            id: message.metadata.id,
            query: query.clone(),
            recursion_desired: message.metadata.recursion_desired,
            edns: message.edns.is_some(),
            udp_limit: limit.clamp(SMALLEST_UDP, GREATEST_UDP),
            name: host_name(&query.name),
        }))
    }

    pub(super) fn query(&self) -> &Query {
        &self.query
    }

    /// Whether this kind of record is looked up at all. Hints of services carry addresses that would have to be held
    /// back, keys that hide names, and nothing that a client cannot do without; transfers are not for containers.
    pub(super) fn is_looked_up(&self) -> bool {
        self.query.query_class == DNSClass::IN
            && !matches!(
                self.query.query_type,
                RecordType::HTTPS | RecordType::SVCB | RecordType::ANY | RecordType::AXFR | RecordType::IXFR
            )
    }

    /// The answer, at most so many bytes; it says so where records did not fit.
    pub(super) fn answer(&self, found: &Found, limit: usize) -> Option<Vec<u8>> {
        let mut reply = Message::response(self.id, OpCode::Query);
        reply.metadata.recursion_desired = self.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = found.code;
        reply.add_query(self.query.clone());
        reply.add_answers(found.records.iter().cloned());
        reply.add_authorities(found.authority.iter().cloned());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(GREATEST_UDP);
            reply.set_edns(edns);
        }
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        reply.truncate().to_vec().ok()
    }
}

fn host_name(name: &Name) -> Option<String> {
    let text = name.to_ascii().to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text).to_owned();
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!text.is_empty() && text.bytes().all(is_letter)).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::{A, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, address: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A(address.parse::<Ipv4Addr>().unwrap())))
    }

    fn alias(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 300, RData::CNAME(CNAME(name(target))))
    }

    fn reply(records: Vec<Record>) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.add_answers(records);
        message
    }

    fn question(text: &str) -> Question {
        let mut message = Message::query();
        message.add_query(Query::query(name(text), RecordType::A));
        Question::read(&message.to_vec().unwrap()).unwrap().unwrap()
    }

    #[test]
    fn a_chain_is_followed_and_nothing_beside_it() {
        let question = question("WWW.example.org.");
        assert_eq!(question.name.as_deref(), Some("www.example.org"));
        let answer = reply(vec![
            a("b.example.", "93.184.216.34", 90_000),
            alias("A.example.", "b.example."),
            a("evil.example.", "169.254.169.254", 60),
            alias("www.example.org.", "a.example."),
            alias("b.example.", "www.example.org."),
        ]);
        let mut found = Found::chosen(question.query(), &answer);
        assert_eq!(found.addresses(), ["93.184.216.34".parse::<IpAddr>().unwrap()]);
        assert_eq!((found.records.len(), found.holds_for()), (3, Some(300)));
        assert!(found.records.iter().all(|record| record.ttl <= LONGEST_TTL));
        assert_eq!(found.aged(100).holds_for(), Some(200));
        assert_eq!(found.without(|_| true).len(), 1);
        assert_eq!((found.addresses().len(), found.records.len()), (0, 2));
    }

    #[test]
    fn an_answer_that_does_not_fit_says_so() {
        let question = question("a.example.");
        let records = (0..60).map(|index| a("a.example.", &format!("93.184.216.{index}"), 60)).collect();
        let found = Found::chosen(question.query(), &reply(records));
        let whole = Message::from_vec(&question.answer(&found, usize::from(u16::MAX)).unwrap()).unwrap();
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (60, false));
        let short = question.answer(&found, 512).unwrap();
        assert!(short.len() <= 512);
        assert!(Message::from_vec(&short).unwrap().metadata.truncation);
    }

    #[test]
    fn what_is_no_question_is_dropped_or_refused() {
        assert!(Question::read(b"").is_none());
        assert!(Question::read(&[0; 11]).is_none());
        assert!(Question::read(&Message::response(1, OpCode::Query).to_vec().unwrap()).is_none());
        let refusal = |message: &Message| {
            let bytes = Question::read(&message.to_vec().unwrap()).unwrap().unwrap_err();
            Message::from_vec(&bytes).unwrap().metadata.response_code
        };
        assert_eq!(refusal(&Message::query()), ResponseCode::FormErr);
        let mut update = Message::query();
        update.metadata.op_code = OpCode::Update;
        assert_eq!(refusal(&update), ResponseCode::NotImp);
        let mut odd = Message::query();
        odd.add_query(Query::query(Name::from_labels([&b"a b"[..], b"example"]).unwrap(), RecordType::A));
        assert_eq!(Question::read(&odd.to_vec().unwrap()).unwrap().unwrap().name, None);
    }
}
