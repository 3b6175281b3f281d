//! Which pod goes first, and what it is told: pure functions over what was measured.

use std::cmp::Reverse;
use std::sync::Arc;

use api::Quantity;
use api::quantity::Format;
use k8s_openapi::api::core::v1::Pod;

use super::usage::Usage;
use super::{Observation, Order, Threshold};
use crate::pods::limits::requested;

/// A pod with what it uses; none where nothing could be measured.
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it uses.
    pub usage: Option<Usage>,
}

/// Brings those that go first to the front: pods that nothing is known about, then those that use more than they asked for, then
/// by priority, then by how much they use beyond their request.
pub fn rank(candidates: &mut [Candidate], order: Order) {
    candidates.sort_by_cached_key(|candidate| {
        let spec = candidate.pod.spec.as_ref();
        let asked = |resource: &str| spec.map_or(0, |spec| requested(spec, resource));
        let priority = spec.and_then(|spec| spec.priority).unwrap_or(0);
        let known = candidate.usage.is_some();
        let usage = candidate.usage.as_ref();
        let beyond = match order {
            Order::Memory => usage.map_or(0, |usage| usage.memory - asked("memory")),
            Order::Disk => usage.map_or(0, |usage| usage.disk().bytes - asked("ephemeral-storage")),
            Order::Inodes => usage.map_or(0, |usage| usage.disk().inodes),
            Order::Processes => usage.map_or(0, |usage| usage.processes),
        };
        // Nobody asks for processes, so that using some is no offence.
        let within = order == Order::Processes || beyond <= 0;
        (order != Order::Processes && known, within, priority, known, Reverse(beyond))
    });
}

/// What an evicted pod is told.
pub fn message(resource: &str, threshold: &Threshold, seen: &Observation, candidate: &Candidate) -> String {
    let left = Quantity::from_value(seen.available, seen.format);
    let mut text =
        format!("The node was low on resource: {resource}. Threshold quantity: {}, available: {left}. ", threshold.quantity(seen.capacity));
    let Some(usage) = &candidate.usage else {
        return text;
    };
    let containers = candidate.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    for container in containers {
        let used = usage.containers.get(&container.name).and_then(|used| match resource {
            "memory" => Some(used.memory),
            "ephemeral-storage" => Some(used.root.bytes + used.logs.bytes),
            _ => None,
        });
        let Some(used) = used else {
            continue;
        };
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let request = requests.and_then(|requests| Quantity::parse(&requests.get(resource)?.0)).unwrap_or_default();
        if used > request.value() {
            let used = Quantity::from_value(used, Format::BinarySI);
            text.push_str(&format!(
                "Container {} was using {used}, request is {request}, has larger consumption of {resource}. ",
                container.name
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::usage::{ContainerUsage, Space};
    use super::*;

    fn candidate(name: &str, priority: i32, request: &str, usage: Option<Usage>) -> Candidate {
        let resources = json!({"requests": {"memory": request, "ephemeral-storage": request}});
        let pod =
            json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]}});
        Candidate { pod: Arc::new(serde_json::from_value(pod).unwrap()), usage }
    }

    fn usage(memory: i64, disk: i64, processes: i64) -> Option<Usage> {
        let root = Space { bytes: disk, inodes: disk / 10 };
        let container = ContainerUsage { memory, root, logs: Space::default() };
        Some(Usage { memory, processes, containers: [("c".to_owned(), container)].into(), ..Usage::default() })
    }

    fn check(order: Order, mut candidates: Vec<Candidate>, expected: &str) {
        rank(&mut candidates, order);
        let names: Vec<&str> = candidates.iter().map(|one| one.pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names.join(" "), expected, "{order:?}");
    }

    #[test]
    fn offenders_go_first_then_the_less_important() {
        let pods = || {
            vec![
                candidate("modest", 0, "500", usage(400, 400, 9)),
                candidate("greedy", 0, "100", usage(900, 300, 5)),
                candidate("greedier-but-important", 10, "0", usage(2000, 2000, 90)),
                candidate("greedy-a-little", 0, "100", usage(101, 900, 7)),
                candidate("unknown", 100, "0", None),
            ]
        };
        check(Order::Memory, pods(), "unknown greedy greedy-a-little greedier-but-important modest");
        check(Order::Disk, pods(), "unknown greedy-a-little greedy greedier-but-important modest");
        check(Order::Inodes, pods(), "unknown greedy-a-little modest greedy greedier-but-important");
        check(Order::Processes, pods(), "modest greedy-a-little greedy greedier-but-important unknown");
    }

    #[test]
    fn the_message_names_who_used_more_than_it_asked_for() {
        let threshold = super::super::parse("memory.available<100Mi").unwrap()[0];
        let seen = Observation { available: 50 << 20, capacity: 1 << 30, format: Format::BinarySI };
        let text = |request| message("memory", &threshold, &seen, &candidate("p", 0, request, usage(200 << 20, 0, 1)));
        let head = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ";
        assert_eq!(text("1Gi"), head);
        assert_eq!(text("64Mi"), format!("{head}Container c was using 200Mi, request is 64Mi, has larger consumption of memory. "));
    }
}
