//! JSON patch, merge patch, strategic merge and server-side apply over the schema.
//!
//! Invariant: every function here is a pure function of documents, schema and the time that it is given.

pub mod json_patch;
pub mod managed;
pub mod merge_patch;
pub mod strategic;

mod error;

pub use error::{PatchError, go_text};
pub use managed::{ApplyError, Conflict, FieldSet, Managed, ManagedBy, Operation};
