//! Limit ranges of a namespace: defaults for containers that say nothing, and bounds for all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Object, Quantity, Status};
use async_trait::async_trait;
use serde_json::{Map, Value};
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

/// Tells in the pod what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(LimitRanger)
}

struct LimitRanger;

type Amounts = BTreeMap<String, Quantity>;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "pods") || admission.operation != Operation::Create {
            return Ok(());
        }
        for range in ranges(server, &admission.namespace) {
            let (requests, limits) = defaults(&range);
            if requests.is_empty() && limits.is_empty() {
                continue;
            }
            if let Some(pod) = admission.change() {
                fill(pod, &requests, &limits);
            }
        }
        Ok(())
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let pods = admission.is("", "pods") && admission.operation == Operation::Create;
        let claims = admission.is("", "persistentvolumeclaims") && matches!(admission.operation, Operation::Create | Operation::Update);
        if !pods && !claims {
            return Ok(());
        }
        let Some(object) = &admission.object else { return Ok(()) };
        for range in ranges(server, &admission.namespace) {
            let mut problems = Vec::new();
            for limit in range.at(&["spec", "limits"]).and_then(Value::as_array).into_iter().flatten() {
                match limit["type"].as_str() {
                    Some("Container") if pods => containers(object, limit, &mut problems),
                    Some("Pod") if pods => pod(object, limit, &mut problems),
                    Some("PersistentVolumeClaim") if claims => claim(object, limit, &mut problems),
                    _ => {}
                }
            }
            match problems.as_slice() {
                [] => {}
                [one] => return Err(admission.forbidden(one)),
                all => return Err(admission.forbidden(&format!("[{}]", all.join(", ")))),
            }
        }
        Ok(())
    }
}

fn ranges(server: &Server, namespace: &str) -> Vec<Object> {
    let kind = Kind::new(api::resources::storage_prefix("", "limitranges", false));
    let prefix = kind.namespace(namespace);
    let snapshot = server.store.mvcc().snapshot(&kind);
    snapshot.under(&prefix).filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)).collect()
}

/// Default requests and limits of containers.
fn defaults(range: &Object) -> (Map<String, Value>, Map<String, Value>) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for limit in range.at(&["spec", "limits"]).and_then(Value::as_array).into_iter().flatten() {
        if limit["type"] == "Container" {
            requests.extend(limit["defaultRequest"].as_object().cloned().unwrap_or_default());
            limits.extend(limit["default"].as_object().cloned().unwrap_or_default());
        }
    }
    (requests, limits)
}

fn fill(pod: &mut Object, requests: &Map<String, Value>, limits: &Map<String, Value>) {
    let mut notes = Vec::new();
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        let list = pod.map_at_mut(&["spec"]).get_mut(field).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or("").to_owned();
            for (part, defaults) in [("requests", requests), ("limits", limits)] {
                let mut set: BTreeSet<&str> = BTreeSet::new();
                let amounts = part_mut(container, part);
                for (resource, value) in defaults {
                    if !amounts.contains_key(resource) {
                        amounts.insert(resource.clone(), value.clone());
                        set.insert(resource);
                    }
                }
                if amounts.is_empty() {
                    drop_part(container, part);
                }
                if !set.is_empty() {
                    let resources: Vec<&str> = set.into_iter().collect();
                    notes.push(format!("{} {} for {what} {name}", resources.join(", "), part.trim_end_matches('s')));
                }
            }
        }
    }
    if !notes.is_empty() {
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.map_at_mut(&["metadata", "annotations"]).insert(ANNOTATION.into(), text.into());
    }
}

fn part_mut<'a>(container: &'a mut Value, part: &str) -> &'a mut Map<String, Value> {
    if !container["resources"].is_object() {
        container["resources"] = Value::Object(Map::new());
    }
    let resources = &mut container["resources"];
    if !resources[part].is_object() {
        resources[part] = Value::Object(Map::new());
    }
    resources[part].as_object_mut().expect("just made a map")
}

fn drop_part(container: &mut Value, part: &str) {
    if let Some(resources) = container["resources"].as_object_mut() {
        resources.remove(part);
    }
}

fn amounts(value: &Value) -> Amounts {
    let map = value.as_object().into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value)?))).collect()
}

/// Checks requests and limits of one thing against a limit of its type.
fn check(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    for (name, least) in amounts(&limit["min"]) {
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => problems.push(format!("minimum {name} usage per {kind} is {least}.  No request is specified")),
            (Some(request), _) if *request < least => {
                problems.push(format!("minimum {name} usage per {kind} is {least}, but request is {request}"))
            }
            (_, Some(limit)) if *limit < least => {
                problems.push(format!("minimum {name} usage per {kind} is {least}, but limit is {limit}"))
            }
            _ => {}
        }
    }
    for (name, most) in amounts(&limit["max"]) {
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => problems.push(format!("maximum {name} usage per {kind} is {most}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => problems.push(format!("maximum {name} usage per {kind} is {most}, but limit is {limit}")),
            (Some(request), _) if *request > most => {
                problems.push(format!("maximum {name} usage per {kind} is {most}, but request is {request}"))
            }
            _ => {}
        }
    }
    for (name, most) in amounts(&limit["maxLimitRequestRatio"]) {
        let zero = |amount: Option<&Quantity>| amount.is_none_or(|amount| amount.is_zero());
        let head = format!("{name} max limit to request ratio per {kind} is {most}");
        if zero(requests.get(&name)) {
            problems.push(format!("{head}, but no request is specified or request is 0"));
        } else if zero(limits.get(&name)) {
            problems.push(format!("{head}, but no limit is specified or limit is 0"));
        } else {
            let ratio = limits[&name].as_f64() / requests[&name].as_f64();
            if ratio > most.as_f64() {
                problems.push(format!("{head}, but provided ratio is {ratio:.6}"));
            }
        }
    }
}

fn all_containers<'a>(pod: &'a Object, field: &str) -> impl Iterator<Item = &'a Value> {
    pod.at(&["spec", field]).and_then(Value::as_array).into_iter().flatten()
}

fn containers(pod: &Object, limit: &Value, problems: &mut Vec<String>) {
    for field in ["containers", "initContainers"] {
        for container in all_containers(pod, field) {
            let resources = &container["resources"];
            check("Container", limit, &amounts(&resources["requests"]), &amounts(&resources["limits"]), problems);
        }
    }
}

/// The sum over containers, or the largest init container where that is more.
fn total(pod: &Object, part: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in all_containers(pod, "containers") {
        for (name, amount) in amounts(&container["resources"][part]) {
            let next = sum.get(&name).map_or(amount, |before| before.add(amount));
            sum.insert(name, next);
        }
    }
    for container in all_containers(pod, "initContainers") {
        for (name, amount) in amounts(&container["resources"][part]) {
            let more = sum.get(&name).is_none_or(|before| *before < amount);
            if more {
                sum.insert(name, amount);
            }
        }
    }
    sum
}

fn pod(pod: &Object, limit: &Value, problems: &mut Vec<String>) {
    check("Pod", limit, &total(pod, "requests"), &total(pod, "limits"), problems);
}

fn claim(claim: &Object, limit: &Value, problems: &mut Vec<String>) {
    let requests = amounts(claim.at(&["spec", "resources", "requests"]).unwrap_or(&Value::Null));
    for (name, least) in amounts(&limit["min"]) {
        match requests.get(&name) {
            Some(request) if *request < least => {
                problems.push(format!("minimum {name} usage per PersistentVolumeClaim is {least}, but request is {request}"));
            }
            None => problems.push(format!("minimum {name} usage per PersistentVolumeClaim is {least}.  No request is specified")),
            _ => {}
        }
    }
    for (name, most) in amounts(&limit["max"]) {
        if let Some(request) = requests.get(&name).filter(|request| **request > most) {
            problems.push(format!("maximum {name} usage per PersistentVolumeClaim is {most}, but request is {request}"));
        }
    }
}
