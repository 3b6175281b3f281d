//! A set of field paths, as `fieldsV1` writes it.

/// A set of paths into an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {}
