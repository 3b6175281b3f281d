//! ConfigMaps and Secrets that pods of this node name: watched one by one while a pod needs them, and no longer.
//!
//! The Node authorizer grants nothing wider, and a change must reach mounted volumes without polling.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use cache::Caches;
use client::{Client, ResourceId, Selection};
use parking_lot::Mutex;
use store::Entry;

/// Kinds that are watched by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

impl ObjectKind {
    fn resource(self) -> ResourceId {
        ResourceId::new("", "v1", self.plural())
    }

    fn plural(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "configmaps",
            ObjectKind::Secret => "secrets",
        }
    }
}

/// Called with the UIDs of the pods that use a changed object.
pub type Changed = Arc<dyn Fn(&str) + Send + Sync>;

/// The objects in use by pods.
pub struct Objects {
    caches: Arc<Caches>,
    users: Arc<Mutex<HashMap<Selection, HashSet<String>>>>,
    changed: Changed,
}

/// How long a first look may take before the caller hears about it; the watch goes on.
const PATIENCE: Duration = Duration::from_secs(10);

impl Objects {
    /// Nothing is watched yet; `changed` hears the UID of every pod that uses a changed object.
    pub fn new(client: Client, changed: Changed) -> Objects {
        Objects { caches: Caches::new(client), users: Arc::default(), changed }
    }

    /// The object as it is now, `None` if it is not there. From now on the pod hears of its changes.
    ///
    /// # Errors
    /// The server could not be asked in time.
    pub async fn get(&self, pod_uid: &str, kind: ObjectKind, namespace: &str, name: &str) -> Result<Option<Arc<Entry>>, Status> {
        let selection = Selection::all(kind.resource()).in_namespace(namespace).with_fields(format!("metadata.name={name}"));
        let first = {
            let mut users = self.users.lock();
            let first = !users.contains_key(&selection);
            users.entry(selection.clone()).or_default().insert(pod_uid.to_owned());
            first
        };
        let cache = self.caches.get(selection.clone());
        if tokio::time::timeout(PATIENCE, cache.synced()).await.is_err() {
            return Err(Status::new(api::Reason::Timeout, format!("timed out waiting for {} {namespace}/{name}", kind.plural())));
        }
        if first {
            let (users, changed) = (self.users.clone(), self.changed.clone());
            cache.subscribe(Box::new(move |_, _| {
                let interested: Vec<String> = users.lock().get(&selection).into_iter().flatten().cloned().collect();
                interested.iter().for_each(|uid| changed(uid));
            }));
        }
        Ok(cache.get(namespace, name))
    }

    /// Forgets a pod; objects that nobody uses any more are no longer watched.
    pub fn release(&self, pod_uid: &str) {
        let mut unused = Vec::new();
        self.users.lock().retain(|selection, users| {
            users.remove(pod_uid);
            if users.is_empty() {
                unused.push(selection.clone());
            }
            !users.is_empty()
        });
        unused.iter().for_each(|selection| self.caches.release(selection));
    }
}
