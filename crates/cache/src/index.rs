//! Secondary keys of a cache, read off headers.

use client::{AttachmentLite, ServiceLite};
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

/// Services by one of the labels that they choose their pods by, under [`selector_key`]: a pod finds its services by its labels.
pub const BY_SELECTOR: Index = Index {
    name: "selector",
    keys: |entry, add| {
        if let Some((label, value)) = entry.header.project::<ServiceLite>().and_then(|service| service.selector.first()) {
            add(&selector_key(&entry.header.namespace, label, value));
        }
    },
};

/// Attachments of volumes by their node.
pub const BY_ATTACHED_NODE: Index = Index {
    name: "attached-node",
    keys: |entry, add| entry.header.project::<AttachmentLite>().into_iter().for_each(|attachment| add(&attachment.node)),
};

/// Attachments by their persistent volume.
pub const BY_VOLUME: Index = Index {
    name: "volume",
    keys: |entry, add| {
        let volume = entry.header.project::<AttachmentLite>().map(|attachment| &attachment.volume);
        volume.filter(|volume| !volume.is_empty()).into_iter().for_each(|volume| add(volume));
    },
};

/// A label in a namespace as a key of [`BY_SELECTOR`].
pub fn selector_key(namespace: &str, label: &str, value: &str) -> String {
    [namespace, "/", label, "=", value].concat()
}
