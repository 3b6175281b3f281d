//! What one object uses of a resource quota, under all the names that quotas have for it. Admission refuses by it,
//! the controller reports by it, so both say the same.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::resources::ResourceDef;
use crate::{Object, Quantity};

/// Amounts by the names of quotas.
pub type Usage = BTreeMap<String, Quantity>;

fn one() -> Quantity {
    Quantity::from_milli(1000)
}

/// The usage of an object at a time, in seconds since the epoch.
pub fn usage_of(object: &Object, def: &ResourceDef, now: i64) -> Usage {
    let mut usage = Usage::new();
    let counted = if def.group.is_empty() { format!("count/{}", def.plural) } else { format!("count/{}.{}", def.plural, def.group) };
    usage.insert(counted, one());
    if !def.group.is_empty() {
        return usage;
    }
    match &*def.plural {
        "pods" => pod(object, now, &mut usage),
        "services" => service(object, &mut usage),
        "persistentvolumeclaims" => claim(object, &mut usage),
        plural @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            usage.insert(plural.to_owned(), one());
        }
        _ => {}
    }
    usage
}

/// Pods that ended use nothing but their count.
fn is_active(pod: &Object, now: i64) -> bool {
    if matches!(pod.text_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return false;
    }
    let Some(at) = pod.deletion_timestamp().and_then(|text| text.parse::<jiff::Timestamp>().ok()) else { return true };
    let grace = pod.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    now <= at.as_second() + grace
}

fn pod(pod: &Object, now: i64, usage: &mut Usage) {
    if !is_active(pod, now) {
        return;
    }
    usage.insert("pods".into(), one());
    for part in ["requests", "limits"] {
        for (name, amount) in total(pod, part) {
            let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if part == "requests" && (standard || name.starts_with("hugepages-")) {
                usage.insert(name.clone(), amount);
            }
            if part == "requests" || standard {
                usage.insert(format!("{part}.{name}"), amount);
            }
        }
    }
}

fn total(pod: &Object, part: &str) -> Usage {
    let mut sum = Usage::new();
    let mut peak = Usage::new();
    for (field, is_init) in [("containers", false), ("initContainers", true)] {
        for container in pod.at(&["spec", field]).and_then(Value::as_array).into_iter().flatten() {
            let sidecar = is_init && container["restartPolicy"] == "Always";
            for (name, value) in container["resources"][part].as_object().into_iter().flatten() {
                let Some(amount) = Quantity::from_json(value) else { continue };
                let (target, joined) = if is_init && !sidecar { (&mut peak, false) } else { (&mut sum, true) };
                let next = match target.get(name) {
                    Some(before) if joined => before.add(amount),
                    Some(before) if *before > amount => *before,
                    _ => amount,
                };
                target.insert(name.clone(), next);
            }
        }
    }
    for (name, amount) in peak {
        if sum.get(&name).is_none_or(|before| *before < amount) {
            sum.insert(name, amount);
        }
    }
    for (name, value) in pod.at(&["spec", "overhead"]).and_then(Value::as_object).into_iter().flatten() {
        if let Some(amount) = Quantity::from_json(value).filter(|_| part == "requests" || sum.contains_key(name)) {
            let next = sum.get(name).map_or(amount, |before| before.add(amount));
            sum.insert(name.clone(), next);
        }
    }
    sum
}

fn service(service: &Object, usage: &mut Usage) {
    usage.insert("services".into(), one());
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).map_or(0, Vec::len) as i64;
    let kind = service.text_at(&["spec", "type"]);
    let with_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && service.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false)));
    if with_ports {
        usage.insert("services.nodeports".into(), one().times(ports));
    }
    if kind == "LoadBalancer" {
        usage.insert("services.loadbalancers".into(), one());
    }
}

fn claim(claim: &Object, usage: &mut Usage) {
    usage.insert("persistentvolumeclaims".into(), one());
    let class = match claim.text_at(&["spec", "storageClassName"]) {
        "" => claim.annotation("volume.beta.kubernetes.io/storage-class").unwrap_or(""),
        class => class,
    };
    let storage = claim.at(&["spec", "resources", "requests", "storage"]).and_then(Quantity::from_json);
    if let Some(storage) = storage {
        usage.insert("requests.storage".into(), storage);
    }
    if !class.is_empty() {
        usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
        if let Some(storage) = storage {
            usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
}

/// Whether an object is in all scopes of a quota. Scopes are of pods only.
pub fn matches_scopes(quota: &Object, object: &Object, def: &ResourceDef) -> bool {
    let plain = quota.at(&["spec", "scopes"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let selected = quota.at(&["spec", "scopeSelector", "matchExpressions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    if plain.is_empty() && selected.is_empty() {
        return true;
    }
    if !def.group.is_empty() || &*def.plural != "pods" {
        return false;
    }
    plain.iter().filter_map(Value::as_str).all(|scope| in_scope(scope, object))
        && selected.iter().all(|expression| matches_expression(expression, object))
}

fn in_scope(scope: &str, pod: &Object) -> bool {
    let terminating = pod.at(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64).is_some_and(|seconds| seconds >= 0);
    let best_effort = total(pod, "requests").is_empty() && total(pod, "limits").is_empty();
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => !pod.text_at(&["spec", "priorityClassName"]).is_empty(),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Object) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = pod.at(&["spec", "affinity", kind]).cloned().unwrap_or_default();
        let required = affinity["requiredDuringSchedulingIgnoredDuringExecution"].as_array().cloned().unwrap_or_default();
        let preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"].as_array().cloned().unwrap_or_default();
        let terms = required.into_iter().chain(preferred.into_iter().map(|one| one["podAffinityTerm"].clone()));
        terms
            .into_iter()
            .any(|term| term["namespaces"].as_array().is_some_and(|list| !list.is_empty()) || term["namespaceSelector"].is_object())
    })
}

fn matches_expression(expression: &Value, pod: &Object) -> bool {
    let scope = expression["scopeName"].as_str().unwrap_or("");
    let values: Vec<&str> = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let class = pod.text_at(&["spec", "priorityClassName"]);
    match (scope, expression["operator"].as_str().unwrap_or("")) {
        ("PriorityClass", "In") => values.contains(&class),
        ("PriorityClass", "NotIn") => !values.contains(&class),
        ("PriorityClass", "DoesNotExist") => class.is_empty(),
        (scope, "DoesNotExist") => !in_scope(scope, pod),
        (scope, _) => in_scope(scope, pod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn usage(plural: &str, object: Value) -> String {
        let def = crate::resources::find("", "v1", plural).expect("a core resource");
        let object = Object::from_value(object).expect("an object");
        usage_of(&object, def, 0).iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn objects_use_quotas() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"memory": "1Gi"}}});
        let pod = json!({"spec": {"containers": [container("100m"), container("200m")], "initContainers": [container("250m")]}});
        assert_eq!(usage("pods", pod.clone()), "count/pods=1 cpu=300m limits.memory=2Gi pods=1 requests.cpu=300m");
        let mut ended = pod;
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(usage("pods", ended), "count/pods=1");
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        assert_eq!(usage("services", service), "count/services=1 services=1 services.nodeports=2");
    }
}
