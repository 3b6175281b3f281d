//! What a controller is: what it watches, and what it does about a key.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::Selection;
use store::Entry;

use crate::{Context, ObjectKey};

/// A controller. One file exports one.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Name as in metrics, logs and `--controllers`, for example `replicaset-controller`.
    fn name(&self) -> &'static str;

    /// What makes keys due, and the caches that the controller reads.
    fn watches(&self) -> Vec<Watch>;

    /// Keys that are due at the start, whatever the caches hold.
    fn first(&self) -> Vec<ObjectKey> {
        Vec::new()
    }

    /// Keys that run at the same time.
    fn workers(&self) -> usize {
        5
    }

    /// Brings the world of one key where it should be. Called with every cache synced and no older than the
    /// controller's own writes for this key. An error runs the key again with back-off.
    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> anyhow::Result<Next>;
}

/// When a key runs again without a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Only when something changes.
    Done,
    /// After this time at the latest.
    After(Duration),
}

/// A selection that a controller reads, with the way from a change to keys.
pub struct Watch {
    pub(crate) selection: Selection,
    pub(crate) map: Map,
}

type Map = Arc<dyn Fn(&Context, Option<&Arc<Entry>>, Option<&Arc<Entry>>, &mut dyn FnMut(ObjectKey)) + Send + Sync>;

impl Watch {
    /// Every object is its own key.
    pub fn own(selection: Selection) -> Watch {
        Watch::mapped(selection, |_, old, new, add| {
            if let Some(entry) = new.or(old) {
                add(ObjectKey::of(entry));
            }
        })
    }

    /// The key is the controlling owner of this kind (in the same namespace), before and after the change.
    pub fn owned_by(selection: Selection, owner_kind: &'static str) -> Watch {
        Watch::mapped(selection, move |_, old, new, add| {
            for entry in [old, new].into_iter().flatten() {
                if let Some(owner) = entry.header.controller().filter(|owner| &*owner.kind == owner_kind) {
                    add(ObjectKey::new(&entry.header.namespace, &owner.name));
                }
            }
        })
    }

    /// Only read, never a reason to run.
    pub fn read(selection: Selection) -> Watch {
        Watch::mapped(selection, |_, _, _, _| {})
    }

    /// Any way from a change (version before, version after) to keys; the context gives the other caches.
    pub fn mapped(
        selection: Selection,
        map: impl Fn(&Context, Option<&Arc<Entry>>, Option<&Arc<Entry>>, &mut dyn FnMut(ObjectKey)) + Send + Sync + 'static,
    ) -> Watch {
        Watch { selection, map: Arc::new(map) }
    }
}
