//! Secondary keys of a cache, read off headers.

use store::Entry;

/// A named way from an entry to the keys under which it is found.
#[derive(Clone, Copy)]
pub struct Index {
    /// Name, unique in a cache.
    pub name: &'static str,
    /// Calls `add` with each key.
    pub keys: fn(&Entry, &mut dyn FnMut(&str)),
}

/// By the uid of each owner.
pub const BY_OWNER: Index = Index { name: "owner", keys: |entry, add| entry.header.owners.iter().for_each(|owner| add(&owner.uid)) };

/// By `spec.nodeName`.
pub const BY_NODE: Index = Index { name: "node", keys: |entry, add| add(entry.header.field("spec.nodeName")) };

/// By namespace, of objects without controller: those that somebody may adopt.
pub const ORPHANS: Index = Index {
    name: "orphans",
    keys: |entry, add| {
        if entry.header.controller().is_none() {
            add(&entry.header.namespace);
        }
    },
};
