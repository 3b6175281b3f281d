//! Views of a few kinds that are always as new as the store: a cursor into its history that is drained
//! whenever the view is read.
//!
//! A role binding that was just acknowledged counts in the very next request, and nothing runs while
//! nobody asks: there is no task and no delay, unlike with an informer.

use std::sync::Arc;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use store::{Changes, Entry, Event, EventKind, Filter, Kind, Store, WatchError};

/// What is made of the objects of some kinds.
pub trait Projection: Send {
    /// Forgets everything; all objects are put again.
    fn clear(&mut self);
    /// An object is there now (with its version before, unless it is new or the view starts afresh).
    fn put(&mut self, entry: &Arc<Entry>, previous: Option<&Arc<Entry>>);
    /// An object is gone; its last version.
    fn remove(&mut self, entry: &Arc<Entry>);
}

/// A projection with its cursors.
pub struct Follow<P> {
    store: Arc<dyn Store>,
    kinds: Vec<Kind>,
    inner: Mutex<Inner<P>>,
}

struct Inner<P> {
    cursors: Vec<Changes>,
    projection: P,
    version: u64,
}

impl<P: Projection> Follow<P> {
    /// A view of these kinds; nothing is read before it is first used.
    pub fn new(store: Arc<dyn Store>, kinds: Vec<Kind>, projection: P) -> Follow<P> {
        Follow { store, kinds, inner: Mutex::new(Inner { cursors: Vec::new(), projection, version: 0 }) }
    }

    /// The view, including everything that is committed.
    pub fn read(&self) -> MappedMutexGuard<'_, P> {
        MutexGuard::map(self.caught_up(), |inner| &mut inner.projection)
    }

    /// The view with a number that grows whenever it changes.
    pub fn versioned<R>(&self, read: impl FnOnce(&mut P, u64) -> R) -> R {
        let mut inner = self.caught_up();
        let version = inner.version;
        read(&mut inner.projection, version)
    }

    fn caught_up(&self) -> MutexGuard<'_, Inner<P>> {
        let mut inner = self.inner.lock();
        if inner.cursors.is_empty() || inner.drain().is_err() {
            self.start(&mut inner);
        }
        inner
    }

    /// Reads everything anew: at first use, or when the history does not reach back to the cursor.
    fn start(&self, inner: &mut Inner<P>) {
        inner.cursors.clear();
        inner.projection.clear();
        inner.version += 1;
        for kind in &self.kinds {
            let snapshot = self.store.mvcc().snapshot(kind);
            for entry in snapshot.iter() {
                inner.projection.put(entry, None);
            }
            if let Ok(changes) = self.store.watch(kind.all(), snapshot.revision(), Filter::All) {
                inner.cursors.push(changes);
            }
        }
    }
}

impl<P: Projection> Inner<P> {
    fn drain(&mut self) -> Result<(), WatchError> {
        for cursor in &mut self.cursors {
            loop {
                let events = cursor.ready(256)?;
                if events.is_empty() {
                    break;
                }
                self.version += 1;
                for event in events {
                    apply(&mut self.projection, &event);
                }
            }
        }
        Ok(())
    }
}

fn apply(projection: &mut impl Projection, event: &Event) {
    match event.kind {
        EventKind::Put => projection.put(&event.entry, event.previous.as_ref()),
        EventKind::Delete => projection.remove(&event.entry),
    }
}
