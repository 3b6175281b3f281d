//! What a node refuses although the pod was bound to it: the pod then fails for good, with the reason in its status.

use api::Quantity;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::limits;
use super::prepare::is_safe;
use crate::Kubelet;

/// Why the pod cannot run here: reason and message.
pub fn refuse(kubelet: &Kubelet, pod: &Pod) -> Option<(String, String)> {
    let spec = pod.spec.as_ref()?;
    forbidden_sysctl(spec).or_else(|| too_much(kubelet, pod, spec))
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
