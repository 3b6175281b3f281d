//! The podresources API (`v1`): which processors, memory and devices containers have, for agents of the node that watch them.

pub mod messages;
mod pace;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use grpc::server::Reply;
use grpc::wire::Message;
use grpc::{Code, Failure};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::net::UnixListener;

use crate::Kubelet;
use crate::devices::Shown;
use crate::placement::cpus::CpuSet;
use crate::pods::model;
use messages::*;
use pace::Pace;

/// Serves until the future is dropped.
///
/// # Errors
/// The socket cannot be made.
pub async fn run(kubelet: &Arc<Kubelet>) -> Result<()> {
    let folder = kubelet.config.root_dir.join("pod-resources");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let socket = folder.join("kubelet.sock");
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", socket.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    let kubelet = Arc::downgrade(kubelet);
    let pace = Arc::new(Mutex::new(Pace::new(Instant::now())));
    grpc::server::serve(listener, move |path, message| {
        let kubelet = kubelet.upgrade();
        let allowed = pace.lock().allows(Instant::now());
        async move {
            if !allowed {
                return Err(Failure::new(Code::ResourceExhausted, "rejected by rate limit"));
            }
            let kubelet = kubelet.ok_or_else(|| Failure::new(Code::Unavailable, "the kubelet has ended"))?;
            answer(&kubelet, &path, message).map(Reply::One)
        }
    })
    .await;
    Ok(())
}

fn answer(kubelet: &Kubelet, path: &str, message: Bytes) -> Result<Vec<u8>, Failure> {
    match path {
        "/v1.PodResourcesLister/List" => {
            let pods = active(kubelet);
            Ok(ListPodResourcesResponse { pod_resources: pods.iter().map(|pod| of_pod(kubelet, pod)).collect() }.to_bytes())
        }
        "/v1.PodResourcesLister/Get" => {
            let GetPodResourcesRequest { pod_name, pod_namespace } =
                GetPodResourcesRequest::read(message).map_err(|error| Failure::internal(&error))?;
            let is_it = |pod: &&Arc<Pod>| model::name(pod) == pod_name && model::namespace(pod) == pod_namespace;
            let pods = active(kubelet);
            let unknown = || Failure::new(Code::Unknown, format!("pod {pod_name} in namespace {pod_namespace} not found"));
            let pod = pods.iter().find(is_it).ok_or_else(unknown)?;
            Ok(GetPodResourcesResponse { pod_resources: Some(of_pod(kubelet, pod)) }.to_bytes())
        }
        "/v1.PodResourcesLister/GetAllocatableResources" => {
            let placement = &kubelet.placement;
            let memory =
                |(node, resource, size): (u32, String, u64)| ContainerMemory { memory_type: resource, size, topology: near(&[node]) };
            let answer = AllocatableResourcesResponse {
                devices: placement.devices.allocatable().into_iter().flat_map(devices).collect(),
                cpu_ids: numbers(&placement.allocatable_cpus()),
                memory: placement.allocatable_memory().into_iter().map(memory).collect(),
            };
            Ok(answer.to_bytes())
        }
        _ => Err(Failure::new(Code::Unimplemented, format!("unknown method {path}"))),
    }
}

/// Pods that are not over.
fn active(kubelet: &Kubelet) -> Vec<Arc<Pod>> {
    let over = |pod: &Arc<Pod>| pod.status.as_ref().is_some_and(crate::pods::publish::is_final);
    kubelet.pods.pods().into_iter().filter(|pod| !over(pod)).collect()
}

/// Containers that last: sidecars, then the others. What init containers had is gone with them.
fn of_pod(kubelet: &Kubelet, pod: &Pod) -> PodResources {
    let spec = pod.spec.as_ref();
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(sidecar);
    let main = spec.into_iter().flat_map(|spec| &spec.containers);
    PodResources {
        name: model::name(pod).to_owned(),
        namespace: model::namespace(pod).to_owned(),
        containers: sidecars.chain(main).map(|container| of_container(kubelet, model::uid(pod), &container.name)).collect(),
    }
}

fn of_container(kubelet: &Kubelet, uid: &str, name: &str) -> ContainerResources {
    let placement = &kubelet.placement;
    let memory = placement.own_memory(uid, name).into_iter().map(|block| ContainerMemory {
        memory_type: block.resource,
        size: block.size,
        topology: near(&block.numa_affinity),
    });
    ContainerResources {
        name: name.to_owned(),
        devices: placement.devices.shown(uid, name).into_iter().flat_map(devices).collect(),
        cpu_ids: numbers(&placement.own_cpus(uid, name)),
        memory: memory.collect(),
    }
}

fn numbers(cpus: &CpuSet) -> Vec<i64> {
    cpus.iter().map(i64::from).collect()
}

fn near(nodes: &[u32]) -> Option<TopologyInfo> {
    let nodes: Vec<NumaNode> = nodes.iter().map(|node| NumaNode { id: i64::from(*node) }).collect();
    Some(TopologyInfo { nodes }).filter(|info| !info.nodes.is_empty())
}

/// One entry for the devices near to the same nodes.
fn devices((resource, devices): Shown) -> Vec<ContainerDevices> {
    let mut groups: BTreeMap<Vec<u32>, Vec<String>> = BTreeMap::new();
    for (id, nodes) in devices {
        groups.entry(nodes).or_default().push(id);
    }
    let entry = |(nodes, device_ids): (Vec<u32>, Vec<String>)| ContainerDevices {
        resource_name: resource.clone(),
        device_ids,
        topology: near(&nodes),
    };
    groups.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_grouped_by_nodes() {
        let device = |id: &str, nodes: &[u32]| (id.to_owned(), nodes.to_vec());
        let shown = ("a/b".to_owned(), BTreeMap::from([device("x", &[1]), device("y", &[]), device("z", &[1])]));
        let entry = |ids: &[&str], nodes: &[u32]| ContainerDevices {
            resource_name: "a/b".into(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            topology: near(nodes),
        };
        assert_eq!(devices(shown), [entry(&["y"], &[]), entry(&["x", "z"], &[1])]);
    }
}
