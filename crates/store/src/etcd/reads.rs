//! Reads: the newest version of one object from etcd itself, lists from memory, the far past from etcd.

use std::sync::Arc;

use bytes::Bytes;
use grpc::Code;

use super::mirror::end_of;
use super::proto::{KeyValue, RangeRequest, RangeResponse};
use super::{Etcd, path};
use crate::{At, Entry, Found, Key, Limit, Page, Range, ReadError, Revision, Scope};

impl Etcd {
    /// The version that etcd has shown, shared if the memory has it.
    pub(super) fn share(&self, key: &Key, kv: &KeyValue) -> Option<Arc<Entry>> {
        let known = self.mvcc.get(key).value.filter(|known| known.revision.0 == kv.modified);
        known.or_else(|| self.link.entry(key.clone(), kv).map(Arc::new))
    }

    pub(super) async fn read(&self, key: &Key, at: At) -> Result<Found<Option<Arc<Entry>>>, ReadError> {
        if at == At::Latest {
            let found = self.link.range(&RangeRequest { key: path(key), ..RangeRequest::default() }).await?;
            let value = found.kvs.first().and_then(|kv| self.share(key, kv));
            return Ok(Found { revision: Revision(found.revision()), value });
        }
        self.prepare(at).await?;
        match (self.mvcc.get_at(key, at), at) {
            (Err(ReadError::TooOld { .. }), At::Exact(revision)) => {
                let request = RangeRequest { key: path(key), revision: revision.0, ..RangeRequest::default() };
                let found = self.range_of_the_past(&request, revision).await?;
                Ok(Found { revision, value: found.kvs.first().and_then(|kv| self.share(key, kv)) })
            }
            (result, _) => result,
        }
    }

    pub(super) async fn read_range(&self, range: Range, at: At, limit: Limit) -> Result<Found<Page>, ReadError> {
        self.prepare(at).await?;
        match (self.mvcc.list_at(&range, at, limit), at) {
            (Err(ReadError::TooOld { .. }), At::Exact(revision)) => self.list_past(&range, revision, limit).await,
            (result, _) => result,
        }
    }

    /// A list of a state that only etcd knows.
    async fn list_past(&self, range: &Range, revision: Revision, limit: Limit) -> Result<Found<Page>, ReadError> {
        let kind = &range.prefix.kind;
        let (from, end) = match &range.prefix.scope {
            Scope::Name(name) => (path(&kind.key(name.clone())), Bytes::new()),
            Scope::Kind => (Bytes::copy_from_slice(kind.as_bytes()), end_of(kind).into()),
            Scope::Namespace(namespace) => {
                let prefix = format!("{kind}{namespace}");
                (Bytes::copy_from_slice(prefix.as_bytes()), end_of(&prefix).into())
            }
        };
        let from = match &range.start_after {
            Some(last) => from.max([&path(last)[..], &[0]].concat().into()),
            None => from,
        };
        // Without an end it would not be a range, but the one key.
        let single_behind_start = end.is_empty() && from != path(&kind.key(range.prefix.lower_bound()));
        if single_behind_start || (!end.is_empty() && from >= end) {
            return Ok(Found { revision, value: Page::default() });
        }
        let limit = u64::try_from(limit.entries).ok().filter(|limit| *limit < u64::MAX >> 1).unwrap_or(0);
        let request = RangeRequest { key: from, end, limit, revision: revision.0, count_only: false };
        let found = self.range_of_the_past(&request, revision).await?;
        let rest = |kv: &KeyValue| std::str::from_utf8(kv.key.get(kind.len()..)?).ok().map(|rest| kind.key(rest));
        let entries: Vec<_> = found.kvs.iter().filter_map(|kv| self.share(&rest(kv)?, kv)).collect();
        let remaining = found.count.saturating_sub(found.kvs.len() as u64);
        Ok(Found { revision, value: Page { entries, more: found.more, remaining: Some(remaining) } })
    }

    async fn range_of_the_past(&self, request: &RangeRequest, asked: Revision) -> Result<RangeResponse, ReadError> {
        match self.link.range(request).await {
            Err(failure) if failure.code == Code::OutOfRange => Err(ReadError::TooOld { asked, floor: self.mvcc.floor() }),
            result => Ok(result?),
        }
    }
}
