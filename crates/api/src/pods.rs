//! What several components ask of a pod: its quality of service, its total requests, whether it is done or ready.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::read::Read;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// `Guaranteed`, `Burstable` or `BestEffort` of a pod spec.
pub fn qos_class(spec: &Map<String, Value>) -> &'static str {
    if let Some(resources) = spec.object("resources").filter(|one| has_compute(one)) {
        let guaranteed = ["cpu", "memory"].iter().all(|name| {
            let (request, limit) = (resources.map("requests").quantity(name), resources.map("limits").quantity(name));
            request.is_some_and(|one| !one.is_zero()) && request == limit
        });
        return if guaranteed { "Guaranteed" } else { "Burstable" };
    }
    let (mut any, mut guaranteed) = (false, true);
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for container in spec.maps("containers").chain(spec.maps("initContainers")) {
        let resources = container.map("resources");
        for (field, sums) in [("requests", &mut requests), ("limits", &mut limits)] {
            for name in ["cpu", "memory"] {
                if let Some(amount) = resources.map(field).quantity(name).filter(|one| !one.is_zero()) {
                    any = true;
                    let sum = sums.entry(name.to_owned()).or_default();
                    *sum = sum.add(amount);
                }
            }
        }
        let limited = |name: &&str| resources.map("limits").quantity(name).is_some_and(|one| !one.is_zero());
        guaranteed &= ["cpu", "memory"].iter().all(limited);
    }
    let equal = guaranteed && requests.iter().all(|(name, amount)| limits.get(name) == Some(amount)) && requests.len() == limits.len();
    match (any, equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn has_compute(resources: &Map<String, Value>) -> bool {
    ["requests", "limits"].iter().any(|field| {
        let amounts = resources.map(field);
        amounts.contains_key("cpu") || amounts.contains_key("memory")
    })
}

/// What a pod asks of a node: the sum of its containers and sidecars or the largest moment of its start, and its overhead.
pub fn requests(spec: &Map<String, Value>) -> Amounts {
    total(spec, "requests")
}

/// The same of its limits.
pub fn limits(spec: &Map<String, Value>) -> Amounts {
    total(spec, "limits")
}

/// What the containers of a pod ask for together, whatever the pod as a whole has.
pub fn container_requests(spec: &Map<String, Value>) -> Amounts {
    of_containers(spec, "requests")
}

fn of_containers(spec: &Map<String, Value>, field: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in spec.maps("containers") {
        add(&mut sum, container.map("resources").map(field));
    }
    // Init containers run one after another, beside the sidecars that started before them.
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.maps("initContainers") {
        let amounts = container.map("resources").map(field);
        let mut moment = sidecars.clone();
        add(&mut moment, amounts);
        if is_sidecar(container) {
            add(&mut sum, amounts);
            sidecars = moment.clone();
        }
        raise(&mut peak, &moment);
    }
    raise(&mut sum, &peak);
    sum
}

fn total(spec: &Map<String, Value>, field: &str) -> Amounts {
    let mut sum = of_containers(spec, field);
    for (name, value) in spec.map("resources").map(field) {
        if let Some(amount) = Quantity::from_json(value) {
            sum.insert(name.clone(), amount);
        }
    }
    if field == "requests" {
        add(&mut sum, spec.map("overhead"));
    } else {
        for (name, value) in spec.map("overhead") {
            if let (Some(limit), Some(extra)) = (sum.get_mut(name), Quantity::from_json(value)) {
                *limit = limit.add(extra);
            }
        }
    }
    sum
}

fn add(sum: &mut Amounts, amounts: &Map<String, Value>) {
    for (name, value) in amounts {
        if let Some(amount) = Quantity::from_json(value) {
            let slot = sum.entry(name.clone()).or_default();
            *slot = slot.add(amount);
        }
    }
}

fn raise(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let slot = sum.entry(name.clone()).or_insert(*amount);
        *slot = (*slot).max(*amount);
    }
}

/// Whether an init container keeps running beside the main ones.
pub fn is_sidecar(container: &Map<String, Value>) -> bool {
    container.text("restartPolicy") == "Always"
}

/// Whether the pod has ended for good.
pub fn is_terminal(pod: &impl Read) -> bool {
    matches!(pod.map("status").text("phase"), "Succeeded" | "Failed")
}

/// Whether the pod's Ready condition is True.
pub fn is_ready(pod: &impl Read) -> bool {
    crate::print::condition_true(pod.map("status"), "Ready")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn qos_and_requests() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"resources": {"requests": {"cpu": "3"}}}
            ],
            "overhead": {"cpu": "10m"}
        });
        let spec = spec.as_object().unwrap();
        assert_eq!(qos_class(spec), "Burstable");
        assert_eq!(requests(spec)["cpu"].to_string(), "3110m");
        assert_eq!(requests(spec)["memory"].to_string(), "1Gi");
        assert_eq!(qos_class(json!({"containers": [{}]}).as_object().unwrap()), "BestEffort");
        let equal = json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}});
        assert_eq!(qos_class(json!({"containers": [{"resources": equal}]}).as_object().unwrap()), "Guaranteed");
    }
}
