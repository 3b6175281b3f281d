//! Protection of claims: a deleted claim stays as long as a pod uses it.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
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
                let Some(old) = old else { return };
                if new
                    .is_some_and(|new| new.header.deletion_timestamp.is_none() || !cache::decode(new).is_some_and(|pod| is_shut_down(&pod)))
                {
                    return;
                }
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
        if cached.iter().any(|pod| uses(pod, &key.name) && cache::decode(pod).is_some_and(|pod| needs(&pod, &key.name))) {
            return Ok(Next::Done);
        }
        let live = context.client.list::<Pod>(&key.namespace, "").await?;
        if live.iter().any(|pod| needs(pod, &key.name)) {
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
    names_directly(pod, claim) || names_as_its_own(pod, claim)
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

fn names_directly(pod: &Pod, claim: &str) -> bool {
    volumes(pod).iter().any(|volume| volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim))
}

fn names_as_its_own(pod: &Pod, claim: &str) -> bool {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    volumes(pod).iter().any(|volume| volume.ephemeral.is_some() && format!("{pod_name}-{}", volume.name) == claim)
}

/// Whether the claim has to stay for a pod. Pods without a node cannot start with a claim that is being deleted. The claim that
/// a pod has of its own goes as soon as the pod has ended for good: the pod itself may stay until the claim has gone.
fn needs(pod: &Pod, claim: &str) -> bool {
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref().is_some_and(|node| !node.is_empty()));
    placed && (names_directly(pod, claim) || (names_as_its_own(pod, claim) && !is_shut_down(pod)))
}

/// Whether the kubelet has let go of a deleted pod.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_stays_for_pods_that_can_still_use_it() {
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}});
        let own = json!({"name": "v", "ephemeral": {}});
        let ended = json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        let ending = json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
        let cases = [
            (json!({"name": "p"}), &named, "n", true),
            (json!({"name": "p"}), &named, "", false),
            (json!({"name": "q"}), &own, "n", false),
            (ending.clone(), &own, "n", true),
            (ended.clone(), &own, "n", false),
            (ended.clone(), &named, "n", true),
        ];
        for (metadata, volume, node, expected) in cases {
            let pod = json!({"metadata": metadata, "spec": {"nodeName": node, "containers": [], "volumes": [volume]}});
            assert_eq!(needs(&serde_json::from_value(pod.clone()).expect("a pod"), "p-v"), expected, "{pod}");
        }
    }
}
