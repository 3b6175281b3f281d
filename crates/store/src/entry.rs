//! Object versions and the events that make them.
//!
//! An entry is made once and then shared by everyone who needs that version: history, watch cache,
//! informers, responses. Nobody copies its bytes.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;

use crate::derived::DerivedSlot;
use crate::{Header, Key, Revision};

/// One version of one object.
#[derive(Debug)]
pub struct Entry {
    /// Its name in the store.
    pub key: Key,
    /// The change that made this version. For the entry of a deletion: the revision of the deletion.
    pub revision: Revision,
    /// The change that made the object.
    pub created: Revision,
    /// When it will be deleted, in milliseconds since 1970, if it was put with a time to live.
    pub expires: Option<NonZeroU64>,
    /// The complete encoded object, including its `resourceVersion`.
    pub bytes: Bytes,
    /// What is known about it without decoding.
    pub header: Header,
    pub(crate) derived: DerivedSlot,
}

impl Entry {
    /// An entry as the store makes it; also for readers that keep entries of their own, such as a
    /// cache that is fed over the network.
    pub fn new(key: Key, revision: Revision, created: Revision, bytes: Bytes, header: Header) -> Entry {
        Entry { key, revision, created, expires: None, bytes, header, derived: DerivedSlot::default() }
    }

    /// Bytes of memory that this version holds, roughly, without derived forms.
    pub fn weight(&self) -> usize {
        size_of::<Entry>() + 32 + self.key.rest.len() + self.bytes.len() + self.header.weight()
    }
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The object was created or replaced: created if there is no previous version.
    Put,
    /// The object was deleted.
    Delete,
}

/// One change in the history.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// What it did.
    pub kind: EventKind,
    /// The version that it made. For a deletion: the last object, stamped with this revision.
    pub entry: Arc<Entry>,
    /// The version that was there before.
    pub previous: Option<Arc<Entry>>,
    /// When it was committed, in milliseconds since 1970.
    pub time: u64,
}

impl Event {
    /// Whether the change made an object that was not there before.
    pub fn creates(&self) -> bool {
        self.kind == EventKind::Put && self.previous.is_none()
    }

    /// Memory that only the history keeps for this event.
    pub(crate) fn weight(&self) -> usize {
        let deleted = if self.kind == EventKind::Delete { self.entry.weight() } else { 0 };
        size_of::<Event>() + 16 + deleted + self.previous.as_ref().map_or(0, |previous| previous.weight())
    }
}
