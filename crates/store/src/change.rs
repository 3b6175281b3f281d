//! What can be asked of a store, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{Entry, Key, Revision};

/// One compare-and-write.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object.
    pub key: Key,
    /// What must be there for the change to happen.
    pub expect: Expect,
    /// What to do.
    pub op: Op,
}

/// What a change expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No object.
    Absent,
    /// The version made by this revision.
    Revision(Revision),
    /// Anything. Deleting what is not there is still [`Outcome::Lost`].
    Any,
}

/// What a change does.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes the object. `raw` is what the [`Stamp`](crate::Stamp) function gets.
    Put {
        /// The value without revision.
        raw: Bytes,
        /// Deletes the object this long after the commit, unless it is put again.
        ttl: Option<Duration>,
    },
    /// Removes the object.
    Delete,
}

impl Change {
    /// Makes an object that must not be there yet.
    pub fn create(key: Key, raw: Bytes) -> Change {
        Change { key, expect: Expect::Absent, op: Op::Put { raw, ttl: None } }
    }

    /// Replaces the version made by `revision`.
    pub fn replace(key: Key, revision: Revision, raw: Bytes) -> Change {
        Change { key, expect: Expect::Revision(revision), op: Op::Put { raw, ttl: None } }
    }

    /// Removes the version made by `revision`.
    pub fn delete(key: Key, revision: Revision) -> Change {
        Change { key, expect: Expect::Revision(revision), op: Op::Delete }
    }

    /// Gives the object a time to live. Means nothing for a deletion.
    #[must_use]
    pub fn with_ttl(mut self, after: Duration) -> Change {
        if let Op::Put { ttl, .. } = &mut self.op {
            *ttl = Some(after);
        }
        self
    }
}

/// How a change ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is on disk. The new version, or the last one stamped with the revision of its deletion.
    Committed(Arc<Entry>),
    /// The expectation did not hold; nothing was done.
    Lost {
        /// What is there instead.
        current: Option<Arc<Entry>>,
    },
}

impl Outcome {
    /// The committed entry, if the race was won.
    pub fn committed(self) -> Option<Arc<Entry>> {
        match self {
            Outcome::Committed(entry) => Some(entry),
            Outcome::Lost { .. } => None,
        }
    }
}
