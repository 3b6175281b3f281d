//! In-place resize: brings the limits of running containers and of the pod to what the spec now says (KEP-1287).

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

/// What a change of resources needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Nothing changed.
    None,
    /// The control group is enough.
    InPlace,
    /// The container asked to be restarted for this resource.
    Restart,
}

/// Compares what a container runs with to what its spec says now.
pub fn needed(container: &Container, applied: &ResourceRequirements) -> Resize {
    let wanted = container.resources.clone().unwrap_or_default();
    if wanted.limits == applied.limits && wanted.requests == applied.requests {
        return Resize::None;
    }
    let changed = |resource: &str| {
        let of = |list: &Option<std::collections::BTreeMap<String, _>>| -> Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity> {
            list.as_ref().and_then(|list| list.get(resource)).cloned()
        };
        of(&wanted.limits) != of(&applied.limits) || of(&wanted.requests) != of(&applied.requests)
    };
    let restart = container
        .resize_policy
        .iter()
        .flatten()
        .any(|policy| policy.restart_policy == "RestartContainer" && changed(&policy.resource_name));
    if restart { Resize::Restart } else { Resize::InPlace }
}
