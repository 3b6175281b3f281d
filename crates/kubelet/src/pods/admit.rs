//! What a node refuses although the pod was bound to it: the pod then fails for good, with the reason in its status.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::Quantity;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};

use super::fit;
use super::limits::{self, Class};
use super::model;
use super::prepare::is_safe;
use crate::Kubelet;
use crate::eviction::Condition;
use crate::placement::claim::PodClaim;

/// Why the node takes no such pod now, whatever it asks for: reason and message.
pub fn refuse_early(kubelet: &Kubelet, pod: &Pod) -> Option<(String, String)> {
    let spec = pod.spec.as_ref()?;
    if kubelet.shutting_down.load(Ordering::Acquire) {
        return Some(("NodeShutdown".into(), "Pod was rejected as the node is shutting down.".into()));
    }
    foreign_system(spec).or_else(|| pressed(kubelet, pod, spec)).or_else(|| forbidden_sysctl(spec)).or_else(|| unenforced_profile(spec))
}

/// Gives the pod processors, memory and devices of its own, or says why not. Plugins of devices may take seconds.
pub async fn place(kubelet: &Kubelet, claim: &PodClaim) -> Option<(String, String)> {
    Some(kubelet.placement.admit(claim).await.err()?.verdict())
}

/// A node that is short of something takes only what it cannot do without; short of memory alone, also pods that say what they need.
fn pressed(kubelet: &Kubelet, pod: &Pod, spec: &PodSpec) -> Option<(String, String)> {
    let conditions = kubelet.pressure.lock().conditions();
    if conditions.is_empty() || model::is_critical(pod) {
        return None;
    }
    if conditions.iter().all(|condition| *condition == Condition::Memory) {
        let class = limits::class(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()));
        if class != Class::BestEffort || spec.tolerations.iter().flatten().any(tolerates_memory_pressure) {
            return None;
        }
    }
    let names: Vec<&str> = conditions.iter().map(|condition| condition.name()).collect();
    Some(("Evicted".into(), format!("The node had condition: [{}]. ", names.join(" "))))
}

fn tolerates_memory_pressure(toleration: &Toleration) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let key = given(&toleration.key);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let effect = given(&toleration.effect).is_none_or(|effect| effect == "NoSchedule");
    let value = exists || given(&toleration.value).is_none();
    effect && value && key.map_or(exists, |key| key == "node.kubernetes.io/memory-pressure")
}

/// AppArmor is in force nowhere here, and who asks for a profile is not run without it.
fn unenforced_profile(spec: &PodSpec) -> Option<(String, String)> {
    let of_pod = spec.security_context.as_ref().and_then(|security| security.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers = containers.filter_map(|container| container.security_context.as_ref()?.app_armor_profile.as_ref());
    of_pod.into_iter().chain(of_containers).find(|profile| profile.type_ != "Unconfined")?;
    let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
    Some(("AppArmor".into(), message.into()))
}

fn forbidden_sysctl(spec: &PodSpec) -> Option<(String, String)> {
    let sysctls = spec.security_context.as_ref()?.sysctls.as_deref()?;
    let wrong = sysctls.iter().find(|sysctl| !is_safe(&sysctl.name))?;
    Some(("SysctlForbidden".into(), format!("forbidden sysctl: {:?} not allowlisted", wrong.name)))
}

fn foreign_system(spec: &PodSpec) -> Option<(String, String)> {
    let other = spec.os.as_ref().is_some_and(|os| os.name != "linux");
    other.then(|| ("PodOSNotSupported".into(), "Failed to admit pod as the OS field doesn't match node OS".into()))
}

/// Why a pod that is here already cannot have the resources that it asks for by now.
pub fn no_room(kubelet: &Kubelet, pod: &Pod, others: &[Arc<Pod>]) -> Option<(String, String)> {
    fit::short_of(pod.spec.as_ref()?, &allocatable(kubelet).1, others)
}

/// What has no room or place here, beside those that were admitted before. What is not counted by the node is not looked at: extended resources stand in the API.
pub fn unfit(kubelet: &Kubelet, pod: &Pod, others: &[Arc<Pod>]) -> Option<(String, String)> {
    let (node, allocatable) = allocatable(kubelet);
    fit::refuse(pod, node.as_ref(), &allocatable, others)
}

/// The node's object, and what it has for pods.
fn allocatable(kubelet: &Kubelet) -> (Option<Node>, fit::Allocatable) {
    let node: Option<Node> = kubelet.own_node.read("", &kubelet.config.node_name);
    let mut allocatable = kubelet.node.allocatable();
    let listed = node.as_ref().and_then(|node| node.status.as_ref()?.allocatable.clone()).unwrap_or_default();
    for (resource, amount) in listed {
        if let Some(amount) = Quantity::parse(&amount.0) {
            allocatable.entry(resource).or_insert(amount);
        }
    }
    for (resource, count) in kubelet.placement.devices.usable() {
        allocatable.insert(resource, Quantity::from_value(count as i64, api::quantity::Format::DecimalSI));
    }
    (node, allocatable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nobody_runs_without_the_profile_that_was_asked_for() {
        let refused = |pod: Option<&str>, container: Option<&str>, init: Option<&str>| {
            let security = |kind: Option<&str>| json!({"appArmorProfile": kind.map(|kind| json!({"type": kind}))});
            let one = |name: &str, kind: Option<&str>| json!({"name": name, "image": "i", "securityContext": security(kind)});
            let spec = json!({
                "securityContext": security(pod), "containers": [one("main", container)], "initContainers": [one("first", init)],
            });
            unenforced_profile(&serde_json::from_value(spec).unwrap()).is_some()
        };
        assert!(!refused(None, None, None) && !refused(Some("Unconfined"), Some("Unconfined"), None));
        for kind in ["RuntimeDefault", "Localhost"] {
            assert!(refused(Some(kind), None, None) && refused(None, Some(kind), None) && refused(None, None, Some(kind)), "{kind}");
        }
    }
}
