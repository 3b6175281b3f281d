//! Current and recent versions of everything, in memory, with watches on them.
//!
//! Both stores keep what they know here: the embedded one feeds it from its committer, after the sync;
//! the etcd one from etcd's watch. There is one ordered copy-on-write map per kind, so taking a
//! snapshot is copying a pointer, and one history of events in revision order. A state of the past is
//! the current map with the events since then undone.
//!
//! # Guarantees
//!
//! * Readers hold the lock for a lookup or for copying a pointer, never for a walk.
//! * A watcher costs its registration; there is no queue per watcher (see [`watch`]).

mod history;
mod past;
mod snapshot;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

pub use history::HistoryLimits;
pub use snapshot::Snapshot;
pub use watch::{Changes, Filter};

use crate::metrics::Metrics;
use crate::{
    At, CompactError, DerivedCache, Entry, Event, EventKind, Found, Key, Kind, Limit, Page, Prefix, Range, ReadError, Revision, WatchError,
};
use history::{History, Index};
use watch::Watchers;

/// The objects of one kind by the rest of their keys.
pub(crate) type Map = imbl::OrdMap<Arc<str>, Arc<Entry>>;

/// The versions of one store. See the module.
pub struct Mvcc {
    state: RwLock<State>,
    derived: DerivedCache,
    metrics: Arc<Metrics>,
}

/// The watchers whom changes concern. They are woken when this is dropped.
#[must_use]
pub(crate) struct Woken(Vec<Arc<watch::Waiter>>);

impl Drop for Woken {
    fn drop(&mut self) {
        for waiter in &self.0 {
            waiter.wake();
        }
    }
}

struct State {
    /// The newest change that is in here.
    revision: Revision,
    kinds: HashMap<Kind, KindState>,
    history: History,
    /// The end of the last gap in the history of any kind: what was before the start, what was
    /// compacted, and what `begin_gap` says.
    gap: Revision,
    live_bytes: usize,
    objects: u64,
    closed: bool,
}

#[derive(Default)]
struct KindState {
    map: Map,
    /// The kind's own events, once somebody has asked for them.
    index: Option<Index>,
    /// The newest of them that is not kept any more.
    forgotten: Revision,
    watchers: Watchers,
}

impl Mvcc {
    /// A store's memory with these objects, as they were at `revision`, and no history.
    pub fn new(
        revision: Revision,
        objects: impl IntoIterator<Item = Arc<Entry>>,
        limits: HistoryLimits,
        metrics: Arc<Metrics>,
    ) -> Arc<Mvcc> {
        let mut state = State {
            revision,
            kinds: HashMap::new(),
            history: History::new(revision, limits),
            gap: revision,
            live_bytes: 0,
            objects: 0,
            closed: false,
        };
        for entry in objects {
            state.put(entry);
        }
        let mvcc = Mvcc { state: RwLock::new(state), derived: DerivedCache::default(), metrics };
        mvcc.publish(&mvcc.state.read());
        Arc::new(mvcc)
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.state.read().revision
    }

    /// The oldest revision whose state can be read. A watch can begin after it in any case.
    pub fn floor(&self) -> Revision {
        self.state.read().floor()
    }

    /// Bytes of memory that the newest versions hold.
    pub fn live_bytes(&self) -> usize {
        self.state.read().live_bytes
    }

    /// Other encodings of the entries in here.
    pub fn derived(&self) -> &DerivedCache {
        &self.derived
    }

    /// The newest version of one object.
    pub fn get(&self, key: &Key) -> Found<Option<Arc<Entry>>> {
        let state = self.state.read();
        Found { revision: state.revision, value: state.current(key).cloned() }
    }

    /// The version of one object in the state that `at` asks for.
    pub fn get_at(&self, key: &Key, at: At) -> Result<Found<Option<Arc<Entry>>>, ReadError> {
        if let At::Exact(revision) = at {
            return self.get_past(key, revision);
        }
        let found = self.get(key);
        reached(at, found.revision)?;
        Ok(found)
    }

    /// A page of the state that `at` asks for.
    pub fn list_at(&self, range: &Range, at: At, limit: Limit) -> Result<Found<Page>, ReadError> {
        if let At::Exact(revision) = at {
            return self.list_past(range, revision, limit);
        }
        let snapshot = self.snapshot(&range.prefix.kind);
        reached(at, snapshot.revision())?;
        Ok(Found { revision: snapshot.revision(), value: snapshot.page(range, limit) })
    }

    /// All objects of a kind as they are now: a pointer to a state that does not change any more.
    pub fn snapshot(&self, kind: &Kind) -> Snapshot {
        let state = self.state.read();
        let map = state.kinds.get(kind).map(|kind| kind.map.clone()).unwrap_or_default();
        Snapshot::new(state.revision, map)
    }

    /// All objects of all kinds, in one state.
    pub fn everything(&self) -> (Revision, Vec<(Kind, Snapshot)>) {
        let state = self.state.read();
        let snapshot = |kind: &KindState| Snapshot::new(state.revision, kind.map.clone());
        (state.revision, state.kinds.iter().map(|(name, kind)| (name.clone(), snapshot(kind))).collect())
    }

    /// Every change under `prefix` after revision `after` that `filter` lets through.
    pub fn watch(self: &Arc<Self>, prefix: Prefix, after: Revision, filter: Filter) -> Result<Changes, WatchError> {
        Changes::open(self.clone(), prefix, after, filter)
    }

    /// Forgets the history up to and including `before`.
    pub fn compact(&self, before: Revision) -> Result<(), CompactError> {
        let forgotten = {
            let mut state = self.state.write();
            if before > state.revision {
                return Err(CompactError::Future { asked: before, now: state.revision });
            }
            let forgotten = state.history.forget(before);
            state.gap = state.gap.max(before);
            state.drop_from_indexes(&forgotten);
            self.publish(&state);
            forgotten
        };
        drop(forgotten);
        Ok(())
    }

    /// Takes in committed changes, in the order of their revisions. Whoever waits for them is woken
    /// by the caller, after it has done what is more urgent.
    pub(crate) fn apply(&self, events: Vec<Arc<Event>>) -> Woken {
        let mut woken = Woken(Vec::new());
        let Some(last) = events.last() else {
            return woken;
        };
        let now = last.time;
        let forgotten = {
            let mut state = self.state.write();
            for event in events {
                state.apply(event, &mut woken.0);
            }
            let forgotten = state.history.trim(now);
            state.drop_from_indexes(&forgotten);
            self.publish(&state);
            forgotten
        };
        // Old versions are freed here, where nobody waits for the lock.
        drop(forgotten);
        woken
    }

    /// Nothing has happened up to `revision` but what was applied.
    #[cfg(feature = "etcd")]
    pub(crate) fn advance(&self, revision: Revision) {
        let mut state = self.state.write();
        if revision > state.revision {
            state.revision = revision;
            self.publish(&state);
        }
    }

    /// What is applied from now on up to `revision` leaves out versions that nobody knows: who watches
    /// already is told what has become of everything, but no state before `revision` can be read, and
    /// no watch can begin there.
    #[cfg(feature = "etcd")]
    pub(crate) fn begin_gap(&self, revision: Revision) {
        let mut state = self.state.write();
        state.gap = state.gap.max(revision);
    }

    /// Ends all watches. What is in here stays readable.
    pub(crate) fn close(&self) {
        let waiters = {
            let mut state = self.state.write();
            state.closed = true;
            state.kinds.values().flat_map(|kind| kind.watchers.everyone()).collect::<Vec<_>>()
        };
        for waiter in waiters {
            waiter.wake();
        }
    }

    fn publish(&self, state: &State) {
        self.derived.set_live(state.live_bytes);
        self.metrics.revision.set(state.revision.0);
        self.metrics.objects.set(state.objects);
        self.metrics.live_bytes.set(state.live_bytes as u64);
        self.metrics.history_floor.set(state.floor().0);
        self.metrics.history_events.set(state.history.len() as u64);
        self.metrics.history_bytes.set(state.history.bytes() as u64);
    }
}

impl State {
    /// The oldest state that can be read.
    fn floor(&self) -> Revision {
        self.history.floor().max(self.gap)
    }

    /// The oldest revision after which a watch of one kind misses nothing. Where little happens, that
    /// is older than the oldest state: who comes back to a quiet kind need not list it again.
    fn watch_floor(&self, kind: &Kind) -> Revision {
        let forgotten = self.kinds.get(kind).map_or(Revision::ZERO, |kind| kind.forgotten);
        forgotten.max(self.gap)
    }

    fn current(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.kinds.get(&key.kind)?.map.get(&*key.rest)
    }

    fn kind(&mut self, kind: &Kind) -> &mut KindState {
        // Looked up twice, so that the usual case makes no second handle of the name.
        if !self.kinds.contains_key(kind) {
            self.kinds.insert(kind.clone(), KindState::default());
        }
        self.kinds.get_mut(kind).expect("just inserted")
    }

    fn put(&mut self, entry: Arc<Entry>) {
        self.live_bytes += entry.weight();
        let kind = self.kind(&entry.key.kind);
        let replaced = kind.map.insert(entry.key.rest.clone(), entry);
        match replaced {
            Some(replaced) => self.live_bytes -= replaced.weight(),
            None => self.objects += 1,
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(kind) = self.kinds.get_mut(&key.kind) else {
            return;
        };
        if let Some(removed) = kind.map.remove(&*key.rest) {
            self.live_bytes -= removed.weight();
            self.objects -= 1;
        }
    }

    fn apply(&mut self, event: Arc<Event>, wake: &mut Vec<Arc<watch::Waiter>>) {
        match event.kind {
            EventKind::Put => self.put(event.entry.clone()),
            EventKind::Delete => self.remove(&event.entry.key),
        }
        self.revision = event.revision;
        self.history.push(event.clone());
        let kind = self.kind(&event.entry.key.kind);
        kind.watchers.mark(&event, wake);
        if let Some(index) = &mut kind.index {
            index.push(event);
        }
    }

    fn drop_from_indexes(&mut self, forgotten: &[Arc<Event>]) {
        for event in forgotten {
            let Some(kind) = self.kinds.get_mut(&event.entry.key.kind) else {
                continue;
            };
            kind.forgotten = event.revision;
            if let Some(index) = &mut kind.index {
                index.forget(event.revision);
            }
        }
    }

    /// The events of one kind, indexed from now on.
    fn index(&mut self, kind: &Kind) -> &Index {
        if self.kind(kind).index.is_none() {
            let index = self.history.index(kind);
            self.kind(kind).index = Some(index);
        }
        self.kind(kind).index.as_ref().expect("just made")
    }
}

fn reached(at: At, now: Revision) -> Result<(), ReadError> {
    match at {
        At::NotOlderThan(asked) if asked > now => Err(ReadError::Future { asked, now }),
        _ => Ok(()),
    }
}
