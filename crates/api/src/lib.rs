//! What Kubernetes objects are: the schema table, objects, keys, statuses, selectors, quantities,
//! and the behaviour of types and kinds.
//!
//! Invariant: this crate never waits. No IO, no async, no clock; everything is a function of its
//! arguments and of the schema table that is compiled in.

pub mod causes;
pub mod check;
pub mod convert;
pub mod cron;
pub mod field_selector;
mod kind;
pub mod kinds;
pub mod label_selector;
pub mod names;
pub mod normal;
pub mod object;
pub mod path;
pub mod pods;
pub mod print;
pub mod quantity;
pub mod quota;
pub mod read;
pub mod resources;
mod rules;
pub mod schema;
pub mod shown;
pub mod status;
pub mod time;
pub mod types;

pub use causes::{Cause, Causes};
pub use field_selector::FieldSelector;
pub use label_selector::LabelSelector;
pub use object::Object;
pub use path::Path;
pub use quantity::Quantity;
pub use resources::{ResourceDef, Scope};
pub use schema::{Field, Form, Scalar, Shape, Type, TypeRef};
pub use status::{Reason, Status};

/// Version of Kubernetes whose API is served, with our own build number behind the plus sign.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "+knarr.1");
