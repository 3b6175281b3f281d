//! JSON in and out, guided by the schema: fields are checked while the bytes are read once.
//!
//! A document nested too deep is refused at the first level too many, so hostile nesting costs nothing.

use api::{Object, Reason, Status, Type};
use serde_json::Value;

use crate::MAX_DEPTH;

mod read;
mod scan;

pub(crate) use scan::float_value;

use read::{Reader, Want};

/// What to do with unknown and duplicate fields (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Drop them silently.
    Ignore,
    /// Drop them and report each in [`Decoded::problems`].
    Warn,
    /// Refuse the document with all of them in the message.
    Strict,
}

/// A decoded document.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Only what the schema knows.
    pub object: Object,
    /// Unknown and duplicate fields, for example `unknown field "spec.foo"`; only with [`Strictness::Warn`].
    pub problems: Vec<String>,
}

/// Why a document cannot be an object of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No valid JSON (or YAML) at all.
    #[error("{0}")]
    Syntax(String),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("exceeded max depth")]
    TooDeep,
    /// A value of the wrong type.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields in strict mode.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

impl DecodeError {
    /// The answer 400 in the words of the API: `Pod in version "v1" cannot be handled as a Pod: ...`.
    pub fn status(&self, version: &str, kind: &str) -> Status {
        Status::new(Reason::BadRequest, format!("{kind} in version {version:?} cannot be handled as a {kind}: {self}"))
    }
}

/// Reads any JSON document, without a schema. The last of duplicate fields wins.
pub fn parse(bytes: &[u8]) -> Result<Value, DecodeError> {
    Reader::new(bytes, Strictness::Ignore).document(Want::Any)
}

/// Reads an object of a type.
pub fn decode(bytes: &[u8], schema: &Type, strictness: Strictness) -> Result<Decoded, DecodeError> {
    let mut reader = Reader::new(bytes, strictness);
    let value = match reader.document(Want::Type(schema)) {
        Err(DecodeError::Syntax(text)) => {
            return Err(DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {text}")));
        }
        read => read?,
    };
    let problems = reader.problems;
    if strictness == Strictness::Strict && !problems.is_empty() {
        return Err(DecodeError::Strict(problems));
    }
    let wrong = || DecodeError::Type(format!("json: cannot unmarshal into Go value of type {}", schema.name));
    Ok(Decoded { object: Object::from_value(value).ok_or_else(wrong)?, problems })
}

/// Reads an object of a type from a value that was already parsed (YAML, the result of a patch).
pub fn decode_value(value: Value, schema: &Type, strictness: Strictness) -> Result<Decoded, DecodeError> {
    if depth_exceeds(&value, MAX_DEPTH) {
        return Err(DecodeError::TooDeep);
    }
    decode(&serde_json::to_vec(&value).expect("a JSON value can always be written"), schema, strictness)
}

/// The JSON bytes of an object.
pub fn encode(object: &Object) -> Vec<u8> {
    serde_json::to_vec(&object.0).expect("a JSON value can always be written")
}

fn depth_exceeds(value: &Value, left: usize) -> bool {
    match value {
        Value::Array(items) => left == 0 || items.iter().any(|item| depth_exceeds(item, left - 1)),
        Value::Object(map) => left == 0 || map.values().any(|item| depth_exceeds(item, left - 1)),
        _ => false,
    }
}
