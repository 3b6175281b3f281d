//! Takes drivers on: their abilities, the node's id and topology as they see it, and the objects that show both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::PatchKind;
use futures_util::future::BoxFuture;
use grpc::client::Channel;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use super::messages::{Empty, NodeGetCapabilitiesResponse, NodeGetInfoResponse};
use super::{Driver, release};
use crate::Kubelet;
use crate::node::register::NODES;
use crate::plugins::{Plugin, PluginKind};

/// Annotation of nodes with their ids, by driver.
const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
/// How long a driver may take to say who it is.
const CALL: Duration = Duration::from_secs(120);
/// How often a change of an object is tried again when somebody else was faster.
const TRIES: usize = 10;

/// Volume drivers as a kind of plugin.
pub const fn kind() -> PluginKind {
    PluginKind { name: "CSIPlugin", register, gone }
}

fn register<'a>(kubelet: &'a Arc<Kubelet>, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>> {
    Box::pin(async move {
        if !plugin.versions.iter().any(|version| version.trim_start_matches('v').split('.').next() == Some("1")) {
            return Err(format!("none of the supported versions {:?} of CSI driver {} is known", plugin.versions, plugin.name));
        }
        let text = |error: grpc::Failure| error.to_string();
        let channel = Channel::new(&plugin.endpoint);
        let info: NodeGetInfoResponse = channel.call("/csi.v1.Node/NodeGetInfo", &Empty {}, Some(CALL)).await.map_err(text)?;
        let able: NodeGetCapabilitiesResponse =
            channel.call("/csi.v1.Node/NodeGetCapabilities", &Empty {}, Some(CALL)).await.map_err(text)?;
        let abilities = able.capabilities.iter().filter_map(|one| one.rpc.as_ref()).map(|rpc| rpc.kind).collect();
        show(kubelet, &plugin.name, Some(&info)).await?;
        let driver = Arc::new(Driver { name: plugin.name.clone(), channel, abilities });
        kubelet.csi.known.lock().insert(plugin.name.clone(), driver.clone());
        let kubelet = kubelet.clone();
        tokio::spawn(async move {
            release::sweep(&kubelet, &driver).await;
            // Pods may have waited for this driver.
            kubelet.pods.poke_all();
        });
        Ok(())
    })
}

fn gone<'a>(kubelet: &'a Arc<Kubelet>, plugin: &'a Plugin) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        kubelet.csi.known.lock().remove(&plugin.name);
        if let Err(error) = show(kubelet, &plugin.name, None).await {
            tracing::warn!(driver = plugin.name, error, "the driver is gone and still shown");
        }
    })
}

/// Shows what the driver says of the node, or that there is no such driver.
async fn show(kubelet: &Arc<Kubelet>, driver: &str, info: Option<&NodeGetInfoResponse>) -> Result<(), String> {
    let text = |status: api::Status| status.to_string();
    let name = &kubelet.config.node_name;
    let node: Node = kubelet.client.get("", name).await.map_err(text)?;
    let segments = info.and_then(|info| info.topology.clone()).unwrap_or_default().segments;
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (key, value) in &segments {
        if let Some(known) = labels.get(key).filter(|known| *known != value) {
            return Err(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{known:?}"
            ));
        }
    }
    let annotation = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(NODE_ID));
    let mut ids: BTreeMap<String, String> = annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    match info {
        Some(info) => ids.insert(driver.to_owned(), info.node_id.clone()),
        None => ids.remove(driver),
    };
    let ids = (!ids.is_empty()).then(|| serde_json::to_string(&ids).unwrap_or_default());
    let patch = json!({"metadata": {"labels": segments, "annotations": {NODE_ID: ids}}});
    kubelet.client.patch(&NODES, "", name, "", &PatchKind::Merge, &patch).await.map_err(text)?;
    let mut last = String::new();
    for _ in 0..TRIES {
        match show_driver(kubelet, &node, driver, info).await {
            Ok(()) => return Ok(()),
            Err(status) => last = status.to_string(),
        }
    }
    Err(last)
}

async fn show_driver(kubelet: &Kubelet, node: &Node, driver: &str, info: Option<&NodeGetInfoResponse>) -> Result<(), api::Status> {
    let name = &kubelet.config.node_name;
    let found: Option<CSINode> = kubelet.client.find("", name).await?;
    let entry = info.map(|info| CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: info.topology.as_ref().map(|topology| topology.segments.keys().cloned().collect()),
        allocatable: (info.max_volumes > 0).then(|| VolumeNodeResources { count: i32::try_from(info.max_volumes).ok() }),
    });
    let exists = found.is_some();
    let mut object = found.unwrap_or_else(|| CSINode {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec::default(),
    });
    if object.spec.drivers.iter().find(|one| one.name == driver) == entry.as_ref() {
        return Ok(());
    }
    object.spec.drivers.retain(|one| one.name != driver);
    object.spec.drivers.extend(entry);
    let written = if exists { kubelet.client.update(&object).await } else { kubelet.client.create(&object).await };
    written.map(drop)
}
