//! Messages: what a query asks, and answers that fit into what the asker can take.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

/// What we announce and send at most over UDP: larger datagrams would be fragmented on the overlay.
const LARGEST_DATAGRAM: u16 = 1232;
/// What askers without EDNS can take.
const SMALLEST_DATAGRAM: u16 = 512;

/// How the query came, which bounds the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Tcp,
}

/// A query with one question.
pub(crate) struct Asked {
    pub(crate) metadata: Metadata,
    pub(crate) question: Query,
    pub(crate) edns: Option<Edns>,
    pub(crate) carrier: Carrier,
}

/// What to do with bytes that came in.
pub(crate) enum Incoming {
    /// Answer it.
    Asked(Box<Asked>),
    /// Send this at once.
    Refuse(Vec<u8>),
    /// Not a query: silence, so that two servers cannot be made to talk to each other for ever.
    Ignore,
}

/// Reads a query.
pub(crate) fn read(bytes: &[u8], carrier: Carrier) -> Incoming {
    let Ok(message) = Message::read(&mut BinDecoder::new(bytes)) else {
        let Some(id) = bytes.first_chunk::<2>().filter(|_| bytes.len() >= 12 && bytes[2] & 0x80 == 0) else {
            return Incoming::Ignore;
        };
        let refusal = Message::error_msg(u16::from_be_bytes(*id), OpCode::Query, ResponseCode::FormErr);
        return refusal.to_vec().map_or(Incoming::Ignore, Incoming::Refuse);
    };
    if message.metadata.message_type != MessageType::Query {
        return Incoming::Ignore;
    }
    let refuse = |code| {
        let mut refusal = Message::response(message.metadata.id, message.metadata.op_code);
        refusal.metadata = Metadata::response_from_request(&message.metadata);
        refusal.metadata.response_code = code;
        refusal.add_queries(message.queries.iter().cloned());
        if message.edns.is_some() {
            refusal.set_edns(own_edns(false));
        }
        refusal.to_vec().map_or(Incoming::Ignore, Incoming::Refuse)
    };
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [question] = &message.queries[..] else {
        return refuse(ResponseCode::FormErr);
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    if question.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    let asked = Asked { metadata: message.metadata, question: question.clone(), edns: message.edns, carrier };
    Incoming::Asked(Box::new(asked))
}

fn own_edns(dnssec: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST_DATAGRAM).set_version(0);
    edns.set_dnssec_ok(dnssec);
    edns
}

/// An answer under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Answer {
    /// Nothing but a code.
    pub(crate) fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }

    /// The bytes for the asker. What does not fit is left out: additional records silently, answers with the mark that
    /// makes the asker come back over TCP.
    pub(crate) fn encode(self, asked: &Asked) -> Option<Vec<u8>> {
        let mut message = Message::response(asked.metadata.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&asked.metadata);
        message.metadata.response_code = self.code;
        message.metadata.authoritative = self.authoritative;
        message.metadata.recursion_available = true;
        message.add_query(asked.question.clone());
        message.answers = self.answers;
        message.authorities = self.authorities;
        message.additionals = self.additionals;
        if let Some(edns) = &asked.edns {
            message.set_edns(own_edns(edns.flags().dnssec_ok));
        }
        let limit = usize::from(match asked.carrier {
            Carrier::Tcp => u16::MAX,
            Carrier::Udp => {
                asked.edns.as_ref().map_or(SMALLEST_DATAGRAM, |edns| edns.max_payload().clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM))
            }
        });
        let mut bytes = encode(&message)?;
        if bytes.len() > limit {
            message.additionals.clear();
            bytes = encode(&message)?;
        }
        while bytes.len() > limit {
            message.metadata.truncation = true;
            if message.answers.is_empty() {
                message.authorities.clear();
            }
            let fitting = message.answers.len() * limit / bytes.len();
            message.answers.truncate(fitting.min(message.answers.len().saturating_sub(1)));
            bytes = encode(&message)?;
        }
        Some(bytes)
    }
}

/// Longer messages than TCP can carry come out as an error, which callers turn into a truncated one.
pub(crate) fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    message.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// A question of our own to an upstream server, with the asker's wishes.
pub(crate) fn ask(asked: &Asked, question: &Query, id: u16) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = asked.metadata.checking_disabled;
    message.add_query(question.clone());
    message.set_edns(own_edns(asked.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)));
    encode(&message)
}

/// Reads an upstream's answer if it is one to this question.
pub(crate) fn read_answer(bytes: &[u8], id: u16, question: &Query) -> Option<Message> {
    let message = Message::read(&mut BinDecoder::new(bytes)).ok()?;
    let same = |one: &Query| {
        one.name() == question.name() && one.query_type() == question.query_type() && one.query_class() == question.query_class()
    };
    let ours = message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && matches!(&message.queries[..], [one] if same(one));
    ours.then_some(message)
}
