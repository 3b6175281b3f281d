//! The few messages of etcd's v3 API that the store needs.
//!
//! Written by hand, because the whole API as generated code comes with a compiler for it and a web
//! framework. Field numbers are those of etcd's `rpc.proto` and `kv.proto`.

use bytes::{Buf, Bytes};

/// A message that is being written.
#[derive(Clone, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A number; zero is what is read when nothing is written.
    pub(super) fn int(self, field: u32, value: u64) -> Message {
        if value == 0 { self } else { self.present(field, value) }
    }

    /// A number of a `oneof`, where zero differs from nothing.
    pub(super) fn present(mut self, field: u32, value: u64) -> Message {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    pub(super) fn bytes(mut self, field: u32, value: &[u8]) -> Message {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn message(self, field: u32, value: &Message) -> Message {
        self.bytes(field, &value.0)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The value of one field.
enum Value {
    Int(u64),
    Bytes(Bytes),
    Other,
}

impl Value {
    fn int(&self) -> u64 {
        if let Value::Int(value) = self { *value } else { 0 }
    }

    fn bytes(self) -> Bytes {
        if let Value::Bytes(value) = self { value } else { Bytes::new() }
    }
}

/// What etcd said could not be read.
#[derive(Debug)]
pub(super) struct Malformed;

fn varint(bytes: &mut Bytes) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        if bytes.is_empty() {
            return Err(Malformed);
        }
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Calls `see` with each field. The bytes that it gets are parts of `message`, not copies.
fn fields(mut message: Bytes, mut see: impl FnMut(u32, Value) -> Result<(), Malformed>) -> Result<(), Malformed> {
    let take = |message: &mut Bytes, length: u64| {
        let length = usize::try_from(length).ok().filter(|length| *length <= message.len());
        length.map(|length| message.split_to(length)).ok_or(Malformed)
    };
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Int(varint(&mut message)?),
            1 => take(&mut message, 8).map(|_| Value::Other)?,
            2 => {
                let length = varint(&mut message)?;
                Value::Bytes(take(&mut message, length)?)
            }
            5 => take(&mut message, 4).map(|_| Value::Other)?,
            _ => return Err(Malformed),
        };
        see(u32::try_from(tag >> 3).map_err(|_| Malformed)?, value)?;
    }
    Ok(())
}

/// A key with its value.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) created: u64,
    pub(super) modified: u64,
    pub(super) value: Bytes,
}

impl KeyValue {
    fn read(message: Bytes) -> Result<KeyValue, Malformed> {
        let mut kv = KeyValue::default();
        fields(message, |field, value| {
            match field {
                1 => kv.key = value.bytes(),
                2 => kv.created = value.int(),
                3 => kv.modified = value.int(),
                5 => kv.value = value.bytes(),
                _ => {}
            }
            Ok(())
        })?;
        Ok(kv)
    }
}

fn revision_of(header: Bytes) -> Result<u64, Malformed> {
    let mut revision = 0;
    fields(header, |field, value| {
        if field == 3 {
            revision = value.int();
        }
        Ok(())
    })?;
    Ok(revision)
}

/// Which keys, at which revision.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeRequest {
    pub(super) key: Vec<u8>,
    /// Empty for one key.
    pub(super) end: Vec<u8>,
    pub(super) limit: u64,
    /// 0 for the newest.
    pub(super) revision: u64,
    pub(super) count_only: bool,
}

impl RangeRequest {
    pub(super) fn message(&self) -> Message {
        let message = Message::default().bytes(1, &self.key);
        let message = if self.end.is_empty() { message } else { message.bytes(2, &self.end) };
        message.int(3, self.limit).int(4, self.revision).int(9, self.count_only.into())
    }
}

/// The answer to a [`RangeRequest`].
#[derive(Debug, Default)]
pub(super) struct RangeResponse {
    pub(super) revision: u64,
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
    pub(super) count: u64,
}

impl RangeResponse {
    pub(super) fn read(message: Bytes) -> Result<RangeResponse, Malformed> {
        let mut response = RangeResponse::default();
        fields(message, |field, value| {
            match field {
                1 => response.revision = revision_of(value.bytes())?,
                2 => response.kvs.push(KeyValue::read(value.bytes())?),
                3 => response.more = value.int() != 0,
                4 => response.count = value.int(),
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
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
pub(super) fn transaction(key: &[u8], compare: Compare, action: &Action) -> Message {
    const EQUAL: u64 = 0;
    const CREATE: u64 = 1;
    const MOD: u64 = 2;
    let comparison =
        |target: u64, field: u32, revision: u64| Message::default().int(1, EQUAL).int(2, target).bytes(3, key).present(field, revision);
    let message = match compare {
        Compare::Nothing => Message::default(),
        Compare::Absent => Message::default().message(1, &comparison(CREATE, 5, 0)),
        Compare::Modified(revision) => Message::default().message(1, &comparison(MOD, 6, revision)),
    };
    let operation = match action {
        Action::Put { value, lease } => Message::default().message(2, &Message::default().bytes(1, key).bytes(2, value).int(3, *lease)),
        Action::Delete => Message::default().message(3, &Message::default().bytes(1, key).int(3, 1)),
    };
    let read = Message::default().message(1, &Message::default().bytes(1, key));
    message.message(2, &operation).message(3, &read)
}

/// What came of a transaction.
#[derive(Debug, Default)]
pub(super) struct TransactionResponse {
    pub(super) revision: u64,
    pub(super) succeeded: bool,
    /// What a failed one found, or what a deletion has deleted.
    pub(super) found: Option<KeyValue>,
}

impl TransactionResponse {
    pub(super) fn read(message: Bytes) -> Result<TransactionResponse, Malformed> {
        let mut response = TransactionResponse::default();
        let mut found = Vec::new();
        fields(message, |field, value| {
            match field {
                1 => response.revision = revision_of(value.bytes())?,
                2 => response.succeeded = value.int() != 0,
                3 => fields(value.bytes(), |field, value| {
                    // The values of a range and the deleted ones of a deletion.
                    let list = match field {
                        1 => 2,
                        3 => 3,
                        _ => return Ok(()),
                    };
                    fields(value.bytes(), |field, value| {
                        if field == list {
                            found.push(KeyValue::read(value.bytes())?);
                        }
                        Ok(())
                    })
                })?,
                _ => {}
            }
            Ok(())
        })?;
        response.found = found.pop();
        Ok(response)
    }
}

/// A request to forget the history up to a revision.
pub(super) fn compaction(revision: u64) -> Message {
    Message::default().int(1, revision)
}

/// A request to watch a range from a revision on.
pub(super) fn watch(key: &[u8], end: &[u8], start: u64) -> Message {
    let create = Message::default().bytes(1, key).bytes(2, end).int(3, start).int(4, 1);
    Message::default().message(1, &create)
}

/// A request to say how far a watch has come.
pub(super) fn progress() -> Message {
    Message::default().message(3, &Message::default())
}

/// A part of a watch.
#[derive(Debug, Default)]
pub(super) struct WatchResponse {
    pub(super) revision: u64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// The watch began before this revision, which is the oldest that is kept.
    pub(super) compacted: u64,
    pub(super) reason: String,
    pub(super) events: Vec<WatchEvent>,
}

/// A change.
#[derive(Debug, Default)]
pub(super) struct WatchEvent {
    pub(super) delete: bool,
    pub(super) kv: KeyValue,
}

impl WatchResponse {
    pub(super) fn read(message: Bytes) -> Result<WatchResponse, Malformed> {
        let mut response = WatchResponse::default();
        fields(message, |field, value| {
            match field {
                1 => response.revision = revision_of(value.bytes())?,
                3 => response.created = value.int() != 0,
                4 => response.canceled = value.int() != 0,
                5 => response.compacted = value.int(),
                6 => response.reason = String::from_utf8_lossy(&value.bytes()).into_owned(),
                11 => {
                    let mut event = WatchEvent::default();
                    fields(value.bytes(), |field, value| {
                        match field {
                            1 => event.delete = value.int() == 1,
                            2 => event.kv = KeyValue::read(value.bytes())?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    response.events.push(event);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// A request for a lease of that many seconds.
pub(super) fn lease_grant(seconds: u64) -> Message {
    Message::default().int(1, seconds)
}

/// The lease and for how many seconds it was granted.
pub(super) fn lease_granted(message: Bytes) -> Result<(u64, u64), Malformed> {
    let (mut id, mut seconds) = (0, 0);
    fields(message, |field, value| {
        match field {
            2 => id = value.int(),
            3 => seconds = value.int(),
            _ => {}
        }
        Ok(())
    })?;
    Ok((id, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_written() {
        let kv = Message::default().bytes(1, b"/a").int(2, 300).int(3, 1 << 40).int(4, 7).bytes(5, b"value").int(6, 9);
        let event = Message::default().int(1, 1).message(2, &kv);
        let header = Message::default().int(1, u64::MAX).int(3, 77);
        let response = Message::default().message(1, &header).int(2, 5).bytes(6, b"why").message(11, &event);
        let read = WatchResponse::read(response.into_bytes().into()).unwrap();
        assert_eq!((read.revision, read.canceled, &*read.reason, read.events.len()), (77, false, "why", 1));
        let event = &read.events[0];
        assert!(event.delete);
        assert_eq!((&*event.kv.key, event.kv.created, event.kv.modified), (&b"/a"[..], 300, 1 << 40));
        assert_eq!(&*event.kv.value, b"value");
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b"\x0a\x05ab"[..], b"\x08", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x09\x01"] {
            assert!(RangeResponse::read(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
