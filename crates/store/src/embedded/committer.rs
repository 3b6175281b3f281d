//! The one thread that changes the store.
//!
//! ```text
//! callers    --change-->|                                 |--outcome-->
//! committer             | decide | write, sync | apply    |
//! disk                           |=============|
//! readers    ............ old state ............| new state .........
//! ```
//!
//! Deciding happens against the state that the batch makes so far, but nothing of the batch can be seen
//! before it is durable: neither by readers, nor in the answer to who lost against it.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::expiry::{Clock, Expiry, millis};
use super::frame::FrameBuffer;
use super::log::{AppendError, Log};
use super::queue::{Queue, Request, Work};
use super::record;
use super::snapshotter::Snapshotter;
use crate::{Change, CommitError, Entry, Event, EventKind, Expect, Header, Key, Metrics, Mvcc, Op, Outcome, Revision, Stamp, StampError};

/// A batch is closed when it has this many bytes: more would only make those in it wait longer.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_CHANGES: usize = 4096;

/// When the disk was full as objects should have been deleted, they are tried again after this many
/// milliseconds.
const RETRY_EXPIRED: u64 = 1_000;

type Reply = oneshot::Sender<Result<Outcome, CommitError>>;

/// Everything that the thread owns.
pub(super) struct Committer {
    pub(super) mvcc: Arc<Mvcc>,
    pub(super) queue: Arc<Queue>,
    pub(super) log: Log,
    pub(super) expiry: Expiry,
    pub(super) stamp: Stamp,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) snapshotter: Snapshotter,
    pub(super) frame: FrameBuffer,
}

/// What a batch makes of the state, before it is durable.
struct Draft {
    time: u64,
    next: Revision,
    events: Vec<Arc<Event>>,
    /// The keys that the batch has changed, and their new versions.
    changed: HashMap<Key, Option<Arc<Entry>>>,
    replies: Vec<(Reply, Outcome)>,
}

/// A change was decided against something that is not durable yet, or makes such a thing.
struct Decision {
    outcome: Outcome,
    depends_on_batch: bool,
}

impl Committer {
    /// Works until the queue is closed and empty, or a write fails.
    pub(super) fn run(mut self) {
        let mut spare = Vec::new();
        loop {
            let due = self.expiry.next().map(|time| self.clock.instant(time));
            let mut requests = match self.queue.wait(due, std::mem::take(&mut spare)) {
                Work::Requests(requests) => requests,
                Work::Due => Vec::new(),
                Work::Ended => break,
            };
            let mut waiting = requests.drain(..).peekable();
            loop {
                if let Err(why) = self.batch(&mut waiting) {
                    self.fail(&why, waiting.collect());
                    return;
                }
                if waiting.peek().is_none() {
                    break;
                }
            }
            drop(waiting);
            if requests.capacity() <= 1024 {
                spare = requests;
            }
        }
        self.log.trim();
    }

    /// Commits as many of the waiting changes as belong into one batch.
    fn batch(&mut self, waiting: &mut impl Iterator<Item = Request>) -> Result<(), String> {
        let mut draft = self.begin();
        for (key, revision) in self.expiry.due(draft.time) {
            let change = Change::delete(key, revision);
            if let Ok(Decision { outcome: Outcome::Committed(_), .. }) = self.decide(&mut draft, &change, &Bytes::new()) {
                self.metrics.expired.add(1);
            }
        }
        while self.frame.payload_len() < BATCH_BYTES && draft.events.len() < BATCH_CHANGES {
            let Some(request) = waiting.next() else { break };
            match self.decide(&mut draft, &request.change, &request.stored) {
                Ok(decision) if decision.depends_on_batch => draft.replies.push((request.reply, decision.outcome)),
                // A caller that has gone away is not told.
                Ok(decision) => drop(request.reply.send(Ok(decision.outcome))),
                Err(error) => drop(request.reply.send(Err(error))),
            }
        }
        if draft.events.is_empty() { Ok(()) } else { self.finish(draft) }
    }

    fn begin(&mut self) -> Draft {
        let (time, next) = (self.clock.now(), self.mvcc.revision().next());
        record::begin_batch(&mut self.frame, time, next);
        Draft { time, next, events: Vec::new(), changed: HashMap::new(), replies: Vec::new() }
    }

    /// Makes a batch durable, then visible, then known to its callers.
    fn finish(&mut self, draft: Draft) -> Result<(), String> {
        let begun = Instant::now();
        match self.log.append(&mut self.frame) {
            Ok(()) => {}
            Err(AppendError::Full) => {
                let replaced = draft.events.iter().filter_map(|event| event.previous.as_ref());
                for expired in replaced.filter(|entry| entry.expires.is_some_and(|at| at.get() <= draft.time)) {
                    self.expiry.postpone(expired, draft.time + RETRY_EXPIRED);
                }
                for (reply, _) in draft.replies {
                    drop(reply.send(Err(CommitError::NoSpace)));
                }
                return Ok(());
            }
            Err(AppendError::Broken(why)) => {
                for (reply, _) in draft.replies {
                    drop(reply.send(Err(CommitError::Failed(why.clone()))));
                }
                return Err(why);
            }
        }
        self.metrics.sync.observe_duration(begun.elapsed());
        self.metrics.batch.observe(draft.events.len() as u64);
        for event in draft.events.iter().filter(|event| event.kind == EventKind::Put) {
            self.expiry.add(&event.entry);
        }
        let woken = self.mvcc.apply(draft.events);
        for (reply, outcome) in draft.replies {
            drop(reply.send(Ok(outcome)));
        }
        // A thousand watchers must not keep the writers waiting.
        drop(woken);
        self.metrics.log_bytes.set(self.log.size());
        self.snapshotter.after_batch(&mut self.log, &self.mvcc)
    }

    fn decide(&mut self, draft: &mut Draft, change: &Change, stored: &Bytes) -> Result<Decision, CommitError> {
        let drafted = if draft.changed.is_empty() { None } else { draft.changed.get(&change.key) };
        let depends_on_batch = drafted.is_some();
        let current = drafted.cloned().unwrap_or_else(|| self.mvcc.get(&change.key).value);
        let holds = match change.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Revision(revision) => current.as_ref().is_some_and(|current| current.revision == revision),
        };
        let revision = draft.next;
        let (kind, entry) = match (&change.op, &current) {
            _ if !holds => {
                return Ok(Decision { outcome: Outcome::Lost { current }, depends_on_batch });
            }
            (Op::Delete, None) => {
                return Ok(Decision { outcome: Outcome::Lost { current }, depends_on_batch });
            }
            (Op::Delete, Some(last)) => {
                let (bytes, header) = self.stamp(&last.key, last.bytes.clone(), revision)?;
                record::delete(&mut self.frame, &last.key);
                (EventKind::Delete, Entry::new(last.key.clone(), revision, last.created, bytes, header))
            }
            (Op::Put { raw, ttl }, current) => {
                let key = current.as_ref().map_or(&change.key, |current| &current.key);
                let created = current.as_ref().map_or(revision, |current| current.created);
                let (bytes, header) = self.stamp(key, raw.clone(), revision)?;
                let mut entry = Entry::new(key.clone(), revision, created, bytes, header);
                entry.expires = ttl.and_then(|ttl| NonZeroU64::new(draft.time.saturating_add(millis(ttl))));
                record::put(&mut self.frame, key, entry.expires, stored);
                (EventKind::Put, entry)
            }
        };
        let entry = Arc::new(entry);
        let now_there = (kind == EventKind::Put).then(|| entry.clone());
        draft.changed.insert(entry.key.clone(), now_there);
        draft.next = revision.next();
        let event = Event { revision, kind, entry: entry.clone(), previous: current, time: draft.time };
        draft.events.push(Arc::new(event));
        Ok(Decision { outcome: Outcome::Committed(entry), depends_on_batch: true })
    }

    /// A value that makes the stamp function panic must not end the committer with it.
    fn stamp(&self, key: &Key, raw: Bytes, revision: Revision) -> Result<(Bytes, Header), CommitError> {
        let stamped = catch_unwind(AssertUnwindSafe(|| (self.stamp)(key, raw, revision)));
        let stamped = stamped.unwrap_or_else(|_| Err(StampError("the stamp function panicked".into())));
        stamped.map_err(CommitError::Refused)
    }

    /// From now on the store can only be read.
    fn fail(&self, why: &str, waiting: Vec<Request>) {
        tracing::error!("the store is read-only: {why}");
        for request in waiting.into_iter().chain(self.queue.fail(why)) {
            drop(request.reply.send(Err(CommitError::Failed(why.to_owned()))));
        }
    }
}
