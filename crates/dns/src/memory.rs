//! Upstream answers remembered for a short while, a bounded number of them.

use crate::wire::Answer;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// No answer is remembered for longer, whatever it says: names move.
const LONGEST: Duration = Duration::from_secs(30);

/// Remembers answers. When the young half is full it becomes the old one, and the old one is forgotten.
pub(crate) struct Memory {
    capacity: usize,
    young: HashMap<Key, Known>,
    old: HashMap<Key, Known>,
}

/// Name in lower case, type, whether DNSSEC records were asked for.
type Key = (String, RecordType, bool);

#[derive(Clone)]
struct Known {
    answer: Answer,
    since: Instant,
    until: Instant,
}

impl Memory {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity / 2, young: HashMap::new(), old: HashMap::new() }
    }

    /// The answer, with what is left of its lifetimes.
    pub(crate) fn get(&mut self, question: &Query, dnssec: bool, now: Instant) -> Option<Answer> {
        let key = key(question, dnssec);
        let known = match self.young.get(&key) {
            Some(known) => known,
            None => {
                let known = self.old.remove(&key)?;
                self.put_known(key.clone(), known);
                self.young.get(&key)?
            }
        };
        if known.until <= now {
            return None;
        }
        let age = u32::try_from(now.duration_since(known.since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = known.answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Remembers an answer if it may be: an answer or a "no" with the authority that says for how long.
    pub(crate) fn put(&mut self, question: &Query, dnssec: bool, answer: &Answer, now: Instant) {
        let Some(lifetime) = lifetime(answer).map(|lifetime| lifetime.min(LONGEST)).filter(|l| !l.is_zero()) else {
            return;
        };
        let known = Known { answer: answer.clone(), since: now, until: now + lifetime };
        self.put_known(key(question, dnssec), known);
    }

    fn put_known(&mut self, key: Key, known: Known) {
        if self.capacity == 0 {
            return;
        }
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known);
    }
}

fn key(question: &Query, dnssec: bool) -> Key {
    (question.name().to_ascii().to_ascii_lowercase(), question.query_type(), dnssec)
}

fn lifetime(answer: &Answer) -> Option<Duration> {
    let positive = answer.code == ResponseCode::NoError && !answer.answers.is_empty();
    if positive {
        let shortest = answer.answers.iter().map(|record| record.ttl).min()?;
        return Some(Duration::from_secs(shortest.into()));
    }
    if !matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    answer.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(Duration::from_secs(record.ttl.min(soa.minimum).into())),
        _ => None,
    })
}
