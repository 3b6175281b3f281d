//! Changes: one shape of transaction, and then the entry that comes back through the watch.

use std::sync::Arc;
use std::time::Instant;

use grpc::{Code, Failure};

use super::link::told;
use super::proto::{self, Action, Compare, KeyValue, TransactionResponse};
use super::{Etcd, path};
use crate::{At, Change, CommitError, Entry, Expect, Found, Key, Op, Outcome, Revision};

/// etcd's default limit of a request.
const MAX_VALUE: usize = 3 << 19;

impl Etcd {
    pub(super) async fn change(&self, change: Change) -> Result<Outcome, CommitError> {
        let Change { key, expect, op } = change;
        let compare = match (expect, &op) {
            // There is no such version: etcd would take it for a key that is not there.
            (Expect::Revision(Revision::ZERO), _) | (Expect::Absent, Op::Delete) => {
                let current = self.read(&key, At::Latest).await.map_err(|error| CommitError::Unavailable(error.to_string()))?;
                return Ok(Outcome::Lost { current: current.value });
            }
            (Expect::Any, _) => Compare::Nothing,
            (Expect::Absent, _) => Compare::Absent,
            (Expect::Revision(revision), _) => Compare::Modified(revision.0),
        };
        let action = match &op {
            Op::Delete => Action::Delete,
            Op::Put { raw, ttl } => {
                // Here, for afterwards it would be in etcd already.
                (self.link.stamp)(&key, raw.clone(), Revision::ZERO).map_err(CommitError::Refused)?;
                let value = self.link.cipher.seal(&key, raw).map_err(CommitError::Cipher)?;
                let lease = match ttl {
                    Some(ttl) => self.leases.get(&self.link.calls, *ttl).await.map_err(|failure| unsent(&failure))?,
                    None => 0,
                };
                Action::Put { value, lease }
            }
        };
        let begun = Instant::now();
        let size = if let Action::Put { value, .. } = &action { value.len() } else { 0 };
        let request = proto::transaction(path(&key), compare, action);
        let answer = self.link.calls.call("/etcdserverpb.KV/Txn", &request).await;
        let response: TransactionResponse = answer.map_err(|failure| commit_error(&failure, size))?;
        self.metrics.sync.observe_duration(begun.elapsed());
        let (succeeded, revision, found) = (response.succeeded, Revision(response.revision()), response.found());
        if !succeeded || (matches!(op, Op::Delete) && found.is_none()) {
            return Ok(Outcome::Lost { current: found.and_then(|kv| self.share(&key, &kv)) });
        }
        let entry = self.committed(&key, &op, revision, found).await;
        entry.map(Outcome::Committed)
    }

    /// The entry of a change that etcd has made.
    async fn committed(&self, key: &Key, op: &Op, revision: Revision, deleted: Option<KeyValue>) -> Result<Arc<Entry>, CommitError> {
        // The change is made in any case, so a slow watch is not its failure.
        let reached = self.reach(revision).await;
        let lost = || CommitError::Unknown(format!("the version of revision {revision} cannot be shown"));
        let raw = match (op, deleted) {
            (Op::Delete, Some(kv)) => {
                let last = self.link.entry(key.clone(), &kv).ok_or_else(lost)?;
                return self.link.deleted(&last, revision).map(Arc::new).ok_or_else(lost);
            }
            (Op::Delete, None) => return Err(lost()),
            (Op::Put { raw, .. }, _) => raw,
        };
        if reached.is_ok()
            && let Ok(Found { value: Some(entry), .. }) = self.mvcc.get_at(key, At::Exact(revision))
            && entry.revision == revision
        {
            return Ok(entry);
        }
        let (bytes, header) = (self.link.stamp)(key, raw.clone(), revision).map_err(CommitError::Refused)?;
        let created = self.mvcc.get(key).value.map_or(revision, |known| known.created);
        Ok(Arc::new(Entry::new(key.clone(), revision, created, bytes, header)))
    }
}

fn unsent(failure: &Failure) -> CommitError {
    CommitError::Unavailable(told(failure))
}

fn commit_error(failure: &Failure, size: usize) -> CommitError {
    match failure.code {
        Code::ResourceExhausted if failure.message.contains("space") => CommitError::NoSpace,
        Code::InvalidArgument if failure.message.contains("too large") => CommitError::TooLarge { size, limit: MAX_VALUE },
        _ if !failure.sent => unsent(failure),
        _ => CommitError::Unknown(told(failure)),
    }
}
