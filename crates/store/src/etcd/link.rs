//! The connections to etcd, and what turns its values into versions.

use std::sync::Arc;

use grpc::{Code, Failure};
use parking_lot::Mutex;

use super::calls::Members;
use super::layout;
use super::proto::{CompactionRequest, CompactionResponse, KeyValue, RangeRequest, RangeResponse};
use crate::{Cipher, Entry, Key, ReadError, Revision, Stamp};

/// The connections, and what turns values into versions and back.
pub(super) struct Link {
    pub(super) calls: Members,
    /// The watch has a connection of its own, so that a burst of events delays no call.
    pub(super) watch: Members,
    pub(super) stamp: Stamp,
    pub(super) cipher: Arc<dyn Cipher>,
    /// Why the watch is not running, while it is not.
    pub(super) lost: Mutex<Option<String>>,
}

impl Link {
    pub(super) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        self.calls.ask("/etcdserverpb.KV/Range", request).await
    }

    /// Forgets the history up to a revision.
    pub(super) async fn compact(&self, revision: u64) -> Result<(), Failure> {
        let done = self.calls.call("/etcdserverpb.KV/Compact", &CompactionRequest { revision }).await;
        done.map(|CompactionResponse {}| ())
    }

    /// The newest revision, agreed on by etcd's members.
    pub(super) async fn now(&self) -> Result<Revision, Failure> {
        let request = RangeRequest { key: layout::ROOT.into(), count_only: true, ..RangeRequest::default() };
        Ok(Revision(self.range(&request).await?.revision()))
    }

    /// The version that a key and value of etcd stand for. One that cannot be read is as good as absent,
    /// so that one broken object does not stop all others.
    pub(super) fn entry(&self, key: Key, kv: &KeyValue) -> Option<Entry> {
        let revision = Revision(kv.modified);
        let raw = self.cipher.open(&key, &kv.value).map_err(|error| error.to_string());
        let stamped = raw.and_then(|raw| (self.stamp)(&key, raw, revision).map_err(|error| error.to_string()));
        match stamped {
            Ok((bytes, header)) => Some(Entry::new(key, revision, Revision(kv.created), bytes, header)),
            Err(error) => {
                tracing::error!("cannot read {key} in etcd at revision {revision}: {error}");
                None
            }
        }
    }

    /// The last version, stamped with the revision of its deletion.
    pub(super) fn deleted(&self, last: &Entry, revision: Revision) -> Option<Entry> {
        let (bytes, header) = (self.stamp)(&last.key, last.bytes.clone(), revision).ok()?;
        Some(Entry::new(last.key.clone(), revision, last.created, bytes, header))
    }
}

/// A failure of etcd with its code, for logs and for answers.
pub(super) fn told(failure: &Failure) -> String {
    format!("{} (code {})", failure.message, failure.code.number())
}

/// An answer that makes no sense.
pub(super) fn malformed() -> Failure {
    Failure::new(Code::Internal, "etcd's answer makes no sense")
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> ReadError {
        ReadError::Unavailable(told(&failure))
    }
}
