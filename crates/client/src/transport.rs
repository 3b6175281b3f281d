//! What carries calls: over TLS, or straight into the server of the same process.

use std::pin::Pin;
use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use store::{Entry, Revision};

use crate::ResourceId;

/// Carries calls of one user. The server gives one for in-process use.
pub trait Transport: Send + Sync + 'static {
    /// One request and its whole answer. Failures of the API come as [`Status`]; the response is a success.
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, Status>>;

    /// The objects of a selection and every change after them.
    ///
    /// # Guarantees
    /// The changes follow the list without gap or repetition. The stream resumes by itself as long as it
    /// can; after an error it is over and the caller lists afresh.
    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>>;
}

/// Which objects of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection {
    /// The resource.
    pub resource: ResourceId,
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Label selector as text, empty for all.
    pub labels: String,
    /// Field selector as text, empty for all.
    pub fields: String,
}

impl Selection {
    /// All objects of a resource in all namespaces.
    pub fn all(resource: ResourceId) -> Selection {
        Selection { resource, namespace: None, labels: String::new(), fields: String::new() }
    }

    /// All objects of a typed kind.
    pub fn of<K: k8s_openapi::Resource>() -> Selection {
        Selection::all(ResourceId::of::<K>())
    }

    /// Only one namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Selection {
        self.namespace = Some(namespace.into());
        self
    }

    /// Only objects with these fields, for example `spec.nodeName=a`.
    #[must_use]
    pub fn with_fields(mut self, fields: impl Into<String>) -> Selection {
        self.fields = fields.into();
        self
    }

    /// Only objects with these labels.
    #[must_use]
    pub fn with_labels(mut self, labels: impl Into<String>) -> Selection {
        self.labels = labels.into();
        self
    }
}

/// A list and what happens after it.
pub struct ListWatch {
    /// The objects at `revision`, in key order.
    pub initial: Vec<Arc<Entry>>,
    /// The revision of the list.
    pub revision: Revision,
    /// Changes after it.
    pub changes: ChangeStream,
}

/// Changes in revision order.
pub type ChangeStream = Pin<Box<dyn Stream<Item = Result<Change, Status>> + Send>>;

/// One change of a selection.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is now in the selection with this version.
    Put(Arc<Entry>),
    /// The object left the selection: it was deleted, or its labels or fields changed. The last version, with the
    /// revision of the change.
    Deleted(Arc<Entry>),
    /// Everything up to this revision was delivered.
    Progress(Revision),
}
