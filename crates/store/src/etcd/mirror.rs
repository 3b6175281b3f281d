//! Keeps the memory of versions equal to etcd, by one watch on everything under the root.
//!
//! One watch and not one per kind: all kinds then have one history in one order, and a state that was
//! reached was reached by all of them. When the watch is lost it goes on where it stopped; when etcd
//! does not know that place any more, everything is read again and what differs becomes events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grpc::{Code, Failure};
use tokio::sync::{mpsc, watch};

use super::layout;
use super::link::{Link, malformed, told};
use super::proto::{KeyValue, RangeRequest, WatchEvent, WatchRequest, WatchResponse};
use crate::key::Kinds;
use crate::mvcc::Woken;
use crate::{Entry, Event, EventKind, Key, Mvcc, Revision};

/// Keys per page when everything is read.
const PAGE: u64 = 1000;

/// The task that does it.
pub(super) struct Mirror {
    pub(super) link: Arc<Link>,
    pub(super) mvcc: Arc<Mvcc>,
    pub(super) kinds: Kinds,
    /// Tells who waits for it how far it has come.
    pub(super) reached: watch::Sender<Revision>,
    /// Where questions about the progress are left.
    pub(super) questions: mpsc::Receiver<()>,
}

/// Why a watch ended.
enum End {
    /// It may go on on another connection.
    Lost(Failure),
    /// The place where it should go on is forgotten.
    Compacted,
}

/// Everything under the root, at one revision.
pub(super) async fn read_all(link: &Link, kinds: &mut Kinds) -> Result<(Revision, Vec<Arc<Entry>>), Failure> {
    let mut request = RangeRequest { key: layout::ROOT.into(), end: end_of(layout::ROOT).into(), limit: PAGE, ..RangeRequest::default() };
    let mut entries = Vec::new();
    loop {
        let page = link.range(&request).await?;
        request.revision = if request.revision == 0 { page.revision() } else { request.revision };
        if let Some(last) = page.kvs.last() {
            request.key = [&last.key[..], &[0]].concat().into();
        }
        entries.extend(page.kvs.iter().filter_map(|kv| {
            let key = layout::split(&kv.key, kinds)?;
            link.entry(key, kv).map(Arc::new)
        }));
        if !page.more {
            return Ok((Revision(request.revision), entries));
        }
    }
}

/// The end of the range of all keys that begin with `prefix`.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl Mirror {
    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut pause = Duration::from_millis(50);
        loop {
            let before = self.mvcc.revision();
            let end = match self.follow().await {
                End::Compacted => self.rebase().await.err(),
                End::Lost(failure) => Some(failure),
            };
            let Some(failure) = end else { continue };
            tracing::warn!("the watch on etcd ended after revision {}: {}", self.mvcc.revision(), told(&failure));
            *self.link.lost.lock() = Some(format!("the watch on etcd is lost: {}", told(&failure)));
            self.link.watch.turn_away();
            tokio::time::sleep(pause).await;
            let progressed = self.mvcc.revision() > before;
            pause = if progressed { Duration::from_millis(50) } else { (pause * 2).min(Duration::from_secs(2)) };
        }
    }

    async fn follow(&mut self) -> End {
        match self.follow_once().await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn follow_once(&mut self) -> Result<End, End> {
        let (requests, outgoing) = mpsc::unbounded_channel::<WatchRequest>();
        let start = self.mvcc.revision().next();
        let root = layout::ROOT;
        let request = super::proto::watch(root, end_of(root), start.0);
        // The other end is the stream itself.
        let _ = requests.send(request);
        let stream = self.link.watch.stream("/etcdserverpb.Watch/Watch", outgoing).await;
        let mut answers = stream.map_err(End::Lost)?;
        loop {
            let answer = tokio::select! {
                answer = answers.next::<WatchResponse>() => answer.map_err(End::Lost)?,
                Some(()) = self.questions.recv() => {
                    let _ = requests.send(super::proto::progress());
                    continue;
                }
            };
            let response = answer.ok_or_else(|| End::Lost(malformed()))?;
            if response.canceled {
                if response.compacted > 0 {
                    return Ok(End::Compacted);
                }
                let failure = Failure::new(Code::Unavailable, response.reason);
                return Ok(End::Lost(failure));
            }
            if response.created {
                *self.link.lost.lock() = None;
            }
            if response.events.is_empty() && !response.created {
                self.mvcc.advance(Revision(response.revision()));
            } else if !response.events.is_empty() {
                self.take(response.events);
            }
            self.reached.send_replace(self.mvcc.revision());
        }
    }

    fn take(&mut self, changes: Vec<WatchEvent>) {
        let time = now();
        let mut events = Vec::with_capacity(changes.len());
        // Versions that this batch makes, for changes that build on them.
        let mut made: HashMap<Key, Option<Arc<Entry>>> = HashMap::new();
        for WatchEvent { delete, kv } in changes {
            let kv = kv.unwrap_or_default();
            let Some(key) = layout::split(&kv.key, &mut self.kinds) else {
                continue;
            };
            let previous = made.get(&key).cloned().unwrap_or_else(|| self.mvcc.get(&key).value);
            let revision = Revision(kv.modified);
            let Some(event) = self.event(key, &kv, delete, previous, revision, time) else {
                continue;
            };
            let now_there = (event.kind == EventKind::Put).then(|| event.entry.clone());
            made.insert(event.entry.key.clone(), now_there);
            events.push(Arc::new(event));
        }
        drop(self.mvcc.apply(events));
    }

    fn event(&self, key: Key, kv: &KeyValue, delete: bool, previous: Option<Arc<Entry>>, revision: Revision, time: u64) -> Option<Event> {
        if delete {
            return self.deletion(&previous?, revision, time);
        }
        let key = previous.as_ref().map_or(key, |previous| previous.key.clone());
        let entry = Arc::new(self.link.entry(key, kv)?);
        Some(Event { revision, kind: EventKind::Put, entry, previous, time })
    }

    fn deletion(&self, last: &Arc<Entry>, revision: Revision, time: u64) -> Option<Event> {
        let entry = Arc::new(self.link.deleted(last, revision)?);
        Some(Event { revision, kind: EventKind::Delete, entry, previous: Some(last.clone()), time })
    }

    /// Reads everything again, and tells the watchers what is different.
    async fn rebase(&mut self) -> Result<(), Failure> {
        let (revision, entries) = read_all(&self.link, &mut self.kinds).await?;
        if revision < self.mvcc.revision() {
            let message = format!("etcd is at revision {revision}, behind {}", self.mvcc.revision());
            return Err(Failure::new(Code::Unavailable, message));
        }
        tracing::warn!("etcd has forgotten what happened since revision {}; read again at {revision}", self.mvcc.revision());
        let time = now();
        let there: HashSet<Key> = entries.iter().map(|entry| entry.key.clone()).collect();
        let mut events = Vec::new();
        for (_, snapshot) in self.mvcc.everything().1 {
            let gone = snapshot.iter().filter(|entry| !there.contains(&entry.key));
            // Nobody knows when each of them went, but by now they all have.
            events.extend(gone.filter_map(|last| self.deletion(last, revision, time)));
        }
        for entry in entries {
            let previous = self.mvcc.get(&entry.key).value;
            if previous.as_ref().is_none_or(|previous| previous.revision != entry.revision) {
                events.push(Event { revision: entry.revision, kind: EventKind::Put, entry, previous, time });
            }
        }
        events.sort_by_key(|event| event.revision);
        self.mvcc.begin_gap(revision);
        let woken: Woken = self.mvcc.apply(events.into_iter().map(Arc::new).collect());
        self.mvcc.advance(revision);
        self.reached.send_replace(self.mvcc.revision());
        drop(woken);
        Ok(())
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
