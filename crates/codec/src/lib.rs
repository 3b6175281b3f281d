//! Bytes to objects and back: JSON, YAML, protobuf, tables.
//!
//! Invariants: nothing here waits or allocates by what a client claims before it is checked, no input
//! panics, and every form is derived from the one schema table of `api`.

pub mod json;
pub mod list;
pub mod metadata_only;
pub mod openapi;
pub mod protobuf;
pub mod table;
pub mod yaml;

mod octets;

pub use json::{DecodeError, Decoded, Strictness};
pub use list::ListHead;

/// Deepest nesting of a document that is accepted, in any encoding. It stays below the 128 levels that
/// `serde_json` reads by default, so what was accepted inside a list or watch event can be read by every part.
pub const MAX_DEPTH: usize = 120;

/// Brings an object into the form that a Go round trip gives it.
pub fn normalize(object: &mut api::Object, schema: &api::Type) {
    api::normal::normalize(&mut object.0, schema);
}
