//! Admission policies: expressions in place of webhooks, bound to what they judge by bindings with parameters.

mod bound;
mod mutating;
mod validating;

pub use mutating::mutating;
pub use validating::validating;
