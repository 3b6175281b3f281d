//! The few messages of etcd's v3 API that the store needs.
//!
//! Field numbers are those of etcd's `rpc.proto` and `kv.proto`; fields that nobody here looks at are left out.

use bytes::Bytes;
use grpc::messages;

messages! {
    ResponseHeader { revision: u64 = 3 }
    KeyValue { key: Bytes = 1, created: u64 = 2, modified: u64 = 3, value: Bytes = 5 }

    // Without an end it is one key; revision 0 is the newest.
    RangeRequest { key: Bytes = 1, end: Bytes = 2, limit: u64 = 3, revision: u64 = 4, count_only: bool = 9 }
    RangeResponse { header: Option<ResponseHeader> = 1, kvs: Vec<KeyValue> = 2, more: bool = 3, count: u64 = 4 }

    // The result that is asked for is equality, which is 0. Zero differs from nothing in both revisions.
    Comparison { target: u64 = 2, key: Bytes = 3, created: Option<u64> = 5, modified: Option<u64> = 6 }
    PutRequest { key: Bytes = 1, value: Bytes = 2, lease: u64 = 3 }
    DeleteRequest { key: Bytes = 1, previous: bool = 3 }
    RequestOp { range: Option<RangeRequest> = 1, put: Option<PutRequest> = 2, delete: Option<DeleteRequest> = 3 }
    TransactionRequest { compare: Vec<Comparison> = 1, success: Vec<RequestOp> = 2, failure: Vec<RequestOp> = 3 }
    DeleteResponse { previous: Vec<KeyValue> = 3 }
    ResponseOp { range: Option<RangeResponse> = 1, delete: Option<DeleteResponse> = 3 }
    TransactionResponse { header: Option<ResponseHeader> = 1, succeeded: bool = 2, responses: Vec<ResponseOp> = 3 }

    CompactionRequest { revision: u64 = 1 }
    CompactionResponse {}

    WatchCreateRequest { key: Bytes = 1, end: Bytes = 2, start: u64 = 3, progress: bool = 4 }
    WatchProgressRequest {}
    WatchRequest { create: Option<WatchCreateRequest> = 1, progress: Option<WatchProgressRequest> = 3 }
    // An event is a deletion or not; a watch that began before `compacted` began before what is kept.
    WatchEvent { delete: bool = 1, kv: Option<KeyValue> = 2 }
    WatchResponse {
        header: Option<ResponseHeader> = 1, created: bool = 3, canceled: bool = 4, compacted: u64 = 5, reason: String = 6,
        events: Vec<WatchEvent> = 11,
    }

    LeaseGrantRequest { seconds: u64 = 1 }
    LeaseGrantResponse { id: u64 = 2, seconds: u64 = 3 }
}

/// At which revision an answer was given.
fn revision(header: &Option<ResponseHeader>) -> u64 {
    header.as_ref().map_or(0, |header| header.revision)
}

impl RangeResponse {
    /// The newest revision when it was given.
    pub(super) fn revision(&self) -> u64 {
        revision(&self.header)
    }
}

impl TransactionResponse {
    /// The revision that the transaction has made.
    pub(super) fn revision(&self) -> u64 {
        revision(&self.header)
    }

    /// What a failed one found, or what a deletion has deleted.
    pub(super) fn found(self) -> Option<KeyValue> {
        let lists = self.responses.into_iter().flat_map(|one| {
            let ranged = one.range.map(|range| range.kvs).unwrap_or_default();
            ranged.into_iter().chain(one.delete.map(|delete| delete.previous).unwrap_or_default())
        });
        lists.last()
    }
}

impl WatchResponse {
    /// How far the watch has come.
    pub(super) fn revision(&self) -> u64 {
        revision(&self.header)
    }
}

/// What must hold for a transaction to succeed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Compare {
    Nothing,
    Absent,
    Modified(u64),
}

/// What a transaction does when it succeeds. When it does not, it reads the key.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Put { value: Bytes, lease: u64 },
    Delete,
}

/// The one shape of transaction that the store uses.
pub(super) fn transaction(key: Bytes, compare: Compare, action: Action) -> TransactionRequest {
    const CREATE: u64 = 1;
    const MOD: u64 = 2;
    let compare = match compare {
        Compare::Nothing => None,
        Compare::Absent => Some(Comparison { target: CREATE, key: key.clone(), created: Some(0), modified: None }),
        Compare::Modified(revision) => Some(Comparison { target: MOD, key: key.clone(), created: None, modified: Some(revision) }),
    };
    let success = match action {
        Action::Put { value, lease } => RequestOp { put: Some(PutRequest { key: key.clone(), value, lease }), ..RequestOp::default() },
        Action::Delete => RequestOp { delete: Some(DeleteRequest { key: key.clone(), previous: true }), ..RequestOp::default() },
    };
    let read = RequestOp { range: Some(RangeRequest { key, ..RangeRequest::default() }), ..RequestOp::default() };
    TransactionRequest { compare: compare.into_iter().collect(), success: vec![success], failure: vec![read] }
}

/// A request to watch a range from a revision on.
pub(super) fn watch(key: &'static str, end: Vec<u8>, start: u64) -> WatchRequest {
    let create = WatchCreateRequest { key: Bytes::from_static(key.as_bytes()), end: end.into(), start, progress: true };
    WatchRequest { create: Some(create), progress: None }
}

/// A request to say how far a watch has come.
pub(super) fn progress() -> WatchRequest {
    WatchRequest { create: None, progress: Some(WatchProgressRequest {}) }
}

#[cfg(test)]
mod tests {
    use grpc::wire::Message;

    use super::*;

    #[test]
    fn transactions_are_written_as_etcd_reads_them() {
        let absent = transaction(Bytes::from_static(b"k"), Compare::Absent, Action::Put { value: Bytes::from_static(b"v"), lease: 0 });
        // compare { target: CREATE key create_revision: 0 }, put { key value }, range { key }
        let bytes = [
            &[0x0a, 7, 0x10, 1, 0x1a, 1, b'k', 0x28, 0][..],
            &[0x12, 8, 0x12, 6, 0x0a, 1, b'k', 0x12, 1, b'v'],
            &[0x1a, 5, 0x0a, 3, 0x0a, 1, b'k'],
        ];
        assert_eq!(absent.to_bytes(), bytes.concat());
        assert_eq!(progress().to_bytes(), [0x1a, 0]);
    }

    #[test]
    fn answers_are_read_past_what_nobody_looks_at() {
        let kv = [&[0x0a, 2, b'/', b'a', 0x10, 0xac, 2, 0x18, 7, 0x20, 9][..], &[0x2a, 1, b'v', 0x30, 4]].concat();
        let event = [&[0x08, 1, 0x12, kv.len() as u8][..], &kv].concat();
        let watch = [&[0x0a, 4, 0x08, 5, 0x18, 77, 0x10, 5, 0x5a, event.len() as u8][..], &event].concat();
        let read = WatchResponse::read(watch.into()).unwrap();
        assert_eq!((read.revision(), read.canceled, read.events.len()), (77, false, 1));
        let kv = read.events[0].kv.clone().unwrap();
        assert!(read.events[0].delete);
        assert_eq!((&*kv.key, kv.created, kv.modified, &*kv.value), (&b"/a"[..], 300, 7, &b"v"[..]));
    }
}
