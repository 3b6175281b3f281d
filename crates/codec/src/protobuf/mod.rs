//! Protobuf as the API's clients speak it, driven by field numbers of the schema table.
//!
//! A body is the magic `k8s\0` and an envelope (`runtime.Unknown`) that names the kind and holds the message.

use api::{Object, Status, Type};
use bytes::Bytes;

use crate::ListHead;

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

/// Opens a body.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let _ = bytes;
    Err(ProtobufError::NoMagic)
}

/// Decodes the message of an envelope; `apiVersion` and `kind` come from the envelope.
pub fn decode(envelope: &Envelope, schema: &Type) -> Result<Object, ProtobufError> {
    let _ = (envelope, schema);
    Err(ProtobufError::Malformed("protobuf is not available yet"))
}

/// The bare message of an object, as it stands inside lists.
pub fn message(object: &Object, schema: &Type) -> Result<Vec<u8>, ProtobufError> {
    let _ = (object, schema);
    Err(ProtobufError::Malformed("protobuf is not available yet"))
}

/// A body: magic, envelope, message.
pub fn seal(api_version: &str, kind: &str, message: &[u8]) -> Bytes {
    let _ = (api_version, kind, message);
    Bytes::new()
}

/// The body of an object: [`message`] and [`seal`] in one step.
pub fn encode(object: &Object, schema: &Type) -> Result<Bytes, ProtobufError> {
    Ok(seal(object.api_version(), object.kind(), &message(object, schema)?))
}

/// The body of a list made from the bare messages of its items.
pub fn list<'a>(head: &ListHead, messages: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let _ = (head, messages.into_iter());
    Bytes::new()
}

/// One frame of a watch with its length in front; `body` is the sealed object.
pub fn event(kind: &str, body: &[u8]) -> Bytes {
    let _ = (kind, body);
    Bytes::new()
}

/// The body of a Status.
pub fn status(status: &Status) -> Bytes {
    let _ = status;
    Bytes::new()
}
