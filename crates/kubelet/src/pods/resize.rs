//! In-place resize: brings the limits of running containers and of the pod to what the spec now says (KEP-1287).

use std::collections::BTreeMap;

use cgroup::{Group, Limits};
use client::EventKind;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use runtime::{ContainerId, ContainerState};
use serde_json::{Value, json};

use super::limits::{self, Class, List};
use super::model::{self, Member, Role};
use super::worker::Worker;
use crate::clock::now_ms;

/// After how many milliseconds what could not be put in force is tried again.
const AGAIN: i64 = 2_000;

/// Under this name stands what the pod as a whole has, beside its containers (KEP-2837).
pub const WHOLE: &str = "";

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
    if !differs(&wanted, applied) {
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

/// What the pod as a whole and every container that may change ask for.
pub fn asked(pod: &Pod, members: &[Member]) -> BTreeMap<String, ResourceRequirements> {
    let lasting = members.iter().filter(|member| member.role != Role::Ephemeral);
    let containers = lasting.map(|member| (member.spec.name.clone(), member.spec.resources.clone().unwrap_or_default()));
    containers.chain(whole(pod).map(|own| (WHOLE.to_owned(), own.clone()))).collect()
}

/// What the pod as a whole asks for.
pub fn whole(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref().and_then(|spec| spec.resources.as_ref())
}

/// What the pod as a whole has and was given, from its status, which tells the same of what only its containers have.
pub fn whole_given(pod: &Pod, status: &PodStatus) -> Option<(ResourceRequirements, ResourceRequirements)> {
    let (own, had) = (whole(pod)?, status.resources.as_ref()?);
    let part = |own: &Option<List>, had: &Option<List>| {
        let known = |name: &String| Some((name.clone(), had.as_ref()?.get(name)?.clone()));
        own.as_ref().map(|own| own.keys().filter_map(known).collect::<List>())
    };
    let applied = ResourceRequirements {
        requests: part(&own.requests, &had.requests),
        limits: part(&own.limits, &had.limits),
        ..ResourceRequirements::default()
    };
    let allocated = ResourceRequirements { requests: part(&own.requests, &status.allocated_resources), ..applied.clone() };
    Some((applied, allocated))
}

fn differs(own: &ResourceRequirements, other: &ResourceRequirements) -> bool {
    own.requests != other.requests || own.limits != other.limits
}

/// What a container was given, from its status.
pub fn given(resources: &ResourceRequirements, allocated: Option<&List>) -> ResourceRequirements {
    ResourceRequirements { requests: allocated.cloned().or_else(|| resources.requests.clone()), ..resources.clone() }
}

/// What an event tells of a resize: all containers with what they ask for.
fn told(pod: &Pod, error: Option<&str>) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let shown: Vec<Value> =
        containers.map(|container| json!({"name": container.name, "resources": container.resources.clone().unwrap_or_default()})).collect();
    let generation = pod.metadata.generation.unwrap_or_default();
    let error = error.map_or_else(String::new, |error| format!(",\"error\":{}", Value::from(error)));
    format!("{{\"containers\":{},\"generation\":{generation}{error}}}", Value::from(shown))
}

impl Worker {
    /// Brings running containers to the resources that the spec now says, where the node has room for them.
    pub(super) async fn resize(&mut self) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        if !self.accept().await {
            return;
        }
        let mut failures = Vec::new();
        let own = whole(&self.pod).cloned();
        if let Some(own) = own.filter(|_| !self.whole_in_force()) {
            let refused: Vec<String> = self.pod_below_use().into_iter().collect();
            if refused.is_empty() {
                self.resize_pod();
                self.observed.applied.insert(WHOLE.to_owned(), own);
            } else {
                failures.push(format!("cannot decrease memory limits: {}", joined(&refused)));
            }
        }
        for member in self.members.clone() {
            let name = &member.spec.name;
            let (Some(applied), Some(latest)) = (self.observed.applied.get(name).cloned(), self.observed.latest(name).cloned()) else {
                continue;
            };
            if latest.state != ContainerState::Running || self.observed.of(name).stopping {
                continue;
            }
            match needed(&member.spec, &applied) {
                Resize::None => {}
                Resize::Restart => self.stop(name, &format!("Container {name} resize requires restart"), None),
                Resize::InPlace => {
                    let resources = member.spec.resources.clone().unwrap_or_default();
                    let limits = self.container_limits(&resources);
                    let refused = self.below_use(name, &latest.id, &limits).await;
                    if !refused.is_empty() {
                        failures.push(format!("cannot decrease memory limits: {}", joined(&refused)));
                        continue;
                    }
                    self.resize_pod();
                    match sandbox.update_resources(&latest.id, limits).await {
                        Ok(()) => drop(self.observed.applied.insert(name.clone(), resources)),
                        Err(error) => failures.push(super::prepare::chain(&error)),
                    }
                    self.resize_pod();
                }
            }
        }
        if failures.is_empty() {
            self.observed.resize_failed = None;
            let in_force = |member: &Member| {
                let applied = self.observed.applied.get(&member.spec.name);
                applied.is_none_or(|applied| needed(&member.spec, applied) == Resize::None)
            };
            if self.resizing && self.whole_in_force() && self.members.iter().all(in_force) {
                self.resizing = false;
                self.event(EventKind::Normal, "ResizeCompleted", &format!("Pod resize completed: {}", told(&self.pod, None)));
            }
            return;
        }
        let failure = failures.join(", ");
        if self.observed.resize_failed.is_none() {
            self.event(EventKind::Warning, "ResizeError", &format!("Pod resize error: {}", told(&self.pod, Some(&failure))));
        }
        self.observed.resize_failed.get_or_insert(failure);
        self.wake_at(now_ms() + AGAIN);
    }

    /// Whether the pod's group has what the pod as a whole asks for.
    fn whole_in_force(&self) -> bool {
        let applied = self.observed.applied.get(WHOLE);
        whole(&self.pod).zip(applied).is_none_or(|(own, applied)| !differs(own, applied))
    }

    /// Whether what the spec asks for is what the node has given, now that it was asked.
    async fn accept(&mut self) -> bool {
        let wants = asked(&self.pod, &self.members);
        let changed = |(name, wanted): (&String, &ResourceRequirements)| {
            self.observed.allocated.get(name).is_some_and(|given| differs(wanted, given))
        };
        if !wants.iter().any(changed) {
            self.observed.resize_refused = None;
            return true;
        }
        if let Some(why) = self.kubelet.placement.forbids_resize(self.class == Class::Guaranteed) {
            if self.observed.resize_refused.is_none() {
                self.event(EventKind::Warning, "ResizeInfeasible", &format!("Pod resize Infeasible: {}", told(&self.pod, Some(why))));
            }
            self.observed.resize_refused = Some(("Infeasible", why.to_owned()));
            return false;
        }
        if let Some((reason, message)) = self.kubelet.pods.resize(&self.kubelet, &self.pod).await {
            if self.observed.resize_refused.is_none() {
                self.event(EventKind::Warning, "ResizeDeferred", &format!("Pod resize {reason}: {}", told(&self.pod, Some(&message))));
            }
            self.observed.resize_refused = Some(("Deferred", message));
            return false;
        }
        self.observed.resize_refused = None;
        self.observed.allocated = wants;
        self.resizing = true;
        self.event(EventKind::Normal, "ResizeStarted", &format!("Pod resize started: {}", told(&self.pod, None)));
        true
    }

    /// A limit of memory below what is used would have somebody killed.
    async fn below_use(&self, name: &str, id: &ContainerId, limits: &Limits) -> Vec<String> {
        let mut refused: Vec<String> = self.pod_below_use().into_iter().collect();
        let Some(sandbox) = &self.sandbox else {
            return refused;
        };
        let used = sandbox.stats(id).await.map_or(0, |stats| stats.memory.usage);
        if let Some(limit) = limits.memory_limit.filter(|limit| used > limit.unsigned_abs()) {
            refused.push(format!("attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"));
        }
        refused
    }

    /// The same of the whole pod.
    fn pod_below_use(&self) -> Option<String> {
        let group = Group::new(self.kubelet.cgroups.clone(), &self.kubelet.pod_group(self.class, model::uid(&self.pod)));
        let used = group.ok().and_then(|group| group.stats().ok()).map_or(0, |stats| stats.memory.usage);
        let limit = limits::pod(self.pod.spec.as_ref()?, self.class).memory_limit.filter(|limit| used > limit.unsigned_abs())?;
        Some(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"))
    }

    fn container_limits(&self, resources: &ResourceRequirements) -> Limits {
        let swap_limit = self.kubelet.swap_of(&self.pod, self.class, Some(resources));
        Limits { swap_limit, ..limits::container(Some(resources)) }
    }

    /// The pod's group follows its containers: it may be refused while a container still holds more, and is set again.
    fn resize_pod(&self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let group = self.kubelet.pod_group(self.class, model::uid(&self.pod));
        let result = Group::new(self.kubelet.cgroups.clone(), &group).and_then(|group| group.apply(&limits::pod(&spec, self.class)));
        if let Err(error) = result {
            tracing::debug!(pod = model::name(&self.pod), %error, "limits of the pod's control group");
        }
    }
}

/// One text as it stands, several in brackets.
fn joined(texts: &[String]) -> String {
    if let [one] = texts { one.clone() } else { format!("[{}]", texts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: Value, applied: Value, policy: Value, wanted: Resize) {
        let container: Container = serde_json::from_value(json!({"name": "c", "resources": resources, "resizePolicy": policy})).unwrap();
        assert_eq!(needed(&container, &serde_json::from_value(applied).unwrap()), wanted, "{resources} {policy}");
    }

    #[test]
    fn what_a_change_needs() {
        let restart = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        check(json!({}), json!({}), json!([]), Resize::None);
        check(json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}}), restart.clone(), Resize::InPlace);
        check(json!({"limits": {"memory": "1"}}), json!({"limits": {"memory": "2"}}), restart, Resize::Restart);
    }

    #[test]
    fn what_is_told_of_a_change() {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": "20m"}}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"generation": 2}, "spec": {"containers": containers}})).unwrap();
        assert_eq!(told(&pod, None), r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"20m"}}}],"generation":2}"#);
        assert!(told(&pod, Some("no \"room\"")).ends_with(r#""generation":2,"error":"no \"room\""}"#));
    }
}
