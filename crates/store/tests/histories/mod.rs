//! Histories of clients that work at the same time, and whether some order of single steps explains what all of them saw.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store::{At, Change, Entry, Expect, Kind, Op, Outcome, Revision, Store, suite};

/// What an object holds: no two writes write the same. `None` if it is not there.
type Content = Option<u64>;

/// What a client did and what it was told.
#[derive(Clone, Copy, Debug)]
pub enum Did {
    Read(Content),
    Put(u64),
    /// The write, what it expected to be there, and what was there instead if it lost.
    Swap {
        expected: Content,
        write: Content,
        instead: Option<Content>,
    },
    /// A deletion of whatever is there, and whether there was something.
    Delete(bool),
}

impl Did {
    /// What is there afterwards; nothing if it cannot have happened to this.
    fn apply(self, content: Content) -> Option<Content> {
        let (possible, after) = match self {
            Did::Read(seen) => (seen == content, content),
            Did::Put(write) => (true, Some(write)),
            Did::Swap { expected, write, instead: None } => (expected == content, write),
            Did::Swap { expected, instead: Some(seen), .. } => (seen == content && expected != content, content),
            Did::Delete(found) => (found == content.is_some(), None),
        };
        possible.then_some(after)
    }
}

/// A call: nothing that ended before it began can come after it.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub begin: u64,
    pub end: u64,
    pub did: Did,
}

/// Whether the calls on one object can be put in an order that explains each answer and that no clock contradicts.
/// After Wing and Gong: tries what may come next, and no state twice.
pub fn is_linearizable(calls: &[Call]) -> bool {
    let mut tried = HashSet::new();
    let mut stack = vec![(vec![false; calls.len()], None)];
    while let Some((done, content)) = stack.pop() {
        if !tried.insert((done.clone(), content)) {
            continue;
        }
        let left = || (0..calls.len()).filter(|call| !done[*call]);
        let Some(first_end) = left().map(|call| calls[call].end).min() else { return true };
        for call in left().filter(|call| calls[*call].begin < first_end) {
            if let Some(after) = calls[call].did.apply(content) {
                let mut done = done.clone();
                done[call] = true;
                stack.push((done, after));
            }
        }
    }
    false
}

fn content(entry: Option<&Arc<Entry>>) -> Content {
    entry.map(|entry| suite::value(std::str::from_utf8(&entry.bytes).unwrap()).parse().unwrap())
}

const CLIENTS: u64 = 6;
const CALLS: u64 = 60;
const KEYS: usize = 3;

/// Clients at work, each on any object, as they know it.
async fn work(store: &dyn Store, kind: &Kind, client: u64, clock: &AtomicU64) -> Vec<(usize, Call, Option<Revision>)> {
    let mut dice = StdRng::seed_from_u64(rand::random());
    let mut known: [Option<Arc<Entry>>; KEYS] = [const { None }; KEYS];
    let mut calls = Vec::new();
    for number in 0..CALLS {
        let object = dice.random_range(0..KEYS);
        let key = kind.key(object.to_string());
        let written = client * CALLS + number;
        let raw = Bytes::from(written.to_string());
        let expected = content(known[object].as_ref());
        let expect = known[object].as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        let write = Op::Put { raw, ttl: None };
        let begin = clock.fetch_add(1, Ordering::SeqCst);
        let (did, seen, revision) = match dice.random_range(0..10) {
            0..3 => {
                let seen = store.get(&key, At::Latest).await.unwrap().value;
                (Did::Read(content(seen.as_ref())), seen, None)
            }
            3 => {
                let entry = store.commit(Change { key, expect: Expect::Any, op: write }).await.unwrap().committed().unwrap();
                let revision = entry.revision;
                (Did::Put(written), Some(entry), Some(revision))
            }
            4 => match store.commit(Change { key, expect: Expect::Any, op: Op::Delete }).await.unwrap() {
                Outcome::Committed(entry) => (Did::Delete(true), None, Some(entry.revision)),
                Outcome::Lost { .. } => (Did::Delete(false), None, None),
            },
            dice => {
                // What is not there cannot be deleted, so that is not tried.
                let deletes = dice == 5 && expected.is_some();
                let (op, write) = if deletes { (Op::Delete, None) } else { (write, Some(written)) };
                match store.commit(Change { key, expect, op }).await.unwrap() {
                    Outcome::Committed(entry) => {
                        let revision = entry.revision;
                        (Did::Swap { expected, write, instead: None }, (!deletes).then_some(entry), Some(revision))
                    }
                    Outcome::Lost { current } => (Did::Swap { expected, write, instead: Some(content(current.as_ref())) }, current, None),
                }
            }
        };
        let end = clock.fetch_add(1, Ordering::SeqCst);
        known[object] = seen;
        calls.push((object, Call { begin, end, did }, revision));
    }
    calls
}

/// Lets clients work at the same time on a store and checks what they saw. It must have been opened with the suite's stamp.
pub async fn check(store: Arc<dyn Store>) {
    let kind = Kind::new(format!("/registry/histories-{:016x}/", rand::random::<u64>()));
    let clock = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (store, kind, clock) = (store.clone(), kind.clone(), clock.clone());
            tokio::spawn(async move { work(&*store, &kind, client, &clock).await })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    for object in 0..KEYS {
        let calls: Vec<Call> = all.iter().filter(|(of, ..)| *of == object).map(|(_, call, _)| *call).collect();
        assert!(is_linearizable(&calls), "no order explains {calls:#?}");
    }
    // Revisions are unique, and grow with time over all objects.
    let mut writes: Vec<(Revision, Call)> = all.iter().filter_map(|(_, call, revision)| Some(((*revision)?, *call))).collect();
    writes.sort_by_key(|(revision, _)| *revision);
    assert!(writes.windows(2).all(|pair| pair[0].0 < pair[1].0), "a revision came twice");
    let mut latest_begin = 0;
    for (revision, call) in writes {
        assert!(call.end > latest_begin, "{revision} had ended before an older one began");
        latest_begin = latest_begin.max(call.begin);
    }
}
