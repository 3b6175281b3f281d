//! The embedded store: everything in memory, and every change in a log on disk before anyone sees it.
//!
//! ```text
//! commit -> queue -> committer -> log (write, sync) -> mvcc -> readers, watchers
//!                                  |
//!                                  snapshot now and then, in a thread of its own
//! ```
//!
//! A storage engine underneath would hold a second copy of what memory must hold anyway, and compact
//! on its own terms. The log is small enough to be tested at every byte.

mod committer;
mod dir;
mod expiry;
pub mod files;
mod frame;
mod log;
mod queue;
mod record;
mod recover;
mod snapshot;
mod snapshotter;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::oneshot;

use crate::mvcc::HistoryLimits;
use crate::{
    At, Change, Changes, Cipher, CommitError, CompactError, Entry, Filter, Found, Key, Limit, Metrics, Mvcc, Op, OpenError, Outcome, Page,
    Plain, Prefix, Range, ReadError, Revision, Stamp, Store, WatchError,
};
use committer::Committer;
use dir::Dir;
use expiry::{Clock, Expiry};
use files::{Disk, FileLayer};
use queue::{Queue, Request};
use snapshotter::Snapshotter;

/// The largest value. The API server allows a few MiB; this only keeps records far from their limit.
const MAX_VALUE: usize = 64 << 20;

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
    /// A snapshot is taken when the log has grown to this many bytes; `None` follows the size of what
    /// is stored.
    pub snapshot_after: Option<u64>,
    /// Where the files are.
    pub files: Arc<dyn FileLayer>,
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
            files: Arc::new(Disk),
        }
    }
}

/// An open data directory. Dropping it ends the committer after the queued changes, and blocks until
/// then.
pub struct Embedded {
    mvcc: Arc<Mvcc>,
    metrics: Arc<Metrics>,
    queue: Arc<Queue>,
    cipher: Arc<dyn Cipher>,
    committer: Option<JoinHandle<()>>,
}

/// What turns stored values into versions.
struct Reading {
    stamp: Stamp,
    cipher: Arc<dyn Cipher>,
}

impl Embedded {
    /// Opens a data directory: reads the newest snapshot and the log behind it. Blocks.
    pub fn open(options: Options) -> Result<Embedded, OpenError> {
        let Options { dir, stamp, cipher, history, writer, snapshot_after, files } = options;
        let dir = Dir::open(files, &dir)?;
        let metrics = Arc::new(Metrics::default());
        let reading = Reading { stamp: stamp.clone(), cipher: cipher.clone() };
        let recovered = recover::recover(&dir, &writer, &reading, history, &metrics)?;
        let mvcc = recovered.mvcc;
        let mut expiry = Expiry::default();
        for (_, snapshot) in mvcc.everything().1 {
            snapshot.iter().for_each(|entry| expiry.add(entry));
        }
        let queue = Arc::new(Queue::default());
        let path = dir.path.clone();
        let committer = Committer {
            mvcc: mvcc.clone(),
            queue: queue.clone(),
            log: recovered.log,
            expiry,
            stamp,
            clock: Clock::new(),
            metrics: metrics.clone(),
            snapshotter: Snapshotter {
                dir,
                writer,
                cipher: cipher.clone(),
                metrics: metrics.clone(),
                after: snapshot_after,
                running: None,
            },
            frame: frame::FrameBuffer::new(),
        };
        let failed = queue.clone();
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| committer.run())).is_err() {
                // Dropping the requests tells their callers.
                drop(failed.fail("the committer panicked"));
            }
        };
        let thread = thread::Builder::new().name("store-commit".into()).spawn(run);
        let thread = thread.map_err(|source| OpenError::Io { doing: "begin a thread for", path, source })?;
        Ok(Embedded { mvcc, metrics, queue, cipher, committer: Some(thread) })
    }

    fn enqueue(&self, change: Change) -> Result<oneshot::Receiver<Result<Outcome, CommitError>>, CommitError> {
        let stored = match &change.op {
            Op::Put { raw, .. } if raw.len() > MAX_VALUE => {
                return Err(CommitError::TooLarge { size: raw.len(), limit: MAX_VALUE });
            }
            // Here and not in the committer, so that encryption runs on the callers' cores.
            Op::Put { raw, .. } => self.cipher.seal(&change.key, raw).map_err(CommitError::Cipher)?,
            Op::Delete => Bytes::new(),
        };
        let (reply, answer) = oneshot::channel();
        self.queue.push(Request { change, stored, reply })?;
        Ok(answer)
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<Found<Option<Arc<Entry>>>, ReadError>> {
        ready(self.mvcc.get_at(key, at)).boxed()
    }

    fn list(&self, range: Range, at: At, limit: Limit) -> BoxFuture<'_, Result<Found<Page>, ReadError>> {
        ready(self.mvcc.list_at(&range, at, limit)).boxed()
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Outcome, CommitError>> {
        // Queued before the future is polled: several commits may be begun and then awaited together.
        let queued = self.enqueue(change);
        let answer = async move {
            let ended = |_| Err(CommitError::Failed("it has ended".into()));
            queued?.await.unwrap_or_else(ended)
        };
        self.metrics.count_commit(answer).boxed()
    }

    fn watch(&self, prefix: Prefix, after: Revision, filter: Filter) -> Result<Changes, WatchError> {
        self.mvcc.watch(prefix, after, filter)
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), CompactError>> {
        ready(self.mvcc.compact(before)).boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Revision, ReadError>> {
        ready(Ok(self.mvcc.revision())).boxed()
    }

    fn mvcc(&self) -> &Arc<Mvcc> {
        &self.mvcc
    }

    fn failure(&self) -> Option<String> {
        self.queue.failure()
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(committer) = self.committer.take() {
            // Its panic was caught in the thread.
            let _ = committer.join();
        }
        self.mvcc.close();
    }
}
