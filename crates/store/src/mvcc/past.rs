//! States of the past: the current map with the events since then undone.
//!
//! What a read costs grows with the number of changes of its kind since that revision, not with the
//! number of objects, and nothing has to be kept for it but the history.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use super::snapshot::{collect, first};
use super::{Map, Mvcc, State};
use crate::{Entry, Found, Key, Kind, Limit, Page, Range, ReadError, Revision};

/// What the changed keys held before: nothing, or the version of that time.
type Undo = BTreeMap<Arc<str>, Option<Arc<Entry>>>;

impl Mvcc {
    pub(super) fn get_past(&self, key: &Key, revision: Revision) -> Result<Found<Option<Arc<Entry>>>, ReadError> {
        self.past(&key.kind, revision, |state| {
            let index = state.kinds.get(&key.kind).and_then(|kind| kind.index.as_ref());
            let mut since = index.into_iter().flat_map(|index| index.after(revision));
            let value = match since.find(|event| event.entry.key.rest == key.rest) {
                Some(undone) => undone.previous.clone(),
                None => state.current(key).cloned(),
            };
            Found { revision, value }
        })
    }

    pub(super) fn list_past(&self, range: &Range, revision: Revision, limit: Limit) -> Result<Found<Page>, ReadError> {
        let (map, undo) = self.past(&range.prefix.kind, revision, |state| {
            let mut undo = Undo::new();
            let Some(kind) = state.kinds.get(&range.prefix.kind) else {
                return (Map::default(), undo);
            };
            for event in kind.index.iter().flat_map(|index| index.after(revision)) {
                if range.prefix.covers_rest(&event.entry.key.rest) {
                    undo.entry(event.entry.key.rest.clone()).or_insert_with(|| event.previous.clone());
                }
            }
            (kind.map.clone(), undo)
        })?;
        let from = first(range);
        let current = map.range::<_, str>((from, Bound::Unbounded)).map(|(_, entry)| entry);
        let current = current.take_while(|entry| range.prefix.covers_rest(&entry.key.rest));
        let undone = undo.range::<str, _>((from, Bound::Unbounded));
        let merged = Merged { current: current.peekable(), undone: undone.peekable() };
        Ok(Found { revision, value: collect(merged, limit) })
    }

    /// Reads under the lock, after making sure that the revision is one that can be restored and that
    /// the kind's events are indexed.
    fn past<T>(&self, kind: &Kind, asked: Revision, read: impl Fn(&State) -> T) -> Result<T, ReadError> {
        let check = |state: &State| {
            let (floor, now) = (state.floor(), state.revision);
            match asked {
                _ if asked > now => Err(ReadError::Future { asked, now }),
                _ if asked < floor => Err(ReadError::TooOld { asked, floor }),
                _ => Ok(()),
            }
        };
        {
            let state = self.state.read();
            check(&state)?;
            if asked == state.revision || state.kinds.get(kind).is_none_or(|kind| kind.index.is_some()) {
                return Ok(read(&state));
            }
        }
        let mut state = self.state.write();
        check(&state)?;
        state.index(kind);
        Ok(read(&state))
    }
}

/// The current entries with the undone ones in their places, in the order of their keys.
struct Merged<'a, C: Iterator<Item = &'a Arc<Entry>>, U: Iterator<Item = (&'a Arc<str>, &'a Option<Arc<Entry>>)>> {
    current: Peekable<C>,
    undone: Peekable<U>,
}

impl<'a, C, U> Iterator for Merged<'a, C, U>
where
    C: Iterator<Item = &'a Arc<Entry>>,
    U: Iterator<Item = (&'a Arc<str>, &'a Option<Arc<Entry>>)>,
{
    type Item = Arc<Entry>;

    fn next(&mut self) -> Option<Arc<Entry>> {
        loop {
            let current = self.current.peek().map(|entry| &entry.key.rest);
            let Some((undone, _)) = self.undone.peek() else {
                return self.current.next().cloned();
            };
            if current.is_some_and(|current| current < undone) {
                return self.current.next().cloned();
            }
            // An undone key that is there now is replaced; one that is not comes back.
            self.current.next_if(|entry| entry.key.rest == **undone);
            if let (_, Some(version)) = self.undone.next().expect("just peeked") {
                return Some(version.clone());
            }
        }
    }
}
