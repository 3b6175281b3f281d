//! Protobuf as the API's clients speak it, driven by field numbers of the schema table.
//!
//! A body is the magic `k8s\0` and an envelope (`runtime.Unknown`) that names the kind and holds the message.

use api::schema::Field;
use api::{Object, Status, Type};
use bytes::Bytes;

use crate::ListHead;

mod decode;
mod encode;
pub(crate) mod wire;

use wire::{Fields, put_bytes, put_message, put_number};

/// What every body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The magic is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    NoMagic,
    /// The bytes end within a value, or a value is malformed.
    #[error("{0}")]
    Malformed(&'static str),
    /// Nested too deep.
    #[error("message is nested too deep")]
    TooDeep,
    /// The type has a field without a number: it has no protobuf form.
    #[error("type {0} has no protobuf form")]
    NoForm(String),
}

/// Whether the list of a field is a message of its own with the items in field 1, as it is for a named type of lists in
/// Go: `Verbs` is the only one that a field has.
fn is_wrapped(schema: &Type, field: &Field) -> bool {
    &*field.name == "verbs" && &*schema.name == "apis.meta.v1.APIResource"
}

/// An opened envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the message, for example `apps/v1`.
    pub api_version: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// The message.
    pub raw: &'a [u8],
    /// Encoding of the message where it is compressed or the like.
    pub content_encoding: &'a str,
    /// Type of the message where it is no protobuf.
    pub content_type: &'a str,
}

/// Whether a body begins with the magic.
pub fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Opens a body.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let message = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let mut envelope = Envelope { api_version: "", kind: "", raw: &[], content_encoding: "", content_type: "" };
    let mut fields = Fields::new(message);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => {
                let mut meta = Fields::new(wire.bytes()?);
                while let Some((number, wire)) = meta.next()? {
                    match number {
                        1 => envelope.api_version = text(wire.bytes()?)?,
                        2 => envelope.kind = text(wire.bytes()?)?,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = wire.bytes()?,
            3 => envelope.content_encoding = text(wire.bytes()?)?,
            4 => envelope.content_type = text(wire.bytes()?)?,
            _ => {}
        }
    }
    Ok(envelope)
}

fn text(bytes: &[u8]) -> Result<&str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Malformed("a name is no UTF-8"))
}

/// Decodes the message of an envelope; `apiVersion` and `kind` come from the envelope. Plain fields are there even when
/// they are zero: [`crate::normalize`] comes next.
pub fn decode(envelope: &Envelope, schema: &Type) -> Result<Object, ProtobufError> {
    let mut object = Object(decode_message(envelope.raw, schema)?);
    if !envelope.kind.is_empty() || !envelope.api_version.is_empty() {
        object.set_kind(envelope.api_version, envelope.kind);
    }
    Ok(object)
}

/// Decodes a bare message.
pub fn decode_message(bytes: &[u8], schema: &Type) -> Result<serde_json::Map<String, serde_json::Value>, ProtobufError> {
    decode::message(bytes, schema, decode::DEPTH)
}

/// The bare message of an object, as it stands inside lists.
pub fn message(object: &Object, schema: &Type) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::with_capacity(1024);
    encode::message(&mut out, &object.0, schema)?;
    Ok(out)
}

/// A body: magic, envelope, message.
pub fn seal(api_version: &str, kind: &str, message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(MAGIC);
    let meta = put_message(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
        Ok::<(), std::convert::Infallible>(())
    });
    let Ok(()) = meta;
    put_bytes(&mut out, 2, message);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out.into()
}

/// The body of an object: [`message`] and [`seal`] in one step.
pub fn encode(object: &Object, schema: &Type) -> Result<Bytes, ProtobufError> {
    Ok(seal(object.api_version(), object.kind(), &message(object, schema)?))
}

/// The body of a list made from the bare messages of its items.
pub fn list<'a>(head: &ListHead, messages: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut out = Vec::new();
    let metadata = put_message(&mut out, 1, |out| {
        put_bytes(out, 1, b"");
        put_bytes(out, 2, head.resource_version.as_bytes());
        put_bytes(out, 3, head.continue_token.as_bytes());
        if let Some(remaining) = head.remaining {
            put_number(out, 4, remaining as u64);
        }
        Ok::<(), std::convert::Infallible>(())
    });
    let Ok(()) = metadata;
    for message in messages {
        put_bytes(&mut out, 2, message);
    }
    seal(head.api_version, head.kind, &out)
}

/// One frame of a watch: four bytes of length, then the bare event, which holds the sealed object `body`.
pub fn event(kind: &str, body: &[u8]) -> Bytes {
    let mut out = vec![0; 4];
    put_bytes(&mut out, 1, kind.as_bytes());
    let object = put_message(&mut out, 2, |out| {
        put_bytes(out, 1, body);
        Ok::<(), std::convert::Infallible>(())
    });
    let Ok(()) = object;
    let length = u32::try_from(out.len() - 4).expect("an event is smaller than 4 GiB");
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.into()
}

/// The body of a Status.
pub fn status(status: &Status) -> Bytes {
    let schema = api::schema::builtin("apis.meta.v1.Status").expect("the table has Status");
    let object = Object::from_value(status.to_value()).expect("a Status is an object");
    encode(&object, &schema).expect("a Status has a protobuf form")
}
