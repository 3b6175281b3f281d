//! What a reconcile may touch: caches to read, a client to write, a recorder to tell.

use std::sync::Arc;

use cache::{Cache, Caches};
use client::{Client, EventKind, Recorder, Selection};
use serde_json::json;

/// Handed to every reconcile; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Writes as the controller's own user.
    pub client: Client,
    /// Shared caches.
    pub caches: Arc<Caches>,
    /// Records events.
    pub recorder: Recorder,
}

impl Context {
    /// The cache of a typed kind. Controllers read only kinds that they watch.
    pub fn cache<K: k8s_openapi::Resource>(&self) -> Arc<Cache> {
        self.caches.of::<K>()
    }

    /// The cache of a selection.
    pub fn cache_of(&self, selection: Selection) -> Arc<Cache> {
        self.caches.get(selection)
    }

    /// Records an event about a typed object.
    pub fn event<K>(&self, object: &K, kind: EventKind, reason: &str, message: impl Into<String>)
    where
        K: k8s_openapi::Resource + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    {
        let metadata = object.metadata();
        let regarding = json!({
            "apiVersion": K::API_VERSION, "kind": K::KIND, "namespace": metadata.namespace, "name": metadata.name,
            "uid": metadata.uid, "resourceVersion": metadata.resource_version,
        });
        self.recorder.record(regarding, kind, reason, message);
    }
}
