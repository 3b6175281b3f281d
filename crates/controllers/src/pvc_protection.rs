//! Protection of claims: a deleted claim stays as long as a pod uses it.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry};

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "pvc-protection-controller", controller: Arc::new(Protection) }
}

struct Protection;

#[async_trait]
impl Controller for Protection {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<PersistentVolumeClaim>()),
            Watch::mapped(Selection::of::<Pod>(), |context, old, new, add| {
                let (Some(old), None) = (old, new) else {
                    return;
                };
                for claim in context.cache::<PersistentVolumeClaim>().list_namespace(&old.header.namespace) {
                    if claim.header.deletion_timestamp.is_some() && uses(old, &claim.header.name) {
                        add(ObjectKey::of(&claim));
                    }
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(entry) = context.cache::<PersistentVolumeClaim>().get(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let protected = entry.header.finalizers.iter().any(|one| &**one == FINALIZER);
        if entry.header.deletion_timestamp.is_none() || !protected {
            return Ok(Next::Done);
        }
        // The cache may lag behind a pod that was just scheduled; before a claim goes the server is asked.
        let cached = context.cache::<Pod>().list_namespace(&key.namespace);
        if cached.iter().any(|pod| !pod.header.field("spec.nodeName").is_empty() && uses(pod, &key.name)) {
            return Ok(Next::Done);
        }
        let live = context.client.list::<Pod>(&key.namespace, "").await?;
        if live.iter().any(|pod| uses_live(pod, &key.name)) {
            return Ok(Next::Done);
        }
        if let Some(mut claim) = cache::decode::<PersistentVolumeClaim>(&entry) {
            claim.metadata.finalizers.get_or_insert_default().retain(|one| one != FINALIZER);
            match context.client.update(&claim).await {
                Err(status) if !status.is_not_found() => return Err(status.into()),
                _ => {}
            }
        }
        Ok(Next::Done)
    }
}

/// Whether a pod names a claim, looked for in its bytes first.
pub(crate) fn uses(pod: &store::Entry, claim: &str) -> bool {
    let contains = |text: &[u8]| pod.bytes.windows(text.len()).any(|window| window == text);
    (contains(b"\"persistentVolumeClaim\"") || contains(b"\"ephemeral\""))
        && cache::decode::<Pod>(pod).is_some_and(|pod| names(&pod, claim))
}

fn names(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().any(|volume| {
        let direct = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
        direct || (volume.ephemeral.is_some() && pod.metadata.name.as_ref().is_some_and(|name| format!("{name}-{}", volume.name) == claim))
    })
}

/// Pods without a node cannot start with a claim that is being deleted.
fn uses_live(pod: &Pod, claim: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref().is_some_and(|node| !node.is_empty())) && names(pod, claim)
}
