//! The store: every object of the cluster as bytes under a key, in one history of revisions.
//!
//! This crate exists so that there is exactly one copy of each object in the process: the entries that
//! it hands out are what the watch cache, the informers and the responses share. It never parses an
//! object. What must be known about one (uid, labels, owners, selectable fields) is made once per
//! version by the [`Stamp`] function that the opener gives, and travels as a typed [`Header`].
//!
//! [`Store`] has two implementations: [`embedded`] (in memory, with a durable log) and `etcd` (feature
//! `etcd`). Both keep what they know in [`mvcc`], so reads and watches behave the same; [`suite`] is
//! the list of behaviours that both are held to.
//!
//! # Guarantees
//!
//! * One revision counter for everything. Every committed change has a revision of its own, larger
//!   than all before it; it is never used twice, not even over a crash.
//! * A commit that returned `Committed` is on disk. Nobody ever reads a change that is not.
//! * A watch from revision `r` yields every change after `r`, in order, exactly once, or ends with
//!   [`WatchError::TooOld`].
//! * Deleting yields the last object, stamped with the revision of its deletion.

pub mod change;
pub mod derived;
pub mod embedded;
pub mod entry;
pub mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod header;
pub mod key;
pub mod metrics;
pub mod mvcc;
pub mod read;
pub mod suite;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use change::{Change, Expect, Op, Outcome};
pub use derived::{DerivedCache, Form};
pub use entry::{Entry, Event, EventKind};
pub use error::{CipherError, CommitError, CompactError, OpenError, ReadError, StampError, WatchError};
pub use header::{Header, OwnerRef};
pub use key::{Key, Kind, Prefix, Revision, Scope};
pub use metrics::Metrics;
pub use mvcc::{Changes, Filter, Mvcc, Snapshot};
pub use read::{At, Found, Limit, Page, Range};

/// Turns (key, value, revision) into the complete bytes of that version, which contain the revision as
/// `metadata.resourceVersion`, and its header.
///
/// # Assumptions
///
/// * It is called once per version, on the committer's thread (and on several threads at start), so
///   it is quick, does not wait, and depends on nothing but its arguments.
/// * It accepts its own output and then replaces the revision in it: the last object is stamped again
///   when it is deleted, and at start every object is stamped from its stored bytes.
/// * The bytes it returns own exactly their length of memory, for they stay as long as the object.
pub type Stamp = Arc<dyn Fn(&Key, Bytes, Revision) -> Result<(Bytes, Header), StampError> + Send + Sync>;

/// Encryption at rest: applied to values on their way to and from the disk (or etcd), never in memory.
///
/// What `seal` returns says by itself how `open` has to treat it, so that keys can rotate and values
/// written before encryption was turned on stay readable.
pub trait Cipher: Send + Sync {
    /// The form of `plain` that is written under `key`.
    fn seal(&self, key: &Key, plain: &Bytes) -> Result<Bytes, CipherError>;
    /// The value that `seal` was given.
    fn open(&self, key: &Key, stored: &Bytes) -> Result<Bytes, CipherError>;
}

/// Values are written as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Cipher for Plain {
    fn seal(&self, _: &Key, plain: &Bytes) -> Result<Bytes, CipherError> {
        Ok(plain.clone())
    }

    fn open(&self, _: &Key, stored: &Bytes) -> Result<Bytes, CipherError> {
        Ok(stored.clone())
    }
}

/// The store as everyone above it sees it. Six methods, all on bytes.
pub trait Store: Send + Sync {
    /// One object.
    fn get<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<Found<Option<Arc<Entry>>>, ReadError>>;

    /// The objects of a range in the order of their keys, all as they were at one revision.
    fn list(&self, range: Range, at: At, limit: Limit) -> BoxFuture<'_, Result<Found<Page>, ReadError>>;

    /// Compare and put, or compare and delete. A lost race is an outcome, not an error.
    ///
    /// The change stays queued when the returned future is dropped: it may still be committed.
    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Outcome, CommitError>>;

    /// Every change under `prefix` after revision `after`, as a cursor into the one history. A
    /// revision that has not been reached yet is waited for.
    fn watch(&self, prefix: Prefix, after: Revision, filter: Filter) -> Result<Changes, WatchError>;

    /// Forgets the history up to and including `before`. Watches and reads from older revisions fail
    /// from then on; a revision that is already forgotten is no error.
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), CompactError>>;

    /// The revision of the newest committed change.
    fn now(&self) -> BoxFuture<'_, Result<Revision, ReadError>>;

    /// What this process knows, without waiting: always the newest state in the embedded store, a
    /// state that may lag in etcd's.
    fn mvcc(&self) -> &Arc<Mvcc>;

    /// Whether others write to the same store, so that what this process knows may lag.
    fn is_shared(&self) -> bool {
        false
    }

    /// Waits until this process knows everything that was committed before, by whomever.
    fn catch_up(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Why the store cannot do its work at present, if it cannot: what a readiness check says.
    fn failure(&self) -> Option<String>;

    /// What the store counts about itself.
    fn metrics(&self) -> &Arc<Metrics>;

    /// Other encodings of entries, bounded and evictable.
    fn derived(&self) -> &DerivedCache {
        self.mvcc().derived()
    }
}
