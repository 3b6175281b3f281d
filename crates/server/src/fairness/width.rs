//! How many seats a request takes: reading many objects is more work than reading one.

use crate::attributes::{Attributes, Verb};
use crate::query::Query;
use crate::server::Server;

/// Objects that one seat reads.
const OBJECTS_PER_SEAT: usize = 100;

/// The seats of a request, at most `widest`.
pub fn seats(server: &Server, attributes: &Attributes, verb: Verb, query: Option<&Query>, widest: u32) -> u32 {
    let initial = || query.is_some_and(|query| query.tristate("sendInitialEvents") == Some(true));
    if !(verb == Verb::List || verb == Verb::Watch && initial()) || !attributes.is_resource() || widest <= 1 {
        return 1;
    }
    let catalog = server.catalog();
    let Some(served) = catalog.find(&attributes.group, &attributes.version, &attributes.resource) else { return 1 };
    let stored = if attributes.name.is_empty() { server.store.mvcc().snapshot(&served.store).len() } else { 1 };
    let limit = query.and_then(|query| query.number("limit").ok().flatten()).filter(|limit| *limit > 0);
    let objects = limit.map_or(stored, |limit| stored.min(usize::try_from(limit).unwrap_or(usize::MAX)));
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(widest).clamp(1, widest)
}
