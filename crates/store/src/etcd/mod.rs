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

mod grpc;
mod layout;
mod lease;
mod mirror;
mod proto;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt};
use http::Uri;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::mvcc::HistoryLimits;
use crate::{
    At, Change, Changes, Cipher, CommitError, CompactError, Entry, Expect, Filter, Found, Key,
    Limit, Metrics, Mvcc, Op, OpenError, Outcome, Page, Plain, Prefix, Range, ReadError, Revision,
    Scope, Stamp, Store, WatchError,
};
use grpc::{Channel, Failure};
use lease::Leases;
use mirror::{Mirror, end_of};
use proto::{Action, Compare, KeyValue, RangeRequest, RangeResponse, TransactionResponse};

/// How long a read waits for the memory to reach a revision that etcd has.
const CATCH_UP: Duration = Duration::from_secs(5);
/// etcd's default limit of a request.
const MAX_VALUE: usize = 3 << 19;

/// gRPC's codes that the store tells apart.
mod code {
    pub(super) const INVALID: u32 = 3;
    pub(super) const EXHAUSTED: u32 = 8;
    pub(super) const OUT_OF_RANGE: u32 = 11;
}

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

/// The connections, and what turns values into versions and back.
struct Link {
    calls: Channel,
    /// The watch has a connection of its own, so that a burst of events delays no call.
    watch: Channel,
    stamp: Stamp,
    cipher: Arc<dyn Cipher>,
}

impl Etcd {
    /// Connects and reads everything.
    pub async fn open(options: Options) -> Result<Etcd, OpenError> {
        let unavailable = |error: &dyn std::fmt::Display| OpenError::Unavailable(error.to_string());
        let parse =
            |endpoint: &String| endpoint.parse::<Uri>().map_err(|error| unavailable(&error));
        let endpoints = options
            .endpoints
            .iter()
            .map(parse)
            .collect::<Result<Vec<Uri>, OpenError>>()?;
        let link = Arc::new(Link {
            calls: Channel::new(endpoints.clone(), options.tls.clone()),
            watch: Channel::new(endpoints, options.tls),
            stamp: options.stamp,
            cipher: options.cipher,
        });
        let mut kinds = crate::key::Kinds::default();
        let (revision, entries) = mirror::read_all(&link, &mut kinds)
            .await
            .map_err(|failure| unavailable(&failure))?;
        let metrics = Arc::new(Metrics::default());
        let mvcc = Mvcc::new(revision, entries, options.history, metrics.clone());
        let (sender, reached) = watch::channel(revision);
        // One waiting question answers everyone who has asked since.
        let (questions, asked) = mpsc::channel(1);
        let mirror = Mirror {
            link: link.clone(),
            mvcc: mvcc.clone(),
            kinds,
            reached: sender,
            questions: asked,
        };
        let mut tasks = vec![tokio::spawn(mirror.run())];
        if let Some(every) = options.compact_every {
            tasks.push(tokio::spawn(compact_now_and_then(link.clone(), every)));
        }
        Ok(Etcd {
            link,
            mvcc,
            metrics,
            leases: Leases::default(),
            reached,
            questions,
            tasks,
        })
    }

    /// Waits until the memory has everything up to `revision`.
    async fn catch_up(&self, revision: Revision) -> Result<(), ReadError> {
        if self.mvcc.revision() >= revision {
            return Ok(());
        }
        // A full queue holds a question that is as good.
        let _ = self.questions.try_send(());
        let mut reached = self.reached.clone();
        let wait = reached.wait_for(|reached| *reached >= revision);
        match tokio::time::timeout(CATCH_UP, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Unavailable(format!(
                "the watch on etcd has not reached revision {revision}"
            ))),
        }
    }

    /// Makes the memory fit to answer a read.
    async fn prepare(&self, at: At) -> Result<(), ReadError> {
        let asked = match at {
            At::Latest => return self.catch_up(self.link.now().await?).await,
            At::NotOlderThan(asked) | At::Exact(asked) => asked,
        };
        if asked <= self.mvcc.revision() {
            return Ok(());
        }
        let now = self.link.now().await?;
        if asked > now {
            return Err(ReadError::Future { asked, now });
        }
        self.catch_up(asked).await
    }

    /// The version that etcd has shown, shared if the memory has it.
    fn share(&self, key: &Key, kv: &KeyValue) -> Option<Arc<Entry>> {
        let known = self
            .mvcc
            .get(key)
            .value
            .filter(|known| known.revision.0 == kv.modified);
        known.or_else(|| self.link.entry(key.clone(), kv).map(Arc::new))
    }

    async fn read(&self, key: &Key, at: At) -> Result<Found<Option<Arc<Entry>>>, ReadError> {
        if at == At::Latest {
            let found = self
                .link
                .range(&RangeRequest {
                    key: path(key),
                    ..RangeRequest::default()
                })
                .await?;
            let value = found.kvs.first().and_then(|kv| self.share(key, kv));
            return Ok(Found {
                revision: Revision(found.revision),
                value,
            });
        }
        self.prepare(at).await?;
        match (self.mvcc.get_at(key, at), at) {
            (Err(ReadError::TooOld { .. }), At::Exact(revision)) => {
                let request = RangeRequest {
                    key: path(key),
                    revision: revision.0,
                    ..RangeRequest::default()
                };
                let found = self.range_of_the_past(&request, revision).await?;
                Ok(Found {
                    revision,
                    value: found.kvs.first().and_then(|kv| self.share(key, kv)),
                })
            }
            (result, _) => result,
        }
    }

    async fn read_range(
        &self,
        range: Range,
        at: At,
        limit: Limit,
    ) -> Result<Found<Page>, ReadError> {
        self.prepare(at).await?;
        match (self.mvcc.list_at(&range, at, limit), at) {
            (Err(ReadError::TooOld { .. }), At::Exact(revision)) => {
                self.list_past(&range, revision, limit).await
            }
            (result, _) => result,
        }
    }

    /// A list of a state that only etcd knows.
    async fn list_past(
        &self,
        range: &Range,
        revision: Revision,
        limit: Limit,
    ) -> Result<Found<Page>, ReadError> {
        let kind = &range.prefix.kind;
        let (from, end) = match &range.prefix.scope {
            Scope::Name(name) => (path(&kind.key(name.clone())), Vec::new()),
            Scope::Kind => (kind.as_bytes().to_vec(), end_of(kind)),
            Scope::Namespace(namespace) => {
                let prefix = format!("{kind}{namespace}");
                (prefix.as_bytes().to_vec(), end_of(&prefix))
            }
        };
        let from = match &range.start_after {
            Some(last) => from.max([path(last), vec![0]].concat()),
            None => from,
        };
        // Without an end it would not be a range, but the one key.
        let single_behind_start =
            end.is_empty() && from != path(&kind.key(range.prefix.lower_bound()));
        if single_behind_start || (!end.is_empty() && from >= end) {
            return Ok(Found {
                revision,
                value: Page::default(),
            });
        }
        let limit = u64::try_from(limit.entries)
            .ok()
            .filter(|limit| *limit < u64::MAX >> 1)
            .unwrap_or(0);
        let request = RangeRequest {
            key: from,
            end,
            limit,
            revision: revision.0,
            count_only: false,
        };
        let found = self.range_of_the_past(&request, revision).await?;
        let rest = |kv: &KeyValue| {
            std::str::from_utf8(kv.key.get(kind.len()..)?)
                .ok()
                .map(|rest| kind.key(rest))
        };
        let entries: Vec<_> = found
            .kvs
            .iter()
            .filter_map(|kv| self.share(&rest(kv)?, kv))
            .collect();
        let remaining = found.count.saturating_sub(found.kvs.len() as u64);
        Ok(Found {
            revision,
            value: Page {
                entries,
                more: found.more,
                remaining: Some(remaining),
            },
        })
    }

    async fn range_of_the_past(
        &self,
        request: &RangeRequest,
        asked: Revision,
    ) -> Result<RangeResponse, ReadError> {
        match self.link.range(request).await {
            Err(failure) if failure.code == code::OUT_OF_RANGE => Err(ReadError::TooOld {
                asked,
                floor: self.mvcc.floor(),
            }),
            result => Ok(result?),
        }
    }

    async fn change(&self, change: Change) -> Result<Outcome, CommitError> {
        let Change { key, expect, op } = change;
        let compare = match (expect, &op) {
            // There is no such version: etcd would take it for a key that is not there.
            (Expect::Revision(Revision::ZERO), _) | (Expect::Absent, Op::Delete) => {
                let current = self
                    .read(&key, At::Latest)
                    .await
                    .map_err(|error| CommitError::Unavailable(error.to_string()))?;
                return Ok(Outcome::Lost {
                    current: current.value,
                });
            }
            (Expect::Any, _) => Compare::Nothing,
            (Expect::Absent, _) => Compare::Absent,
            (Expect::Revision(revision), _) => Compare::Modified(revision.0),
        };
        let action = match &op {
            Op::Delete => Action::Delete,
            Op::Put { raw, ttl } => {
                // Here, for afterwards it would be in etcd already.
                (self.link.stamp)(&key, raw.clone(), Revision::ZERO)
                    .map_err(CommitError::Refused)?;
                let value = self
                    .link
                    .cipher
                    .seal(&key, raw)
                    .map_err(CommitError::Cipher)?;
                let lease = match ttl {
                    Some(ttl) => self
                        .leases
                        .get(&self.link.calls, *ttl)
                        .await
                        .map_err(|failure| unsent(&failure))?,
                    None => 0,
                };
                Action::Put { value, lease }
            }
        };
        let begun = Instant::now();
        let request = proto::transaction(&path(&key), compare, &action);
        let size = if let Action::Put { value, .. } = &action {
            value.len()
        } else {
            0
        };
        let answer = self.link.calls.call("/etcdserverpb.KV/Txn", request).await;
        let answer = answer.map_err(|failure| commit_error(&failure, size))?;
        let response = TransactionResponse::read(answer)
            .map_err(|_| CommitError::Unknown(malformed().message))?;
        self.metrics.sync.observe_duration(begun.elapsed());
        if !response.succeeded || (matches!(op, Op::Delete) && response.found.is_none()) {
            return Ok(Outcome::Lost {
                current: response.found.and_then(|kv| self.share(&key, &kv)),
            });
        }
        let entry = self
            .committed(&key, &op, Revision(response.revision), response.found)
            .await;
        entry.map(Outcome::Committed)
    }

    /// The entry of a change that etcd has made.
    async fn committed(
        &self,
        key: &Key,
        op: &Op,
        revision: Revision,
        deleted: Option<KeyValue>,
    ) -> Result<Arc<Entry>, CommitError> {
        // The change is made in any case, so a slow watch is not its failure.
        let reached = self.catch_up(revision).await;
        let lost = || {
            CommitError::Unknown(format!(
                "the version of revision {revision} cannot be shown"
            ))
        };
        let raw = match (op, deleted) {
            (Op::Delete, Some(kv)) => {
                let last = self.link.entry(key.clone(), &kv).ok_or_else(lost)?;
                return self
                    .link
                    .deleted(&last, revision)
                    .map(Arc::new)
                    .ok_or_else(lost);
            }
            (Op::Delete, None) => return Err(lost()),
            (Op::Put { raw, .. }, _) => raw,
        };
        if reached.is_ok()
            && let Ok(Found {
                value: Some(entry), ..
            }) = self.mvcc.get_at(key, At::Exact(revision))
            && entry.revision == revision
        {
            return Ok(entry);
        }
        let (bytes, header) =
            (self.link.stamp)(key, raw.clone(), revision).map_err(CommitError::Refused)?;
        let created = self
            .mvcc
            .get(key)
            .value
            .map_or(revision, |known| known.created);
        Ok(Arc::new(Entry::new(
            key.clone(),
            revision,
            created,
            bytes,
            header,
        )))
    }
}

impl Link {
    async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let answer = self
            .calls
            .ask("/etcdserverpb.KV/Range", request.message())
            .await?;
        RangeResponse::read(answer).map_err(|_| malformed())
    }

    /// The newest revision, agreed on by etcd's members.
    async fn now(&self) -> Result<Revision, Failure> {
        let request = RangeRequest {
            key: layout::ROOT.into(),
            count_only: true,
            ..RangeRequest::default()
        };
        Ok(Revision(self.range(&request).await?.revision))
    }

    /// The version that a key and value of etcd stand for. One that cannot be read is as good as absent,
    /// so that one broken object does not stop all others.
    fn entry(&self, key: Key, kv: &KeyValue) -> Option<Entry> {
        let revision = Revision(kv.modified);
        let raw = self
            .cipher
            .open(&key, &kv.value)
            .map_err(|error| error.to_string());
        let stamped = raw
            .and_then(|raw| (self.stamp)(&key, raw, revision).map_err(|error| error.to_string()));
        match stamped {
            Ok((bytes, header)) => Some(Entry::new(
                key,
                revision,
                Revision(kv.created),
                bytes,
                header,
            )),
            Err(error) => {
                tracing::error!("cannot read {key} in etcd at revision {revision}: {error}");
                None
            }
        }
    }

    /// The last version, stamped with the revision of its deletion.
    fn deleted(&self, last: &Entry, revision: Revision) -> Option<Entry> {
        let (bytes, header) = (self.stamp)(&last.key, last.bytes.clone(), revision).ok()?;
        Some(Entry::new(
            last.key.clone(),
            revision,
            last.created,
            bytes,
            header,
        ))
    }
}

impl Store for Etcd {
    fn get<'a>(
        &'a self,
        key: &'a Key,
        at: At,
    ) -> BoxFuture<'a, Result<Found<Option<Arc<Entry>>>, ReadError>> {
        self.read(key, at).boxed()
    }

    fn list(
        &self,
        range: Range,
        at: At,
        limit: Limit,
    ) -> BoxFuture<'_, Result<Found<Page>, ReadError>> {
        self.read_range(range, at, limit).boxed()
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Outcome, CommitError>> {
        self.metrics.count_commit(self.change(change)).boxed()
    }

    fn watch(
        &self,
        prefix: Prefix,
        after: Revision,
        filter: Filter,
    ) -> Result<Changes, WatchError> {
        self.mvcc.watch(prefix, after, filter)
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), CompactError>> {
        async move {
            match self
                .link
                .calls
                .call("/etcdserverpb.KV/Compact", proto::compaction(before.0))
                .await
            {
                Ok(_) => {}
                Err(failure) if failure.code == code::OUT_OF_RANGE => {
                    let now = self
                        .link
                        .now()
                        .await
                        .map_err(|failure| CompactError::Unavailable(failure.to_string()))?;
                    if before > now {
                        return Err(CompactError::Future { asked: before, now });
                    }
                }
                Err(failure) => return Err(CompactError::Unavailable(failure.to_string())),
            }
            let caught_up = self.catch_up(before).await;
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
            match link
                .calls
                .call("/etcdserverpb.KV/Compact", proto::compaction(before))
                .await
            {
                Err(failure) if failure.code != code::OUT_OF_RANGE => {
                    tracing::warn!("cannot compact etcd: {failure}")
                }
                _ => {}
            }
        }
        before = link.now().await.ok();
        tokio::time::sleep(every).await;
    }
}

fn path(key: &Key) -> Vec<u8> {
    [key.kind.as_bytes(), key.rest.as_bytes()].concat()
}

fn malformed() -> Failure {
    Failure {
        code: 13,
        message: "etcd's answer makes no sense".into(),
        sent: true,
    }
}

fn unsent(failure: &Failure) -> CommitError {
    CommitError::Unavailable(failure.to_string())
}

fn commit_error(failure: &Failure, size: usize) -> CommitError {
    match failure.code {
        code::EXHAUSTED if failure.message.contains("space") => CommitError::NoSpace,
        code::INVALID if failure.message.contains("too large") => CommitError::TooLarge {
            size,
            limit: MAX_VALUE,
        },
        _ if !failure.sent => unsent(failure),
        _ => CommitError::Unknown(failure.to_string()),
    }
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> ReadError {
        ReadError::Unavailable(failure.to_string())
    }
}
