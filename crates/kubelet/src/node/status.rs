//! The status of the Node object, computed from facts; heartbeats of its conditions change only times.

use std::sync::Arc;

use cri::messages::RuntimeHandlerFeatures;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::facts::to_api;
use crate::Kubelet;
use crate::eviction;

type Resources = std::collections::BTreeMap<String, Quantity>;

/// Images listed in the status at most, as upstream's default.
const MAX_IMAGES: usize = 50;

/// What a pod may ask of a node since a version that not every node has; schedulers look here (KEP-5328).
const DECLARED: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// The whole status. Times of conditions that did not change are taken from the old object.
pub async fn compute(kubelet: &Arc<Kubelet>, old: Option<&Node>) -> NodeStatus {
    let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH));
    let mut addresses: Vec<NodeAddress> =
        kubelet.host_ips().into_iter().map(|address| NodeAddress { type_: "InternalIP".into(), address }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: kubelet.config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(with_devices(kubelet, with_extended(to_api(&kubelet.node.capacity()), old), |(all, _)| all)),
        allocatable: Some(with_devices(kubelet, with_extended(to_api(&kubelet.node.allocatable()), old), |(_, healthy)| healthy)),
        conditions: Some(conditions(kubelet, old, &now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: kubelet.config.listen.port().into() }),
        }),
        node_info: Some(kubelet.node.info().clone()),
        volumes_in_use: Some(kubelet.csi.volumes_in_use()).filter(|used| !used.is_empty()),
        images: Some(images(kubelet).await),
        declared_features: Some(DECLARED.map(str::to_owned).into()),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(supplemental_groups_policy(kubelet)) }),
        runtime_handlers: Some(runtime_handlers(kubelet)),
        ..NodeStatus::default()
    }
}

fn supplemental_groups_policy(kubelet: &Kubelet) -> bool {
    kubelet.runtime.other().is_none_or(|other| other.general_features().supplemental_groups_policy)
}

fn runtime_handlers(kubelet: &Kubelet) -> Vec<NodeRuntimeHandler> {
    let shown = |name: String, features: RuntimeHandlerFeatures| NodeRuntimeHandler {
        name: Some(name),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    };
    match kubelet.runtime.other() {
        Some(other) => other.handlers().into_iter().map(|known| shown(known.name, known.features.unwrap_or_default())).collect(),
        None => vec![shown(String::new(), RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true })],
    }
}

/// Adds the extended resources that somebody else wrote into the capacity: all of them may be used.
fn with_extended(mut list: Resources, old: Option<&Node>) -> Resources {
    list.extend(extended(old));
    list
}

/// Extended resources of a node's capacity: those with a domain that is not Kubernetes' own.
fn extended(node: Option<&Node>) -> Resources {
    let capacity = node.and_then(|node| node.status.as_ref()).and_then(|status| status.capacity.clone()).unwrap_or_default();
    capacity.into_iter().filter(|(name, _)| name.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"))).collect()
}

/// Sets the resources of device plugins.
fn with_devices(kubelet: &Kubelet, mut list: Resources, of: fn((usize, usize)) -> usize) -> Resources {
    let amounts = kubelet.placement.devices.amounts().into_iter();
    list.extend(amounts.map(|(resource, amounts)| (resource, Quantity(of(amounts).to_string()))));
    list
}

/// Whether a node has extended resources that nobody may use yet, beside those of device plugins.
pub fn lacks_extended(kubelet: &Kubelet, node: &Node) -> bool {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
    let devices = kubelet.placement.devices.amounts();
    let others = extended(Some(node)).into_iter().filter(|(name, _)| !devices.contains_key(name));
    others.into_iter().any(|(name, amount)| allocatable.get(&name) != Some(&amount))
}

async fn images(kubelet: &Kubelet) -> Vec<ContainerImage> {
    let mut images = kubelet.images.list().await;
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    images.truncate(MAX_IMAGES);
    let entry = |image: image::Image| ContainerImage {
        names: Some(image.digests.iter().chain(&image.names).take(5).cloned().collect()),
        size_bytes: Some(image.size as i64),
    };
    images.into_iter().map(entry).collect()
}

fn conditions(kubelet: &Kubelet, old: Option<&Node>, now: &Time) -> Vec<NodeCondition> {
    let mut hindered = Vec::new();
    if !kubelet.network_is_ready() {
        hindered.push("container runtime network not ready: the node has no pod address range yet");
    }
    if kubelet.shutting_down.load(std::sync::atomic::Ordering::Acquire) {
        hindered.push(crate::shutdown::NOT_READY);
    }
    let ready = match hindered[..] {
        [] => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        [only] => ("Ready", false, "KubeletNotReady", only.to_owned()),
        _ => ("Ready", false, "KubeletNotReady", format!("[{}]", hindered.join(", "))),
    };
    let short = kubelet.pressure.lock().conditions();
    let pressures = eviction::CONDITIONS.iter().map(|condition| {
        let holds = short.contains(condition);
        let (reason, message) = condition.says(holds);
        (condition.name(), holds, reason, message.to_owned())
    });
    let all = pressures.chain([ready]);
    let old = old.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    all.map(|(kind, holds, reason, message)| {
        let status = if holds { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: before.and_then(|condition| condition.last_transition_time.clone()).or_else(|| Some(now.clone())),
        }
    })
    .collect()
}
