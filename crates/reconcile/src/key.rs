//! What a reconcile is about: a namespace and a name, nothing else.

use std::fmt;
use std::sync::Arc;

use store::Entry;

/// Names an object; the namespace is empty for cluster objects. Controllers may use made-up keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace or empty.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key of its parts.
    pub fn new(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an entry.
    pub fn of(entry: &Entry) -> ObjectKey {
        ObjectKey::new(&entry.header.namespace, &entry.header.name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { write!(f, "{}", self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}
