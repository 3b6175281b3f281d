//! Which services must be looked at again, and which slices belong to each.
//!
//! Changes only add names to a set. However many come while a transaction is under way, the next
//! one takes them all, and nothing runs while nothing changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cache::Cache;
use parking_lot::Mutex;
use store::Entry;
use tokio::sync::Notify;

/// The label by which a slice names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A service by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

/// The bookkeeping between caches and dataplane.
#[derive(Default)]
pub(crate) struct Tracker {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    /// Services that changed, or whose slices did, since they were last taken.
    changed: BTreeSet<ServiceKey>,
    /// Every service there is.
    known: BTreeSet<ServiceKey>,
    /// Names of the slices that name a service.
    slices: BTreeMap<ServiceKey, BTreeSet<Box<str>>>,
}

impl Tracker {
    /// Listens to both caches for as long as they live.
    pub(crate) fn follow(self: &Arc<Self>, services: &Cache, slices: &Cache) {
        let tracker = self.clone();
        services.subscribe(Box::new(move |old, new| tracker.service(old, new)));
        let tracker = self.clone();
        slices.subscribe(Box::new(move |old, new| tracker.slice(old, new)));
    }

    /// Waits for changes; also returns for those that came before.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }

    /// The services to look at.
    pub(crate) fn take(&self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.state.lock().changed)
    }

    /// All services are to be looked at again.
    pub(crate) fn all_again(&self) {
        let mut state = self.state.lock();
        state.changed = state.known.clone();
        self.notify.notify_one();
    }

    /// The names of a service's slices.
    pub(crate) fn slices_of(&self, key: &ServiceKey) -> Vec<Box<str>> {
        self.state.lock().slices.get(key).into_iter().flatten().cloned().collect()
    }

    fn service(&self, old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) {
        let Some(entry) = new.or(old) else { return };
        let key = ServiceKey { namespace: entry.header.namespace.clone(), name: entry.header.name.clone() };
        let mut state = self.state.lock();
        match new {
            Some(_) => state.known.insert(key.clone()),
            None => state.known.remove(&key),
        };
        state.changed.insert(key);
        self.notify.notify_one();
    }

    fn slice(&self, old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) {
        let mut state = self.state.lock();
        for (entry, there) in [(old, false), (new, true)] {
            let Some((key, entry)) = entry.and_then(|entry| Some((service_of(entry)?, entry))) else {
                continue;
            };
            let name = entry.header.name.clone();
            if there {
                state.slices.entry(key.clone()).or_default().insert(name);
            } else if let Some(names) = state.slices.get_mut(&key) {
                names.remove(&name);
                if names.is_empty() {
                    state.slices.remove(&key);
                }
            }
            // A slice may come before its service; the service's own coming will look at it.
            if state.known.contains(&key) {
                state.changed.insert(key);
            }
        }
        if !state.changed.is_empty() {
            self.notify.notify_one();
        }
    }
}

fn service_of(slice: &Entry) -> Option<ServiceKey> {
    let name = slice.header.label(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ServiceKey { namespace: slice.header.namespace.clone(), name: name.into() })
}
