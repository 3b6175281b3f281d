//! The embedded store: everything in memory, every change in a log on disk first.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::mvcc::HistoryLimits;
use crate::{
    At, Change, Changes, Cipher, CommitError, CompactError, Entry, Filter, Found, Key, Limit, Metrics, Mvcc, OpenError,
    Outcome, Page, Plain, Prefix, Range, ReadError, Revision, Stamp, Store, WatchError,
};

/// How to open an embedded store.
#[derive(Clone)]
pub struct Options {
    /// The data directory. Made if it does not exist.
    pub dir: PathBuf,
    /// Looks into each version once.
    pub stamp: Stamp,
    /// Encryption at rest.
    pub cipher: Arc<dyn Cipher>,
    /// How much of the past is kept.
    pub history: HistoryLimits,
    /// Version of this program, written into the files.
    pub writer: String,
    /// A snapshot is taken when the log has grown by this many bytes; `None` follows the size of what
    /// is stored.
    pub snapshot_after: Option<u64>,
}

impl Options {
    /// The usual ones.
    pub fn new(dir: impl Into<PathBuf>, stamp: Stamp, writer: impl Into<String>) -> Options {
        Options {
            dir: dir.into(),
            stamp,
            cipher: Arc::new(Plain),
            history: HistoryLimits::default(),
            writer: writer.into(),
            snapshot_after: None,
        }
    }
}

/// An open data directory. Dropping it ends the committer after the queued changes.
pub struct Embedded {
    mvcc: Arc<Mvcc>,
    metrics: Arc<Metrics>,
}

impl Embedded {
    /// Opens a data directory: reads the newest snapshot and the log behind it. Blocks.
    pub fn open(_options: Options) -> Result<Embedded, OpenError> {
        Err(OpenError::Unavailable("not there yet".into()))
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<Found<Option<Arc<Entry>>>, ReadError>> {
        Box::pin(async move { self.mvcc.get_at(key, at) })
    }

    fn list(&self, range: Range, at: At, limit: Limit) -> BoxFuture<'_, Result<Found<Page>, ReadError>> {
        Box::pin(async move { self.mvcc.list_at(&range, at, limit) })
    }

    fn commit(&self, _change: Change) -> BoxFuture<'_, Result<Outcome, CommitError>> {
        Box::pin(async move { Err(CommitError::Failed("not there yet".into())) })
    }

    fn watch(&self, prefix: Prefix, after: Revision, filter: Filter) -> Result<Changes, WatchError> {
        self.mvcc.watch(prefix, after, filter)
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), CompactError>> {
        Box::pin(async move { self.mvcc.compact(before) })
    }

    fn now(&self) -> BoxFuture<'_, Result<Revision, ReadError>> {
        Box::pin(async move { Ok(self.mvcc.revision()) })
    }

    fn mvcc(&self) -> &Arc<Mvcc> {
        &self.mvcc
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}
