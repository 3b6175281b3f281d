//! Garbage collector: removes objects whose owners are gone, and lets owners that wait for their dependents go.
//!
//! The graph is the owner index of the caches: every resource that can be listed, watched and deleted is cached
//! (entries are shared, so that this costs pointers), and dependents of a uid are one look-up a cache. A key names a
//! resource and an object. That an owner is gone is never believed of a cache alone: it is asked of the server.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use cache::{BY_OWNER, Cache};
use client::{DeleteOptions, PatchKind, Propagation, ResourceId, Selection};
use http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use parking_lot::{Mutex, RwLock};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::{Value, json};
use store::{Entry as Object, OwnerRef};

use crate::{Config, Entry, discovery};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Key that stands for looking which resources there are.
const DISCOVER: &str = "discover resources";
/// Absent owners that are remembered.
const REMEMBERED: usize = 1000;
/// How long the first list of a resource may hold up decisions about all dependents of an object.
const FIRST_LIST: Duration = Duration::from_secs(30);

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry {
        account: "generic-garbage-collector",
        controller: Arc::new(GarbageCollector { graph: Arc::default(), absent: Mutex::default(), unresolved: Mutex::default() }),
    }
}

struct GarbageCollector {
    graph: Arc<Graph>,
    /// Uids of owners that were not there; a uid never comes back.
    absent: Mutex<HashSet<Box<str>>>,
    /// Objects with an owner of a kind that nobody serves.
    unresolved: Mutex<HashSet<ObjectKey>>,
}

/// All resources under watch.
#[derive(Default)]
struct Graph {
    resources: RwLock<HashMap<ResourceId, Watched>>,
    /// Resource by group and kind.
    kinds: RwLock<HashMap<(String, String), ResourceId>>,
}

#[derive(Clone)]
struct Watched {
    cache: Arc<Cache>,
    namespaced: bool,
    since: Instant,
}

#[async_trait]
impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let discover = || ObjectKey::new("", DISCOVER);
        vec![
            Watch::mapped(Selection::of::<CustomResourceDefinition>(), move |_, _, _, add| add(discover())),
            Watch::mapped(Selection::of::<APIService>(), move |_, _, _, add| add(discover())),
        ]
    }

    fn first(&self) -> Vec<ObjectKey> {
        vec![ObjectKey::new("", DISCOVER)]
    }

    fn workers(&self) -> usize {
        8
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        if &*key.name == DISCOVER {
            return self.discover(context).await;
        }
        let Some((resource, watched, entry)) = self.graph.find(key) else {
            return Ok(Next::Done);
        };
        let waits = entry.header.finalizers.iter().any(|one| matches!(&**one, FOREGROUND | ORPHAN));
        if entry.header.deletion_timestamp.is_none() {
            return self.judge(context, key, &resource, watched.namespaced, &entry).await;
        }
        if !waits {
            return Ok(Next::Done);
        }
        if !self.graph.is_listed() {
            return Ok(Next::After(Duration::from_millis(200)));
        }
        if has(&entry, ORPHAN) {
            return self.orphan(context, &resource, &entry).await;
        }
        self.release_when_alone(context, &resource, &entry).await
    }
}

impl GarbageCollector {
    /// Watches what is new and forgets what is gone.
    async fn discover(&self, context: &Context) -> Result<Next> {
        let (found, stale) = discovery::resources(&context.client).await?;
        let wanted: Vec<_> = found
            .into_iter()
            .filter(|one| ["list", "watch", "delete"].iter().all(|verb| one.has(verb)))
            .filter(|one| one.resource.plural != "events")
            .collect();
        let is_stale = |resource: &ResourceId| stale.iter().any(|version| *version == format!("{}/{}", resource.group, resource.version));
        let gone: Vec<ResourceId> = {
            let resources = self.graph.resources.read();
            resources.keys().filter(|known| !wanted.iter().any(|one| one.resource == **known) && !is_stale(known)).cloned().collect()
        };
        for resource in gone {
            self.graph.resources.write().remove(&resource);
            self.graph.kinds.write().retain(|_, known| *known != resource);
            context.caches.release(&Selection::all(resource));
        }
        for one in wanted {
            self.graph.kinds.write().insert((one.resource.group.to_string(), one.kind.clone()), one.resource.clone());
            if self.graph.resources.read().contains_key(&one.resource) {
                continue;
            }
            let cache = context.cache_of(Selection::all(one.resource.clone()));
            self.graph.resources.write().insert(one.resource.clone(), Watched { cache, namespaced: one.namespaced, since: Instant::now() });
            let (graph, resource) = (self.graph.clone(), one.resource.clone());
            context.watch(Watch::mapped(Selection::all(one.resource), move |_, old, new, add| graph.changed(&resource, old, new, add)));
        }
        for key in self.unresolved.lock().drain() {
            context.add(key);
        }
        Ok(Next::Done)
    }

    /// An object with owners stays as long as one of them does.
    async fn judge(
        &self,
        context: &Context,
        key: &ObjectKey,
        resource: &ResourceId,
        namespaced: bool,
        entry: &Arc<Object>,
    ) -> Result<Next> {
        if entry.header.owners.is_empty() {
            return Ok(Next::Done);
        }
        let mut owners = Vec::new();
        for owner in &entry.header.owners {
            match self.state(context, owner, namespaced, &entry.header.namespace).await? {
                State::Unknown => {
                    self.unresolved.lock().insert(key.clone());
                    return Ok(Next::Done);
                }
                state => owners.push(state),
            }
        }
        let dependents = self.graph.dependents(&entry.header.uid);
        match decide(&owners, !dependents.is_empty()) {
            Decision::Keep => {}
            Decision::Cut => {
                let lost =
                    |uid: &str| entry.header.owners.iter().zip(&owners).any(|(owner, state)| *owner.uid == *uid && *state != State::Solid);
                self.rewrite_owners(context, resource, entry, |owners| owners.retain(|owner| !lost(owner["uid"].as_str().unwrap_or(""))))
                    .await?;
            }
            Decision::Foreground => {
                // A circle of objects that wait for each other: this one no longer blocks.
                let circle =
                    dependents.iter().any(|(_, dependent)| dependent.header.deletion_timestamp.is_some() && has(dependent, FOREGROUND));
                if circle {
                    let unblock = |owners: &mut Vec<Value>| owners.iter_mut().for_each(|owner| owner["blockOwnerDeletion"] = false.into());
                    if self.rewrite_owners(context, resource, entry, unblock).await? {
                        return Ok(Next::Done);
                    }
                }
                delete(context, resource, entry, Propagation::Foreground).await?;
            }
            Decision::Delete => {
                let policy = if has(entry, ORPHAN) {
                    Propagation::Orphan
                } else if has(entry, FOREGROUND) {
                    Propagation::Foreground
                } else {
                    Propagation::Background
                };
                delete(context, resource, entry, policy).await?;
            }
        }
        Ok(Next::Done)
    }

    /// Whether an owner is there, by the cache or else by the server.
    async fn state(&self, context: &Context, owner: &OwnerRef, namespaced: bool, namespace: &str) -> Result<State> {
        if self.absent.lock().contains(&owner.uid) {
            return Ok(State::Absent);
        }
        let Some((resource, watched)) = self.graph.by_kind(owner) else {
            return Ok(State::Unknown);
        };
        let place = match (watched.namespaced, namespaced) {
            (false, _) => "",
            (true, true) => namespace,
            // An object of the cluster cannot name the namespace of its owner: the reference means nothing.
            (true, false) => return Ok(State::Solid),
        };
        if let Some(found) = watched.cache.get(place, &owner.name).filter(|found| found.header.uid == owner.uid) {
            let waits = found.header.deletion_timestamp.is_some() && has(&found, FOREGROUND);
            return Ok(if waits { State::Waiting } else { State::Solid });
        }
        match context.client.call(Method::GET, &resource.path(place, &owner.name, ""), &Value::Null).await {
            Ok(found) if found["metadata"]["uid"] == *owner.uid => {
                let waits = !found["metadata"]["deletionTimestamp"].is_null()
                    && found["metadata"]["finalizers"].as_array().into_iter().flatten().any(|one| one == FOREGROUND);
                return Ok(if waits { State::Waiting } else { State::Solid });
            }
            Ok(_) => {}
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status.into()),
        }
        let mut absent = self.absent.lock();
        if absent.len() >= REMEMBERED {
            absent.clear();
        }
        absent.insert(owner.uid.clone());
        Ok(State::Absent)
    }

    /// Dependents forget the owner; then it may go.
    async fn orphan(&self, context: &Context, resource: &ResourceId, entry: &Arc<Object>) -> Result<Next> {
        let uid = &*entry.header.uid;
        for (of, dependent) in self.graph.dependents(uid) {
            self.rewrite_owners(context, &of, &dependent, |owners| owners.retain(|owner| owner["uid"] != *uid)).await?;
        }
        remove_finalizer(context, resource, entry, ORPHAN).await?;
        Ok(Next::Done)
    }

    /// An owner that waits goes when no dependent blocks it.
    async fn release_when_alone(&self, context: &Context, resource: &ResourceId, entry: &Arc<Object>) -> Result<Next> {
        let uid = &entry.header.uid;
        let dependents = self.graph.dependents(uid);
        let blocks = |dependent: &Object| dependent.header.owners.iter().any(|owner| owner.uid == *uid && owner.block);
        if dependents.iter().any(|(_, dependent)| blocks(dependent)) {
            return Ok(Next::Done);
        }
        remove_finalizer(context, resource, entry, FOREGROUND).await?;
        Ok(Next::Done)
    }

    async fn rewrite_owners(
        &self,
        context: &Context,
        resource: &ResourceId,
        entry: &Object,
        change: impl FnOnce(&mut Vec<Value>),
    ) -> Result<bool> {
        let object: Value = serde_json::from_slice(&entry.bytes)?;
        let mut owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let before = owners.clone();
        change(&mut owners);
        if owners == before {
            return Ok(false);
        }
        patch(context, resource, entry, json!({"ownerReferences": owners})).await?;
        Ok(true)
    }
}

impl Graph {
    /// A change of a watched object: what becomes due.
    fn changed(&self, resource: &ResourceId, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>, add: &mut dyn FnMut(ObjectKey)) {
        let replaced = old.zip(new).is_some_and(|(old, new)| old.header.uid != new.header.uid);
        if let Some(old) = old.filter(|_| new.is_none() || replaced) {
            self.add_dependents(&old.header.uid, add);
            self.add_waiting_owners(old, add);
        }
        let Some(new) = new else {
            return;
        };
        let old = old.filter(|_| !replaced);
        let waits = |entry: &Arc<Object>| entry.header.deletion_timestamp.is_some() && (has(entry, FOREGROUND) || has(entry, ORPHAN));
        if waits(new) && !old.is_some_and(waits) {
            add(key_of(resource, new));
            self.add_dependents(&new.header.uid, add);
            // A dependent that waits itself may close a circle.
            self.add_waiting_owners(new, add);
        }
        let same_owners = old.is_some_and(|old| old.header.owners == new.header.owners);
        if !same_owners {
            if let Some(old) = old {
                self.add_waiting_owners(old, add);
            }
            if !new.header.owners.is_empty() {
                add(key_of(resource, new));
            }
        }
    }

    fn add_dependents(&self, uid: &str, add: &mut dyn FnMut(ObjectKey)) {
        for (resource, dependent) in self.dependents(uid) {
            add(key_of(&resource, &dependent));
        }
    }

    fn add_waiting_owners(&self, entry: &Object, add: &mut dyn FnMut(ObjectKey)) {
        for owner in &entry.header.owners {
            let Some((resource, watched)) = self.by_kind(owner) else {
                continue;
            };
            let namespace = if watched.namespaced { &*entry.header.namespace } else { "" };
            if let Some(found) = watched.cache.get(namespace, &owner.name).filter(|found| has(found, FOREGROUND)) {
                add(key_of(&resource, &found));
            }
        }
    }

    fn dependents(&self, uid: &str) -> Vec<(ResourceId, Arc<Object>)> {
        let resources = self.resources.read();
        let all = resources
            .iter()
            .flat_map(|(resource, watched)| watched.cache.by(&BY_OWNER, uid).into_iter().map(move |entry| (resource.clone(), entry)));
        all.collect()
    }

    fn by_kind(&self, owner: &OwnerRef) -> Option<(ResourceId, Watched)> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let resource = self.kinds.read().get(&(group.to_owned(), owner.kind.to_string())).cloned()?;
        let watched = self.resources.read().get(&resource).cloned()?;
        Some((resource, watched))
    }

    fn find(&self, key: &ObjectKey) -> Option<(ResourceId, Watched, Arc<Object>)> {
        let (resource, namespace) = key.namespace.split_once('|')?;
        let mut parts = resource.split('/').map(str::to_owned);
        let resource = ResourceId { group: parts.next()?.into(), version: parts.next()?.into(), plural: parts.next()?.into() };
        let watched = self.resources.read().get(&resource).cloned()?;
        let entry = watched.cache.get(namespace, &key.name)?;
        Some((resource, watched, entry))
    }

    /// Whether every resource has its first list, or had time enough for it.
    fn is_listed(&self) -> bool {
        self.resources.read().values().all(|watched| watched.cache.is_synced() || watched.since.elapsed() > FIRST_LIST)
    }
}

/// What an owner is to its dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There.
    Solid,
    /// Being deleted, and waiting for its dependents.
    Waiting,
    /// Not there.
    Absent,
    /// Of a kind that is not served now.
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Keep,
    /// Remove references to owners that are not solid.
    Cut,
    /// Delete, dependents first.
    Foreground,
    Delete,
}

fn decide(owners: &[State], has_dependents: bool) -> Decision {
    let solid = owners.contains(&State::Solid);
    let lost = owners.iter().any(|state| *state != State::Solid);
    match (solid, lost) {
        (true, false) => Decision::Keep,
        (true, true) => Decision::Cut,
        _ if owners.contains(&State::Waiting) && has_dependents => Decision::Foreground,
        _ => Decision::Delete,
    }
}

fn has(entry: &Object, finalizer: &str) -> bool {
    entry.header.finalizers.iter().any(|one| **one == *finalizer)
}

fn key_of(resource: &ResourceId, entry: &Object) -> ObjectKey {
    ObjectKey::new(&format!("{}/{}/{}|{}", resource.group, resource.version, resource.plural, entry.header.namespace), &entry.header.name)
}

async fn delete(context: &Context, resource: &ResourceId, entry: &Object, policy: Propagation) -> Result<()> {
    let options = DeleteOptions {
        uid: Some(entry.header.uid.to_string()),
        resource_version: Some(entry.revision.to_string()),
        propagation: Some(policy),
        ..DeleteOptions::default()
    };
    match context.client.delete(resource, &entry.header.namespace, &entry.header.name, &options).await {
        Err(status) if !status.is_not_found() => Err(status.into()),
        _ => Ok(()),
    }
}

async fn remove_finalizer(context: &Context, resource: &ResourceId, entry: &Object, finalizer: &str) -> Result<()> {
    let rest: Vec<&str> = entry.header.finalizers.iter().map(|one| &**one).filter(|one| *one != finalizer).collect();
    patch(context, resource, entry, json!({"finalizers": rest})).await
}

/// Patches metadata of this very version; an object that is gone is fine.
async fn patch(context: &Context, resource: &ResourceId, entry: &Object, mut metadata: Value) -> Result<()> {
    metadata["uid"] = (*entry.header.uid).into();
    metadata["resourceVersion"] = entry.revision.to_string().into();
    let patch = json!({"metadata": metadata});
    match context.client.patch(resource, &entry.header.namespace, &entry.header.name, "", &PatchKind::Merge, &patch).await {
        Err(status) if !status.is_not_found() => Err(status.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        use State::{Absent, Solid, Waiting};
        let cases = [
            (&[Solid][..], false, Decision::Keep),
            (&[Solid, Absent], false, Decision::Cut),
            (&[Solid, Waiting], true, Decision::Cut),
            (&[Waiting], true, Decision::Foreground),
            (&[Waiting], false, Decision::Delete),
            (&[Absent, Waiting], true, Decision::Foreground),
            (&[Absent], true, Decision::Delete),
        ];
        for (owners, dependents, wanted) in cases {
            assert_eq!(decide(owners, dependents), wanted, "{owners:?}");
        }
    }
}
