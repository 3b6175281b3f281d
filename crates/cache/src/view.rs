//! One cache: the entries of a selection with their indexes, and the revision that they have reached.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::Status;
use client::{Change, Client, ListWatch, Selection};
use futures_util::StreamExt;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use smallvec::SmallVec;
use store::{Entry, Revision};
use tokio::sync::watch;

use crate::Index;

/// Told about every change: the version before and the version after; one of them is there.
pub type Handler = Box<dyn Fn(Option<&Arc<Entry>>, Option<&Arc<Entry>>) + Send + Sync>;

/// Entries of one selection. Written by one task, read by everyone.
///
/// # Guarantees
/// * Handlers see every version that the cache shows, in order, after it is shown.
/// * `wait_for(r)` returns when every change up to `r` is shown.
pub struct Cache {
    selection: Selection,
    indexes: Vec<Index>,
    state: RwLock<State>,
    handlers: RwLock<Vec<Handler>>,
    /// Revision reached, 0 before the first list.
    reached: watch::Sender<u64>,
    relists: AtomicU64,
}

#[derive(Default)]
struct State {
    /// `namespace/name` or `name`, as in the store's keys.
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    /// One map an index: key to the entries by name.
    indexed: Vec<HashMap<Box<str>, BTreeMap<Arc<str>, Arc<Entry>>>>,
}

impl Cache {
    pub(crate) fn new(selection: Selection, indexes: Vec<Index>) -> Cache {
        let indexed = indexes.iter().map(|_| HashMap::new()).collect();
        Cache {
            selection,
            indexes,
            state: RwLock::new(State { entries: BTreeMap::new(), indexed }),
            handlers: RwLock::default(),
            reached: watch::Sender::new(0),
            relists: AtomicU64::new(0),
        }
    }

    /// What is selected.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// One entry; the namespace is empty for cluster objects.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let state = self.state.read();
        if namespace.is_empty() {
            return state.entries.get(name).cloned();
        }
        state.entries.get(format!("{namespace}/{name}").as_str()).cloned()
    }

    /// One object, decoded.
    pub fn read<K: DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<K> {
        let entry = self.get(namespace, name)?;
        decode(&entry)
    }

    /// All entries in key order.
    pub fn list(&self) -> Vec<Arc<Entry>> {
        self.state.read().entries.values().cloned().collect()
    }

    /// The entries of a namespace in key order; all for the empty one.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<Entry>> {
        if namespace.is_empty() {
            return self.list();
        }
        let state = self.state.read();
        if state.entries.is_empty() {
            return Vec::new();
        }
        let start: Arc<str> = format!("{namespace}/").into();
        let range = state.entries.range(start.clone()..);
        range.take_while(|(name, _)| name.starts_with(&*start)).map(|(_, entry)| entry.clone()).collect()
    }

    /// The entries under a key of an index.
    pub fn by(&self, index: &Index, key: &str) -> Vec<Arc<Entry>> {
        let state = self.state.read();
        let Some(position) = self.indexes.iter().position(|one| one.name == index.name) else {
            return Vec::new();
        };
        state.indexed[position].get(key).map(|entries| entries.values().cloned().collect()).unwrap_or_default()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.state.read().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often the cache had to list afresh after its first list.
    pub fn relists(&self) -> u64 {
        self.relists.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// The revision reached; 0 before the first list.
    pub fn revision(&self) -> Revision {
        Revision(*self.reached.borrow())
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        *self.reached.borrow() > 0
    }

    /// Waits for the first list.
    pub async fn synced(&self) {
        self.wait_for(Revision(1)).await;
    }

    /// Waits until every change up to a revision is shown.
    pub async fn wait_for(&self, revision: Revision) {
        let mut reached = self.reached.subscribe();
        // The sender lives as long as `self`, so that the wait can only end with the condition.
        let _ = reached.wait_for(|at| *at >= revision.0).await;
    }

    /// Waits until the object with this uid is gone or its deletion has begun.
    pub async fn wait_until_leaving(&self, namespace: &str, name: &str, uid: &str) {
        let mut reached = self.reached.subscribe();
        let stays =
            || self.get(namespace, name).is_some_and(|entry| &*entry.header.uid == uid && entry.header.deletion_timestamp.is_none());
        while stays() {
            if reached.changed().await.is_err() {
                return;
            }
        }
    }

    /// Adds a handler and calls it for every entry that is there.
    pub fn subscribe(&self, handler: Handler) {
        let mut handlers = self.handlers.write();
        for entry in self.state.read().entries.values() {
            handler(None, Some(entry));
        }
        handlers.push(handler);
    }

    /// Follows the selection until the task is dropped. Errors are logged and lead to a fresh list.
    pub(crate) async fn follow(&self, client: Client) {
        let mut failures = 0u32;
        loop {
            match self.follow_once(&client, &mut failures).await {
                Ok(()) => {}
                Err(status) if status.is_gone() => tracing::debug!(resource = %self.selection.resource, "watch is too old, listing afresh"),
                Err(status) => tracing::warn!(resource = %self.selection.resource, %status, "list or watch failed"),
            }
            failures += 1;
            tokio::time::sleep(Duration::from_millis((20u64 << failures.min(8)).min(5_000))).await;
        }
    }

    async fn follow_once(&self, client: &Client, failures: &mut u32) -> Result<(), Status> {
        let ListWatch { initial, revision, mut changes } = client.list_watch(self.selection.clone()).await?;
        *failures = 0;
        self.relists.fetch_add(1, Ordering::Relaxed);
        self.replace(initial);
        self.reach(revision);
        while let Some(change) = changes.next().await {
            match change? {
                Change::Put(entry) => {
                    let revision = entry.revision;
                    self.put(entry);
                    self.reach(revision);
                }
                Change::Deleted(entry) => {
                    self.remove(&entry.key.rest);
                    self.reach(entry.revision);
                }
                Change::Progress(revision) => self.reach(revision),
            }
        }
        Ok(())
    }

    fn reach(&self, revision: Revision) {
        self.reached.send_if_modified(|at| {
            let newer = revision.0.max(1) > *at;
            *at = (*at).max(revision.0.max(1));
            newer
        });
    }

    /// Replaces everything; handlers hear the difference.
    fn replace(&self, initial: Vec<Arc<Entry>>) {
        let fresh: BTreeSet<Arc<str>> = initial.iter().map(|entry| entry.key.rest.clone()).collect();
        let gone: Vec<Arc<str>> = self.state.read().entries.keys().filter(|name| !fresh.contains(*name)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
        for entry in initial {
            let same = self.state.read().entries.get(&entry.key.rest).is_some_and(|old| old.revision == entry.revision);
            if !same {
                self.put(entry);
            }
        }
    }

    fn put(&self, entry: Arc<Entry>) {
        let handlers = self.handlers.read();
        let mut state = self.state.write();
        let name = entry.key.rest.clone();
        let old = state.entries.insert(name.clone(), entry.clone());
        state.reindex(&self.indexes, &name, old.as_deref(), &entry);
        drop(state);
        handlers.iter().for_each(|handler| handler(old.as_ref(), Some(&entry)));
    }

    fn remove(&self, name: &str) {
        let handlers = self.handlers.read();
        let mut state = self.state.write();
        let Some(old) = state.entries.remove(name) else {
            return;
        };
        state.unindex(&self.indexes, &old);
        drop(state);
        handlers.iter().for_each(|handler| handler(Some(&old), None));
    }
}

impl State {
    /// Files a new version under its keys. Keys that both versions have, nearly all, only get the new one.
    fn reindex(&mut self, indexes: &[Index], name: &Arc<str>, old: Option<&Entry>, entry: &Arc<Entry>) {
        for (index, map) in indexes.iter().zip(&mut self.indexed) {
            let mut stays: SmallVec<[Box<str>; 2]> = SmallVec::new();
            (index.keys)(entry, &mut |key| {
                match map.get_mut(key) {
                    Some(entries) => drop(entries.insert(name.clone(), entry.clone())),
                    None => drop(map.insert(key.into(), BTreeMap::from([(name.clone(), entry.clone())]))),
                }
                if old.is_some() {
                    stays.push(key.into());
                }
            });
            if let Some(old) = old {
                (index.keys)(old, &mut |key| {
                    if !stays.iter().any(|one| **one == *key) {
                        take(map, key, name);
                    }
                });
            }
        }
    }

    fn unindex(&mut self, indexes: &[Index], entry: &Entry) {
        for (index, map) in indexes.iter().zip(&mut self.indexed) {
            (index.keys)(entry, &mut |key| take(map, key, &entry.key.rest));
        }
    }
}

fn take(map: &mut HashMap<Box<str>, BTreeMap<Arc<str>, Arc<Entry>>>, key: &str, name: &str) {
    let emptied = map.get_mut(key).is_some_and(|entries| {
        entries.remove(name);
        entries.is_empty()
    });
    if emptied {
        map.remove(key);
    }
}

/// The typed view of an entry; `None` (logged) if it does not have the shape of the type.
pub fn decode<K: DeserializeOwned>(entry: &Entry) -> Option<K> {
    match serde_json::from_slice(&entry.bytes) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::warn!(key = %entry.key, %error, "object cannot be decoded");
            None
        }
    }
}
