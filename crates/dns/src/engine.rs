//! From the bytes of a query to the bytes of an answer: at once from memory, or later with the help of upstream.

use crate::index::Index;
use crate::upstream::Forwarder;
use crate::wire::{self, Answer, Asked, Carrier, Incoming};
use crate::zone::{Outcome, Zone};
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Aliases of aliases that are followed inside the cluster.
const MOST_ALIASES: usize = 8;

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct Stats {
    /// Queries that came in.
    pub queries: AtomicU64,
    /// Answered from the cluster's own names.
    pub local: AtomicU64,
    /// Answered from what upstream said a moment ago.
    pub remembered: AtomicU64,
    /// Asked of upstream.
    pub forwarded: AtomicU64,
    /// Answered with SERVFAIL.
    pub failed: AtomicU64,
}

/// Answers queries.
pub(crate) struct Engine {
    pub(crate) zone: Zone,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) forwarder: Forwarder,
    pub(crate) stats: Arc<Stats>,
    /// Turns the order of addresses from answer to answer, so that askers who take the first spread out.
    pub(crate) turn: AtomicUsize,
}

/// How far a query can be answered at once.
pub(crate) enum Step {
    /// Send this, if anything.
    Done(Option<Vec<u8>>),
    /// Upstream has to be asked.
    Later(Box<Pending>),
}

/// A query that waits for upstream.
pub(crate) struct Pending {
    asked: Box<Asked>,
    question: Query,
    /// CNAME records that lead to the question.
    aliases: Vec<Record>,
}

impl Engine {
    /// Answers from memory if possible.
    pub(crate) fn start(&self, bytes: &[u8], carrier: Carrier) -> Step {
        self.stats.queries.fetch_add(1, Ordering::Relaxed);
        let asked = match wire::read(bytes, carrier) {
            Incoming::Asked(asked) => asked,
            Incoming::Refuse(bytes) => return Step::Done(Some(bytes)),
            Incoming::Ignore => return Step::Done(None),
        };
        let (name, kind) = (asked.question.name().clone(), asked.question.query_type());
        match self.local(&name, kind) {
            Local::Done(answer) => {
                self.stats.local.fetch_add(1, Ordering::Relaxed);
                self.finish(&asked, answer)
            }
            Local::Outside { name, aliases } => {
                let mut question = asked.question.clone();
                question.set_name(name);
                if let Some(answer) = self.forwarder.remembered(&asked, &question) {
                    self.stats.remembered.fetch_add(1, Ordering::Relaxed);
                    return self.finish(&asked, join(aliases, answer));
                }
                Step::Later(Box::new(Pending { asked, question, aliases }))
            }
        }
    }

    /// Asks upstream.
    pub(crate) async fn complete(&self, pending: Pending) -> Option<Vec<u8>> {
        self.stats.forwarded.fetch_add(1, Ordering::Relaxed);
        let answer = self.forwarder.resolve(&pending.asked, &pending.question).await;
        match self.finish(&pending.asked, join(pending.aliases, answer)) {
            Step::Done(bytes) => bytes,
            Step::Later(_) => None,
        }
    }

    fn finish(&self, asked: &Asked, answer: Answer) -> Step {
        if answer.code == ResponseCode::ServFail {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        Step::Done(answer.encode(asked))
    }

    fn local(&self, name: &Name, kind: RecordType) -> Local {
        let index = self.index.read();
        let mut name = name.clone();
        let mut aliases: Vec<Record> = Vec::new();
        let done = |answer: Answer| Local::Done(Answer { authoritative: true, ..answer });
        loop {
            if !index.complete && (self.zone.contains(&name) || name.parse_arpa_name().is_ok()) {
                return Local::Done(Answer::code(ResponseCode::ServFail));
            }
            match self.zone.answer(&index, &name, kind) {
                Outcome::Found { mut answers, additionals } => {
                    if matches!(kind, RecordType::A | RecordType::AAAA) && answers.len() > 1 {
                        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
                        answers.rotate_left(turn);
                    }
                    aliases.append(&mut answers);
                    return done(Answer { answers: aliases, additionals, ..Answer::default() });
                }
                no @ (Outcome::NoData | Outcome::NoName) => {
                    // A name that exists as an alias exists, whatever becomes of its target.
                    let missing = no == Outcome::NoName && aliases.is_empty();
                    return done(Answer {
                        code: if missing { ResponseCode::NXDomain } else { ResponseCode::NoError },
                        answers: aliases,
                        authorities: vec![self.zone.authority(&index)],
                        ..Answer::default()
                    });
                }
                Outcome::Alias { record, target } => {
                    aliases.push(*record);
                    if kind == RecordType::CNAME || aliases.len() >= MOST_ALIASES {
                        return done(Answer { answers: aliases, ..Answer::default() });
                    }
                    name = target;
                }
                Outcome::Elsewhere => return Local::Outside { name, aliases },
            }
        }
    }
}

enum Local {
    Done(Answer),
    Outside { name: Name, aliases: Vec<Record> },
}

/// Puts aliases in front of what upstream says about their target. A target that cannot be resolved leaves the alias.
fn join(mut aliases: Vec<Record>, answer: Answer) -> Answer {
    if aliases.is_empty() {
        return answer;
    }
    aliases.extend(answer.answers);
    Answer { code: ResponseCode::NoError, authoritative: true, answers: aliases, ..Answer::default() }
}
