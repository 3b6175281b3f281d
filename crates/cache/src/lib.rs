//! A shared read-only view of a kind, kept by list and watch.
//!
//! In process the entries are the store's own, so that a cache costs a pointer per object; over HTTP they are
//! made once per process. Nothing here decodes: selectors, owners and indexes read headers.

mod caches;
mod index;
mod view;

pub use caches::Caches;
pub use index::{BY_ATTACHED_NODE, BY_NODE, BY_OWNER, BY_SELECTOR, BY_VOLUME, Index, ORPHANS, selector_key};
pub use view::{Cache, Handler, decode};
