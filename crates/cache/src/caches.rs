//! The caches of a component, shared by all that read the same selection.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Client, Selection};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};

use crate::{BY_ATTACHED_NODE, BY_NODE, BY_OWNER, BY_SELECTOR, BY_VOLUME, Cache, Index, ORPHANS};

/// Starts a cache when somebody first asks for its selection. Dropping it ends all of them.
pub struct Caches {
    client: Client,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    caches: HashMap<Selection, (Arc<Cache>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Caches {
    /// Caches that list and watch as the client's user. Must be used inside a tokio runtime.
    pub fn new(client: Client) -> Arc<Caches> {
        Arc::new(Caches { client, inner: Mutex::default() })
    }

    /// The cache of a selection, indexed by owner; pods and attachments by node, these by volume and services by selector, too.
    pub fn get(&self, selection: Selection) -> Arc<Cache> {
        let mut inner = self.inner.lock();
        if let Some((cache, _)) = inner.caches.get(&selection) {
            return cache.clone();
        }
        let mut indexes: Vec<Index> = vec![BY_OWNER];
        match (&*selection.resource.group, &*selection.resource.plural) {
            ("", "pods") => indexes.extend([BY_NODE, ORPHANS]),
            ("", "services") => indexes.push(BY_SELECTOR),
            ("storage.k8s.io", "volumeattachments") => indexes.extend([BY_ATTACHED_NODE, BY_VOLUME]),
            _ => {}
        }
        let cache = Arc::new(Cache::new(selection.clone(), indexes));
        let (client, follower) = (self.client.clone(), cache.clone());
        let task = inner.tasks.spawn(async move { follower.follow(client).await });
        inner.caches.insert(selection, (cache.clone(), task));
        cache
    }

    /// The cache of all objects of a typed kind.
    pub fn of<K: k8s_openapi::Resource>(&self) -> Arc<Cache> {
        self.get(Selection::of::<K>())
    }

    /// Ends a cache that nobody needs any more. Whoever still holds it sees its last state.
    pub fn release(&self, selection: &Selection) {
        let mut inner = self.inner.lock();
        if let Some((_, task)) = inner.caches.remove(selection) {
            task.abort();
        }
        while inner.tasks.try_join_next().is_some() {}
    }

    /// Waits until every cache asked for so far has its first list.
    pub async fn synced(&self) {
        let caches: Vec<Arc<Cache>> = self.all();
        for cache in caches {
            cache.synced().await;
        }
    }

    /// The caches started so far, for status and metrics.
    pub fn all(&self) -> Vec<Arc<Cache>> {
        self.inner.lock().caches.values().map(|(cache, _)| cache.clone()).collect()
    }
}
