//! The etcd store: for clusters of several servers, and for taking over from kube-apiserver.
//!
//! ```text
//! commit, get -> etcd (transactions, ranges)
//! list, watch -> mvcc <- one watch on etcd
//! ```
//!
//! # Guarantees
//!
//! * Keys are upstream's, and values are what the [`Cipher`] makes of them: it does both the encryption
//!   and the translation to the encoding that upstream stores.
//! * A read of the newest state asks etcd for its revision and waits until the memory has reached it.
//! * A commit returns after its change has come back through the watch, so that everybody shares the
//!   one entry.
//!
//! # Caveats
//!
//! * A history ends at the start of the process: a watch from before begins with too old, as it does at
//!   kube-apiserver's watch cache. States of the past are read from etcd as far as it knows them.
//! * If etcd is set back to an older backup, the process has to be started again.

mod calls;
mod layout;
mod lease;
mod link;
mod mirror;
mod note;
mod proto;
mod reads;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::Uri;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::mvcc::HistoryLimits;
use crate::{
    At, Change, Changes, Cipher, CommitError, CompactError, Entry, Filter, Found, Key, Limit, Metrics, Mvcc, OpenError, Outcome, Page,
    Plain, Prefix, Range, ReadError, Revision, Stamp, Store, WatchError,
};
use calls::Members;
use grpc::Code;
use lease::Leases;
use link::Link;
use mirror::Mirror;
pub use note::Note;

/// How long a read waits for the memory to reach a revision that etcd has.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How to open an etcd store.
#[derive(Clone)]
pub struct Options {
    /// `http://host:port` or `https://host:port` of the members.
    pub endpoints: Vec<String>,
    /// Certificates for `https`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Looks into each version once.
    pub stamp: Stamp,
    /// The form of values in etcd: their encoding there, and encryption.
    pub cipher: Arc<dyn Cipher>,
    /// How much of the past is kept in memory.
    pub history: HistoryLimits,
    /// etcd forgets what is older than this, rounded up to twice; `None` if somebody else sees to it.
    pub compact_every: Option<Duration>,
}

impl Options {
    /// The usual ones.
    pub fn new(endpoints: Vec<String>, stamp: Stamp) -> Options {
        Options {
            endpoints,
            tls: None,
            stamp,
            cipher: Arc::new(Plain),
            history: HistoryLimits::default(),
            compact_every: Some(Duration::from_secs(300)),
        }
    }
}

/// An open etcd store. Dropping it ends its watch.
pub struct Etcd {
    link: Arc<Link>,
    mvcc: Arc<Mvcc>,
    metrics: Arc<Metrics>,
    leases: Leases,
    reached: watch::Receiver<Revision>,
    questions: mpsc::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Etcd {
    /// Connects and reads everything.
    pub async fn open(options: Options) -> Result<Etcd, OpenError> {
        let unavailable = |error: &dyn std::fmt::Display| OpenError::Unavailable(error.to_string());
        let parse = |endpoint: &String| endpoint.parse::<Uri>().map_err(|error| unavailable(&error));
        let endpoints = options.endpoints.iter().map(parse).collect::<Result<Vec<Uri>, OpenError>>()?;
        let link = Arc::new(Link {
            calls: Members::new(endpoints.clone(), options.tls.clone()),
            watch: Members::new(endpoints, options.tls),
            stamp: options.stamp,
            cipher: options.cipher,
            lost: Mutex::default(),
        });
        let mut kinds = crate::key::Kinds::default();
        let (revision, entries) = mirror::read_all(&link, &mut kinds).await.map_err(|failure| unavailable(&failure))?;
        let metrics = Arc::new(Metrics::default());
        let mvcc = Mvcc::new(revision, entries, options.history, metrics.clone());
        let (sender, reached) = watch::channel(revision);
        // One waiting question answers everyone who has asked since.
        let (questions, asked) = mpsc::channel(1);
        let mirror = Mirror { link: link.clone(), mvcc: mvcc.clone(), kinds, reached: sender, questions: asked };
        let mut tasks = vec![tokio::spawn(mirror.run())];
        if let Some(every) = options.compact_every {
            tasks.push(tokio::spawn(compact_now_and_then(link.clone(), every)));
        }
        Ok(Etcd { link, mvcc, metrics, leases: Leases::default(), reached, questions, tasks })
    }

    /// Waits until the memory has everything up to `revision`.
    async fn reach(&self, revision: Revision) -> Result<(), ReadError> {
        if self.mvcc.revision() >= revision {
            return Ok(());
        }
        // A full queue holds a question that is as good.
        let _ = self.questions.try_send(());
        let mut reached = self.reached.clone();
        let wait = reached.wait_for(|reached| *reached >= revision);
        match tokio::time::timeout(CATCH_UP, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Unavailable(format!("the watch on etcd has not reached revision {revision}"))),
        }
    }

    /// Makes the memory fit to answer a read.
    async fn prepare(&self, at: At) -> Result<(), ReadError> {
        let asked = match at {
            At::Latest => return self.reach(self.link.now().await?).await,
            At::NotOlderThan(asked) | At::Exact(asked) => asked,
        };
        if asked <= self.mvcc.revision() {
            return Ok(());
        }
        let now = self.link.now().await?;
        if asked > now {
            return Err(ReadError::Future { asked, now });
        }
        self.reach(asked).await
    }
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<Found<Option<Arc<Entry>>>, ReadError>> {
        self.read(key, at).boxed()
    }

    fn list(&self, range: Range, at: At, limit: Limit) -> BoxFuture<'_, Result<Found<Page>, ReadError>> {
        self.read_range(range, at, limit).boxed()
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Outcome, CommitError>> {
        self.metrics.count_commit(self.change(change)).boxed()
    }

    fn watch(&self, prefix: Prefix, after: Revision, filter: Filter) -> Result<Changes, WatchError> {
        self.mvcc.watch(prefix, after, filter)
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), CompactError>> {
        async move {
            match self.link.compact(before.0).await {
                Ok(_) => {}
                Err(failure) if failure.code == Code::OutOfRange => {
                    let now = self.link.now().await.map_err(|failure| CompactError::Unavailable(failure.to_string()))?;
                    if before > now {
                        return Err(CompactError::Future { asked: before, now });
                    }
                }
                Err(failure) => return Err(CompactError::Unavailable(failure.to_string())),
            }
            let caught_up = self.reach(before).await;
            caught_up.map_err(|error| CompactError::Unavailable(error.to_string()))?;
            self.mvcc.compact(before)
        }
        .boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Revision, ReadError>> {
        async move { Ok(self.link.now().await?) }.boxed()
    }

    fn mvcc(&self) -> &Arc<Mvcc> {
        &self.mvcc
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn catch_up(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.prepare(At::Latest).boxed()
    }

    fn failure(&self) -> Option<String> {
        self.link.lost.lock().clone()
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.mvcc.close();
    }
}

/// Forgets what was the newest state one interval ago. Several servers may do it: the oldest wins.
async fn compact_now_and_then(link: Arc<Link>, every: Duration) {
    let mut before = None;
    loop {
        if let Some(Revision(before)) = before {
            match link.compact(before).await {
                Err(failure) if failure.code != Code::OutOfRange => {
                    tracing::warn!("cannot compact etcd: {failure}")
                }
                _ => {}
            }
        }
        before = link.now().await.ok();
        tokio::time::sleep(every).await;
    }
}

/// The key as etcd has it.
fn path(key: &Key) -> Bytes {
    [key.kind.as_bytes(), key.rest.as_bytes()].concat().into()
}
