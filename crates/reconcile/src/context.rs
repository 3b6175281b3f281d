//! What a reconcile may touch: caches to read, a client to write, a recorder to tell.

use std::sync::Arc;

use cache::{Cache, Caches};
use client::{Client, EventKind, Recorder, Selection};
use serde_json::json;

use crate::{ObjectKey, Queue, Watch};

/// Where later watches bring their keys.
#[derive(Clone)]
pub(crate) struct Feed {
    pub(crate) queue: Arc<Queue<ObjectKey>>,
}

/// Handed to every reconcile; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Writes as the controller's own user.
    pub client: Client,
    /// Shared caches.
    pub caches: Arc<Caches>,
    /// Records events.
    pub recorder: Recorder,
    pub(crate) feed: Option<Feed>,
}

impl Context {
    /// A context before its controller runs.
    pub fn new(client: Client, caches: Arc<Caches>, recorder: Recorder) -> Context {
        Context { client, caches, recorder, feed: None }
    }

    /// Begins to watch one selection more, for kinds that appear while the controller runs. Each call adds a handler.
    pub fn watch(&self, watch: Watch) -> Arc<Cache> {
        let cache = self.caches.get(watch.selection);
        if let Some(feed) = self.feed.clone() {
            let context = self.clone();
            cache.subscribe(Box::new(move |old, new| (watch.map)(&context, old, new, &mut |key| feed.queue.add(key))));
        }
        cache
    }

    /// Makes a key due.
    pub fn add(&self, key: ObjectKey) {
        if let Some(feed) = &self.feed {
            feed.queue.add(key);
        }
    }

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
