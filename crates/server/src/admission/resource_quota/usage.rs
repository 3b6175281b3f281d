//! What one object uses of a quota now.

use api::{Object, ResourceDef};

pub use api::quota::{Usage, matches_scopes};

/// The usage of an object.
pub fn usage_of(object: &Object, def: &ResourceDef) -> Usage {
    api::quota::usage_of(object, def, jiff::Timestamp::now().as_second())
}
