//! Keeps the index up to date from the caches of Namespaces, Services and EndpointSlices.

use crate::facts::{ServiceFacts, SliceFacts};
use crate::index::Index;
use cache::{Cache, Caches, decode};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use std::sync::Arc;
use store::Entry;

/// The caches that feed an index.
pub(crate) struct Feed {
    caches: [Arc<Cache>; 3],
    index: Arc<RwLock<Index>>,
}

impl Feed {
    /// Starts feeding.
    pub(crate) fn start(caches: &Caches, index: &Arc<RwLock<Index>>) -> Self {
        let namespaces = caches.of::<Namespace>();
        subscribe(&namespaces, index, |index, name, entry| match entry {
            Some(_) => index.put_namespace(name),
            None => index.remove_namespace(name),
        });
        let services = caches.of::<Service>();
        subscribe(&services, index, |index, key, entry| {
            index.put_service(key, entry.and_then(|entry| ServiceFacts::of(&decode::<Service>(entry)?)));
        });
        let slices = caches.of::<EndpointSlice>();
        subscribe(&slices, index, |index, key, entry| {
            index.put_slice(key, entry.and_then(|entry| SliceFacts::of(&decode::<EndpointSlice>(entry)?)));
        });
        Self { caches: [namespaces, services, slices], index: index.clone() }
    }

    /// Waits until everything that exists is in the index, and says so in it.
    pub(crate) async fn complete(&self) {
        for cache in &self.caches {
            cache.synced().await;
        }
        self.index.write().complete = true;
    }
}

fn subscribe(cache: &Cache, index: &Arc<RwLock<Index>>, apply: fn(&mut Index, &str, Option<&Entry>)) {
    let index = index.clone();
    cache.subscribe(Box::new(move |before, after| {
        let Some(entry) = after.or(before) else {
            return;
        };
        apply(&mut index.write(), &entry.key.rest, after.map(|entry| &**entry));
    }));
}
