//! Limits of pods on the node's disk: containers, pods and emptyDir volumes that use more than they may cost their pod its place.
//!
//! Only pods that set such limits are measured, and rarer the longer it takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use api::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::usage::{Usage, measure};
use crate::Kubelet;
use crate::pods::model;

const STORAGE: &str = "ephemeral-storage";
/// Measuring takes at most one part in so many of the time.
const SHARE: u32 = 50;

/// When each pod is measured next.
#[derive(Default)]
pub struct Rounds(HashMap<String, Instant>);

impl Rounds {
    /// The pods that use too much, with what they are told.
    pub async fn offenders(&mut self, kubelet: &Arc<Kubelet>, pods: &[Arc<Pod>]) -> Vec<(Arc<Pod>, String)> {
        self.0.retain(|uid, _| pods.iter().any(|pod| model::uid(pod) == uid));
        let mut offenders = Vec::new();
        for pod in pods {
            let limited = pod.spec.as_ref().is_some_and(is_limited);
            let began = Instant::now();
            if !limited || self.0.get(model::uid(pod)).is_some_and(|due| *due > began) {
                continue;
            }
            let usage = measure(kubelet, pod, true).await;
            self.0.insert(model::uid(pod).to_owned(), Instant::now() + began.elapsed() * SHARE);
            if let Some(message) = usage.and_then(|usage| judge(pod.spec.as_ref()?, &usage)) {
                offenders.push((pod.clone(), message));
            }
        }
        offenders
    }
}

/// Whether a pod says how much of the disk it may use.
fn is_limited(spec: &PodSpec) -> bool {
    let of_volume = spec.volumes.iter().flatten().any(|volume| volume.empty_dir.as_ref().is_some_and(|source| source.size_limit.is_some()));
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    of_volume || containers.into_iter().any(|container| limit(container).is_some())
}

fn limit(container: &Container) -> Option<Quantity> {
    Quantity::parse(&container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)?.0)
}

/// What a pod that uses too much is told: volumes first, then the pod as a whole, then single containers.
fn judge(spec: &PodSpec, usage: &Usage) -> Option<String> {
    for volume in spec.volumes.iter().flatten() {
        let used = usage.volumes.get(&volume.name).or(usage.memory_volumes.get(&volume.name));
        let most = volume.empty_dir.as_ref().and_then(|source| Quantity::parse(&source.size_limit.as_ref()?.0));
        if let (Some(used), Some(most)) = (used, most.filter(|most| most.value() > 0)) {
            if used.bytes > most.value() {
                return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit \"{most}\". ", volume.name));
            }
        }
    }
    if let Some(most) = whole(spec) {
        if usage.disk().bytes > most.value() {
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {most}. "));
        }
    }
    spec.containers.iter().find_map(|container| {
        let (most, used) = (limit(container)?, usage.containers.get(&container.name)?);
        let over = used.root.bytes + used.logs.bytes > most.value();
        over.then(|| format!("Container {} exceeded its local ephemeral storage limit \"{most}\". ", container.name))
    })
}

/// The pod's limit: what its containers may use together, or more if an init container may.
fn whole(spec: &PodSpec) -> Option<Quantity> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let init = || spec.init_containers.iter().flatten();
    let lasting = spec.containers.iter().chain(init().filter(sidecar)).filter_map(limit).reduce(Quantity::add);
    let once = init().filter(|container| !sidecar(container)).filter_map(limit);
    once.chain(lasting).max_by_key(|limit| limit.value())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::usage::{ContainerUsage, Space};
    use super::*;

    fn check(spec: Value, volume: i64, root: i64, logs: i64, expected: Option<&str>) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let space = |bytes| Space { bytes, inodes: 1 };
        let container = ContainerUsage { memory: 0, root: space(root), logs: space(logs) };
        let usage = Usage {
            containers: [("c".to_owned(), container)].into(),
            volumes: [("v".to_owned(), space(volume))].into(),
            ..Usage::default()
        };
        assert_eq!(judge(&spec, &usage).as_deref(), expected, "{spec:?}");
    }

    #[test]
    fn each_limit_is_told_in_its_own_words() {
        let limited = json!({"limits": {"ephemeral-storage": "1Ki"}});
        let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "2Ki"}}]);
        let free = json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]});
        assert!(!is_limited(&serde_json::from_value(free.clone()).unwrap()));
        check(free, 1 << 40, 1 << 40, 0, None);
        let sized = json!({"containers": [{"name": "c"}], "volumes": volumes});
        assert!(is_limited(&serde_json::from_value(sized.clone()).unwrap()));
        check(sized.clone(), 2048, 9999, 0, None);
        check(sized, 2049, 0, 0, Some("Usage of EmptyDir volume \"v\" exceeds the limit \"2Ki\". "));
        let one = json!({"containers": [{"name": "c", "resources": limited}]});
        check(one.clone(), 0, 1000, 24, None);
        check(one.clone(), 100, 1000, 0, Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. "));
        let two = json!({"containers": [{"name": "c", "resources": limited}, {"name": "d", "resources": limited}]});
        check(two, 0, 1000, 25, Some("Container c exceeded its local ephemeral storage limit \"1Ki\". "));
        let init = json!({"initContainers": [{"name": "i", "resources": {"limits": {"ephemeral-storage": "9Ki"}}}], "containers": [{"name": "c", "resources": limited}]});
        check(init, 2000, 1000, 0, None);
    }
}
