//! What is known about an object version without decoding it.
//!
//! Selectors, ownership, quota, garbage collection and field selectors read the header, so a version
//! is looked into once, when it is stamped. It stays as long as the version does: every field is as
//! small as its content allows.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The typed facts of one object version. Filled by the [`Stamp`](crate::Stamp) function.
#[derive(Clone, Default)]
pub struct Header {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.namespace`, empty for an object without one.
    pub namespace: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`, sorted by key. Versions with equal labels may share them.
    pub labels: Arc<[(Box<str>, Box<str>)]>,
    /// `metadata.ownerReferences`.
    pub owners: Box<[OwnerRef]>,
    /// `metadata.finalizers`.
    pub finalizers: Box<[Box<str>]>,
    /// `metadata.deletionTimestamp`.
    pub deletion_timestamp: Option<Box<str>>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Values of the kind's selectable fields such as `spec.nodeName`, sorted by name. A missing
    /// field reads as the empty string. The names are shared by all entries of a kind.
    pub fields: Box<[(Arc<str>, Box<str>)]>,
    /// A small projection typed by kind, for readers that need a few columns of many objects.
    pub projection: Option<Arc<dyn Any + Send + Sync>>,
}

impl Header {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// The value of a selectable field, empty where the object has none.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| **field == *name).map_or("", |(_, value)| value)
    }

    /// The projection, if it is a `T`.
    pub fn project<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.projection.as_deref()?.downcast_ref()
    }

    /// The owner whose `controller` flag is set.
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// Bytes on the heap that this header holds, roughly: shared and projected parts not counted.
    pub(crate) fn weight(&self) -> usize {
        self.name.len()
            + self.namespace.len()
            + self.uid.len()
            + self.labels.iter().map(|(k, v)| k.len() + v.len() + 32).sum::<usize>()
            + self.owners.iter().map(OwnerRef::weight).sum::<usize>()
            + self.finalizers.iter().map(|f| f.len() + 16).sum::<usize>()
            + self.fields.iter().map(|(_, v)| v.len() + 32).sum::<usize>()
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .field("uid", &self.uid)
            .field("labels", &self.labels)
            .field("owners", &self.owners)
            .field("finalizers", &self.finalizers)
            .field("deletion_timestamp", &self.deletion_timestamp)
            .field("generation", &self.generation)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// One of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnerRef {
    /// `uid`.
    pub uid: Box<str>,
    /// `apiVersion`.
    pub api_version: Box<str>,
    /// `kind`.
    pub kind: Box<str>,
    /// `name`.
    pub name: Box<str>,
    /// `controller`.
    pub controller: bool,
    /// `blockOwnerDeletion`.
    pub block: bool,
}

impl OwnerRef {
    fn weight(&self) -> usize {
        size_of::<OwnerRef>() + self.uid.len() + self.api_version.len() + self.kind.len() + self.name.len()
    }
}
