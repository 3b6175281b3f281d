//! What the payloads of frames say: batches of changes in a log, objects in a snapshot.
//!
//! ```text
//! batch     time 8 | first revision 8 | change...       changes have consecutive revisions
//! change    1 kind rest expires 8 value | 2 kind rest   (put | delete)
//! objects   1 | (kind rest revision 8 created 8 expires 8 value)...
//! end       2 | number of objects 8
//! ```
//!
//! Texts and values have a length of 4 bytes before them. Values are sealed by the cipher.

use std::num::NonZeroU64;

use bytes::Bytes;

use super::frame::{Fields, FrameBuffer};
use crate::key::Kinds;
use crate::{Entry, Key, Revision};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const OBJECTS: u8 = 1;
const END: u8 = 2;

/// A change as the log has it.
pub(super) enum Logged {
    Put { key: Key, expires: Option<NonZeroU64>, stored: Bytes },
    Delete { key: Key },
}

/// The changes of one batch.
pub(super) struct Batch {
    pub(super) time: u64,
    pub(super) first: Revision,
    pub(super) changes: Vec<Logged>,
}

/// An object as a snapshot has it.
pub(super) struct Saved {
    pub(super) key: Key,
    pub(super) revision: Revision,
    pub(super) created: Revision,
    pub(super) expires: Option<NonZeroU64>,
    pub(super) stored: Bytes,
}

/// A frame of a snapshot.
pub(super) enum Part {
    Objects(Vec<Saved>),
    End(u64),
}

pub(super) fn begin_batch(frame: &mut FrameBuffer, time: u64, first: Revision) {
    frame.clear();
    frame.u64(time);
    frame.u64(first.0);
}

pub(super) fn put(frame: &mut FrameBuffer, key: &Key, expires: Option<NonZeroU64>, stored: &[u8]) {
    frame.u8(PUT);
    write_key(frame, key);
    frame.u64(expires.map_or(0, NonZeroU64::get));
    frame.bytes(stored);
}

pub(super) fn delete(frame: &mut FrameBuffer, key: &Key) {
    frame.u8(DELETE);
    write_key(frame, key);
}

/// `None` if the payload is not a batch.
pub(super) fn read_batch(payload: &[u8], kinds: &mut Kinds) -> Option<Batch> {
    let mut fields = Fields(payload);
    let (time, first) = (fields.u64()?, Revision(fields.u64()?));
    let mut changes = Vec::new();
    while !fields.0.is_empty() {
        let tag = fields.u8()?;
        let key = read_key(&mut fields, kinds)?;
        changes.push(match tag {
            PUT => {
                let expires = NonZeroU64::new(fields.u64()?);
                Logged::Put { key, expires, stored: Bytes::copy_from_slice(fields.bytes()?) }
            }
            DELETE => Logged::Delete { key },
            _ => return None,
        });
    }
    Some(Batch { time, first, changes })
}

pub(super) fn begin_objects(frame: &mut FrameBuffer) {
    frame.clear();
    frame.u8(OBJECTS);
}

pub(super) fn object(frame: &mut FrameBuffer, entry: &Entry, stored: &[u8]) {
    write_key(frame, &entry.key);
    frame.u64(entry.revision.0);
    frame.u64(entry.created.0);
    frame.u64(entry.expires.map_or(0, NonZeroU64::get));
    frame.bytes(stored);
}

pub(super) fn end(frame: &mut FrameBuffer, objects: u64) {
    frame.clear();
    frame.u8(END);
    frame.u64(objects);
}

/// `None` if the payload is not a part of a snapshot.
pub(super) fn read_part(payload: &[u8], kinds: &mut Kinds) -> Option<Part> {
    let mut fields = Fields(payload);
    match fields.u8()? {
        OBJECTS => {
            let mut objects = Vec::new();
            while !fields.0.is_empty() {
                objects.push(Saved {
                    key: read_key(&mut fields, kinds)?,
                    revision: Revision(fields.u64()?),
                    created: Revision(fields.u64()?),
                    expires: NonZeroU64::new(fields.u64()?),
                    stored: Bytes::copy_from_slice(fields.bytes()?),
                });
            }
            Some(Part::Objects(objects))
        }
        END => Some(Part::End(fields.u64()?)),
        _ => None,
    }
}

fn write_key(frame: &mut FrameBuffer, key: &Key) {
    frame.bytes(key.kind.as_bytes());
    frame.bytes(key.rest.as_bytes());
}

fn read_key(fields: &mut Fields<'_>, kinds: &mut Kinds) -> Option<Key> {
    let kind = kinds.get(fields.str()?);
    Some(kind.key(fields.str()?))
}
