//! All objects of one kind at one revision.

use std::ops::Bound;
use std::sync::Arc;

use super::Map;
use crate::{Entry, Limit, Page, Prefix, Range, Revision};

/// A state that does not change any more. Cheap to take, cheap to clone, walked without any lock.
#[derive(Clone)]
pub struct Snapshot {
    revision: Revision,
    map: Map,
}

impl Snapshot {
    pub(super) fn new(revision: Revision, map: Map) -> Snapshot {
        Snapshot { revision, map }
    }

    /// The revision of the state.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of objects of the kind.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The object with this `namespace/name`, or `name`.
    pub fn get(&self, rest: &str) -> Option<&Arc<Entry>> {
        self.map.get(rest)
    }

    /// All objects in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.map.values()
    }

    /// Those that `prefix` covers, which must be of this kind.
    pub fn under<'a>(&'a self, prefix: &'a Prefix) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.from(Bound::Included(prefix.lower_bound())).take_while(|entry| prefix.covers_rest(&entry.key.rest))
    }

    pub(super) fn from<'a>(&'a self, bound: Bound<&'a str>) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.map.range::<_, str>((bound, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// One page of `range`, whose prefix must be of this kind.
    pub fn page(&self, range: &Range, limit: Limit) -> Page {
        let from = first(range);
        let covered = self.from(from).take_while(|entry| range.prefix.covers_rest(&entry.key.rest));
        collect(covered.cloned(), limit)
    }
}

/// Where a range begins.
pub(super) fn first(range: &Range) -> Bound<&str> {
    let lower = range.prefix.lower_bound();
    match &range.start_after {
        Some(key) if *key.rest >= *lower => Bound::Excluded(&key.rest),
        _ => Bound::Included(lower),
    }
}

/// Fills a page from the entries of a range.
pub(super) fn collect(mut entries: impl Iterator<Item = Arc<Entry>>, limit: Limit) -> Page {
    let mut page = Page::default();
    page.entries.extend(entries.by_ref().take(limit.entries));
    if limit.count_remaining {
        let remaining = entries.count() as u64;
        page.more = remaining > 0;
        page.remaining = Some(remaining);
    } else {
        page.more = entries.next().is_some();
    }
    page
}
