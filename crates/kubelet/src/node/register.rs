//! Makes the Node object, or brings the one that is there up to date.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use client::{PatchKind, ResourceId};
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::status;
use crate::Kubelet;

/// The resource of nodes.
pub const NODES: ResourceId = ResourceId::new("", "v1", "nodes");

/// Registers until it works.
pub async fn register(kubelet: &Arc<Kubelet>) {
    let mut wait = Duration::from_millis(50);
    while let Err(error) = try_register(kubelet).await {
        tracing::warn!(%error, "node was not registered yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

async fn try_register(kubelet: &Arc<Kubelet>) -> Result<(), Status> {
    let name = &kubelet.config.node_name;
    let old: Option<Node> = kubelet.client.find("", name).await?;
    let labels = labels(kubelet);
    let Some(old) = old else {
        let taints: Vec<Taint> = kubelet.config.taints.iter().filter_map(|text| taint(text)).collect();
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(BTreeMap::from([(
                    "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                    "true".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..NodeSpec::default() }),
            status: Some(status::compute(kubelet, None).await),
        };
        return kubelet.client.create(&node).await.map(drop);
    };
    let known = old.metadata.labels.clone().unwrap_or_default();
    if labels.iter().any(|(key, value)| known.get(key) != Some(value)) {
        kubelet.client.patch(&NODES, "", name, "", &PatchKind::Merge, &json!({"metadata": {"labels": labels}})).await?;
    }
    write_status(kubelet, Some(&old)).await
}

/// Writes the status of the node.
///
/// # Errors
/// The Status of the answer.
pub async fn write_status(kubelet: &Arc<Kubelet>, old: Option<&Node>) -> Result<(), Status> {
    let _turn = kubelet.csi.status_turn.lock().await;
    let status = status::compute(kubelet, old).await;
    let none_in_use = status.volumes_in_use.is_none();
    let mut patch = json!({"status": status});
    if none_in_use {
        patch["status"]["volumesInUse"] = Value::Null;
    }
    kubelet.client.patch(&NODES, "", &kubelet.config.node_name, "status", &PatchKind::Strategic, &patch).await.map(drop)
}

fn labels(kubelet: &Kubelet) -> BTreeMap<String, String> {
    let info = kubelet.node.info();
    let mut labels: BTreeMap<String, String> = kubelet.config.labels.iter().cloned().collect();
    labels.insert("kubernetes.io/hostname".into(), kubelet.config.node_name.clone());
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/arch"), info.architecture.clone());
        labels.insert(format!("{prefix}/os"), info.operating_system.clone());
    }
    labels
}

/// `key=value:effect` or `key:effect`.
fn taint(text: &str) -> Option<Taint> {
    let (head, effect) = text.rsplit_once(':')?;
    let (key, value) = head.split_once('=').unwrap_or((head, ""));
    Some(Taint { key: key.into(), value: (!value.is_empty()).then(|| value.into()), effect: effect.into(), ..Taint::default() })
}
