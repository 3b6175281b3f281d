//! What a node refuses although the pod was bound to it: the pod then fails for good, with the reason in its status.

use api::Quantity;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};

use super::limits::{self, Class};
use super::model;
use super::prepare::is_safe;
use crate::Kubelet;
use crate::eviction::Condition;

/// Why the pod cannot run here: reason and message.
pub fn refuse(kubelet: &Kubelet, pod: &Pod) -> Option<(String, String)> {
    let spec = pod.spec.as_ref()?;
    pressed(kubelet, pod, spec).or_else(|| forbidden_sysctl(spec)).or_else(|| too_much(kubelet, pod, spec))
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
    Some(("Evicted".into(), format!("Pod was rejected: The node had condition: [{}]. ", names.join(" "))))
}

fn tolerates_memory_pressure(toleration: &Toleration) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let key = given(&toleration.key);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let effect = given(&toleration.effect).is_none_or(|effect| effect == "NoSchedule");
    let value = exists || given(&toleration.value).is_none();
    effect && value && key.map_or(exists, |key| key == "node.kubernetes.io/memory-pressure")
}

fn forbidden_sysctl(spec: &PodSpec) -> Option<(String, String)> {
    let sysctls = spec.security_context.as_ref()?.sysctls.as_deref()?;
    let wrong = sysctls.iter().find(|sysctl| !is_safe(&sysctl.name))?;
    Some(("SysctlForbidden".into(), format!("forbidden sysctl: {:?} not allowlisted", wrong.name)))
}

/// More of a resource than the node has left for pods.
fn too_much(kubelet: &Kubelet, pod: &Pod, spec: &PodSpec) -> Option<(String, String)> {
    let allocatable = kubelet.node.allocatable();
    let others: Vec<std::sync::Arc<Pod>> = kubelet.pods.pods().into_iter().filter(|other| other.metadata.uid != pod.metadata.uid).collect();
    for resource in ["cpu", "memory"] {
        let amount = |spec: &PodSpec| limits::requested(spec, resource);
        let wanted = amount(spec);
        let used: i64 = others.iter().filter_map(|other| other.spec.as_ref()).map(amount).sum();
        let all = allocatable.get(resource).copied().unwrap_or_default();
        let all = if resource == "cpu" { Quantity::milli(all) } else { Quantity::value(all) };
        if wanted > 0 && used + wanted > all {
            let message = format!("Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {all}");
            return Some((format!("OutOf{resource}"), format!("Pod was rejected: {message}")));
        }
    }
    None
}
