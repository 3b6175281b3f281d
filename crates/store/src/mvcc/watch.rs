//! Watches: cursors into the one history.
//!
//! A watcher has no queue. It registers what it is interested in, and a change marks it with the first
//! revision that it has not taken yet; when it gets to run, it reads on from there. So a slow client
//! falls behind alone, one that nothing happens for never does, and a change wakes only those whom it
//! concerns.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use parking_lot::RwLockWriteGuard;

use super::{KindState, Mvcc, State};
use crate::{Entry, Event, Prefix, Revision, Scope, WatchError};

/// Which changes under its prefix a watcher is woken for and gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    #[default]
    All,
    /// Those where this selectable field has this value before or after the change, such as
    /// `spec.nodeName`. The reader tells entering and leaving apart by the two versions.
    Field {
        /// Name of the field in the header.
        name: Arc<str>,
        /// Its value.
        value: Box<str>,
    },
}

/// How many events [`Changes::next`] takes at once.
const BATCH: usize = 64;

/// The registration of one watcher.
pub(super) struct Waiter {
    prefix: Prefix,
    filter: Filter,
    /// The first revision that concerns this watcher and that it has not taken; 0 if there is none.
    /// Changes only under the lock of the state: marks under its write lock, takes under its read lock.
    pending: AtomicU64,
    waker: AtomicWaker,
}

impl Waiter {
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    fn concerns(&self, event: &Event) -> bool {
        let has = |entry: &Entry| match &self.filter {
            Filter::All => true,
            Filter::Field { name, value } => entry.header.field(name) == &**value,
        };
        self.prefix.covers_rest(&event.entry.key.rest)
            && (has(&event.entry) || event.previous.as_ref().is_some_and(|previous| has(previous)))
    }
}

/// The watchers of one kind by what they wait for.
#[derive(Default)]
pub(super) struct Watchers {
    all: Waiters,
    namespaces: HashMap<Arc<str>, Waiters>,
    names: HashMap<Arc<str>, Waiters>,
    /// By name of the field, then by its value.
    fields: HashMap<Arc<str>, HashMap<Box<str>, Waiters>>,
}

type Waiters = Vec<Arc<Waiter>>;

impl Watchers {
    fn add(&mut self, waiter: Arc<Waiter>) {
        let list = match (&waiter.filter, &waiter.prefix.scope) {
            (Filter::Field { name, value }, _) => self.fields.entry(name.clone()).or_default().entry(value.clone()).or_default(),
            (Filter::All, Scope::Kind) => &mut self.all,
            (Filter::All, Scope::Namespace(namespace)) => self.namespaces.entry(namespace.clone()).or_default(),
            (Filter::All, Scope::Name(name)) => self.names.entry(name.clone()).or_default(),
        };
        list.push(waiter);
    }

    fn remove(&mut self, waiter: &Arc<Waiter>) {
        let take = |list: &mut Waiters| {
            list.retain(|other| !Arc::ptr_eq(other, waiter));
            list.is_empty()
        };
        let take_from = |lists: &mut HashMap<Arc<str>, Waiters>, key: &Arc<str>| {
            if lists.get_mut(key).is_some_and(take) {
                lists.remove(key);
            }
        };
        match (&waiter.filter, &waiter.prefix.scope) {
            (Filter::Field { name, value }, _) => {
                let Some(values) = self.fields.get_mut(name) else {
                    return;
                };
                if values.get_mut(value).is_some_and(take) {
                    values.remove(value);
                }
                if values.is_empty() {
                    self.fields.remove(name);
                }
            }
            (Filter::All, Scope::Kind) => {
                take(&mut self.all);
            }
            (Filter::All, Scope::Namespace(namespace)) => take_from(&mut self.namespaces, namespace),
            (Filter::All, Scope::Name(name)) => take_from(&mut self.names, name),
        }
    }

    /// Marks everyone whom the event concerns, and adds to `wake` those who were not marked yet.
    pub(super) fn mark(&self, event: &Event, wake: &mut Vec<Arc<Waiter>>) {
        let mut mark = |waiter: &Arc<Waiter>| {
            let none = waiter.pending.compare_exchange(0, event.revision.0, Ordering::Relaxed, Ordering::Relaxed);
            if none.is_ok() {
                wake.push(waiter.clone());
            }
        };
        self.all.iter().for_each(&mut mark);
        let rest = &*event.entry.key.rest;
        if let Some(slash) = rest.find('/').filter(|_| !self.namespaces.is_empty()) {
            self.namespaces.get(&rest[..=slash]).into_iter().flatten().for_each(&mut mark);
        }
        if !self.names.is_empty() {
            self.names.get(rest).into_iter().flatten().for_each(&mut mark);
        }
        for (name, values) in &self.fields {
            let now = event.entry.header.field(name);
            let before = event.previous.as_ref().map(|previous| previous.header.field(name));
            for value in [Some(now), before.filter(|before| *before != now)].into_iter().flatten() {
                let waiters = values.get(value).into_iter().flatten();
                waiters.filter(|waiter| waiter.prefix.covers_rest(rest)).for_each(&mut mark);
            }
        }
    }

    pub(super) fn everyone(&self) -> impl Iterator<Item = Arc<Waiter>> {
        let by_field = self.fields.values().flat_map(HashMap::values);
        let lists = self.namespaces.values().chain(self.names.values()).chain(by_field);
        self.all.iter().chain(lists.flatten()).cloned()
    }
}

/// An open watch. Dropping it unregisters it.
pub struct Changes {
    mvcc: Arc<Mvcc>,
    waiter: Arc<Waiter>,
    /// Everything up to here was taken or does not concern this watcher.
    taken: Revision,
    /// Taken but not given out yet, by `next`.
    buffer: VecDeque<Arc<Event>>,
}

impl Changes {
    pub(super) fn open(mvcc: Arc<Mvcc>, prefix: Prefix, after: Revision, filter: Filter) -> Result<Changes, WatchError> {
        let waiter = Arc::new(Waiter { prefix, filter, pending: AtomicU64::new(0), waker: AtomicWaker::new() });
        {
            let mut state = mvcc.state.write();
            let floor = state.watch_floor(&waiter.prefix.kind);
            if state.closed {
                return Err(WatchError::Closed);
            }
            if after < floor {
                return Err(WatchError::TooOld { floor });
            }
            let index = state.index(&waiter.prefix.kind);
            let first = index.after(after).find(|event| waiter.concerns(event));
            waiter.pending.store(first.map_or(0, |event| event.revision.0), Ordering::Relaxed);
            state.kind(&waiter.prefix.kind).watchers.add(waiter.clone());
            mvcc.count_watchers(state, 1);
        }
        Ok(Changes { mvcc, waiter, taken: after, buffer: VecDeque::new() })
    }

    /// The next change, or why there will be none.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchError> {
        poll_fn(|context| self.poll_next_event(context)).await
    }

    /// The next changes, at least one and about `max` at most: those of one revision stay together.
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatchError> {
        poll_fn(|context| self.poll_batch(context, max)).await
    }

    /// The changes that are there already, possibly none.
    pub fn ready(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatchError> {
        if self.buffer.is_empty() { self.take(max) } else { Ok(self.buffer.drain(..).collect()) }
    }

    /// [`Changes::next_batch`] for hand-written futures.
    pub fn poll_batch(&mut self, context: &mut Context<'_>, max: usize) -> Poll<Result<Vec<Arc<Event>>, WatchError>> {
        self.waiter.waker.register(context.waker());
        match self.ready(max) {
            Ok(events) if events.is_empty() => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    /// [`Changes::next`] for hand-written futures.
    pub fn poll_next_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Arc<Event>, WatchError>> {
        if self.buffer.is_empty() {
            match self.poll_batch(context, BATCH) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(batch) => self.buffer = batch?.into(),
            }
        }
        Poll::Ready(Ok(self.buffer.pop_front().expect("a batch has at least one event")))
    }

    /// The revision up to which everything was given out: what a bookmark may say.
    pub fn progress(&mut self) -> Revision {
        if let Some(next) = self.buffer.front() {
            return Revision(next.revision.0 - 1);
        }
        let state = self.mvcc.state.read();
        match self.waiter.pending.load(Ordering::Relaxed) {
            0 => self.taken = self.taken.max(state.revision),
            pending => self.taken = self.taken.max(Revision(pending - 1)),
        }
        self.taken
    }

    fn take(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatchError> {
        let state = self.mvcc.state.read();
        if state.closed {
            return Err(WatchError::Closed);
        }
        let pending = Revision(self.waiter.pending.load(Ordering::Relaxed));
        let mut events = Vec::new();
        if pending == Revision::ZERO {
            self.taken = self.taken.max(state.revision);
            return Ok(events);
        }
        let kind = &self.waiter.prefix.kind;
        if state.kinds.get(kind).is_some_and(|kind| pending <= kind.forgotten) {
            let floor = state.watch_floor(kind);
            return Err(WatchError::TooOld { floor });
        }
        // A watch that waits for the future is marked by changes before it, too.
        let from = self.taken.max(Revision(pending.0 - 1));
        let index = state.kinds.get(&self.waiter.prefix.kind).and_then(|kind: &KindState| kind.index.as_ref());
        let index = index.expect("a kind with a watcher is indexed");
        let mut next = Revision::ZERO;
        for event in index.after(from).filter(|event| self.waiter.concerns(event)) {
            if events.len() >= max && event.revision > self.taken {
                next = event.revision;
                break;
            }
            self.taken = event.revision;
            events.push(event.clone());
        }
        if next == Revision::ZERO {
            self.taken = self.taken.max(state.revision);
        }
        self.waiter.pending.store(next.0, Ordering::Relaxed);
        Ok(events)
    }
}

impl Stream for Changes {
    type Item = Result<Arc<Event>, WatchError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_next_event(context).map(Some)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut state = self.mvcc.state.write();
        if let Some(kind) = state.kinds.get_mut(&self.waiter.prefix.kind) {
            kind.watchers.remove(&self.waiter);
        }
        self.mvcc.count_watchers(state, -1);
    }
}

impl Mvcc {
    fn count_watchers(&self, _held: RwLockWriteGuard<'_, State>, change: i64) {
        self.metrics.watchers.set(self.metrics.watchers.get().wrapping_add_signed(change));
    }
}
