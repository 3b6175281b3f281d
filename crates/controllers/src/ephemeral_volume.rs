//! Generic ephemeral volumes: makes the claim that belongs to a pod's volume, owned by the pod.

use std::sync::Arc;

use anyhow::{Result, bail};
use async_trait::async_trait;
use client::{EventKind, Selection};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, pods};

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "ephemeral-volume-controller", controller: Arc::new(EphemeralVolumes) }
}

struct EphemeralVolumes;

#[async_trait]
impl Controller for EphemeralVolumes {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::mapped(Selection::of::<Pod>(), |_, old, new, add| {
                let (None, Some(pod)) = (old, new) else {
                    return;
                };
                if pod.header.deletion_timestamp.is_none() && pods::mentions(pod, "\"ephemeral\"") {
                    add(ObjectKey::of(pod));
                }
            }),
            Watch::mapped(Selection::of::<PersistentVolumeClaim>(), |_, old, new, add| {
                // A claim that is lost is made again.
                if let (Some(old), None) = (old, new) {
                    old.header
                        .owners
                        .iter()
                        .filter(|owner| &*owner.kind == "Pod")
                        .for_each(|owner| add(ObjectKey::new(&old.header.namespace, &owner.name)));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(pod) =
            context.cache::<Pod>().read::<Pod>(&key.namespace, &key.name).filter(|pod| pod.metadata.deletion_timestamp.is_none())
        else {
            return Ok(Next::Done);
        };
        let claims = context.cache::<PersistentVolumeClaim>();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) else {
                continue;
            };
            let name = format!("{}-{}", key.name, volume.name);
            if let Some(found) = claims.get(&key.namespace, &name) {
                let ours = found.header.controller().is_some_and(|owner| Some(&*owner.uid) == pod.metadata.uid.as_deref());
                if !ours {
                    bail!("PVC {}/{name} was not created for pod {key} (pod is not owner)", key.namespace);
                }
                continue;
            }
            let metadata = template.metadata.clone().unwrap_or_default();
            let claim = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(name),
                    namespace: Some(key.namespace.to_string()),
                    labels: metadata.labels,
                    annotations: metadata.annotations,
                    owner_references: Some(vec![pods::controller_ref("v1", "Pod", &pod.metadata)]),
                    ..ObjectMeta::default()
                },
                spec: Some(template.spec.clone()),
                status: None,
            };
            if let Err(status) = context.client.create(&claim).await {
                context.event(&pod, EventKind::Warning, "FailedBinding", format!("ephemeral volume controller: create PVC: {status}"));
                return Err(status.into());
            }
        }
        Ok(Next::Done)
    }
}
