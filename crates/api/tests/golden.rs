//! Recorded answers of the real server: defaulting, preparation and validation must come to the same.
//!
//! What admission and allocation add (tokens, tolerations, addresses, finalizers) is taken out of both sides.

use api::kinds::{self, Generation};
use api::{Object, ResourceDef, normal, resources, types};
use serde_json::{Map, Value, json};

fn records(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn resource(object: &Object) -> &'static ResourceDef {
    let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
    let all = resources::builtin().iter();
    all.filter(|one| &*one.group == group && &*one.version == version).find(|one| *one.kind == *object.kind()).unwrap()
}

/// What the request pipeline does to a new object, without admission.
fn prepared(request: &Value, uid: &str) -> (&'static ResourceDef, Object) {
    let mut object = Object::from_value(request.clone()).unwrap();
    let resource = resource(&object);
    if resource.namespaced() {
        object.set_meta("namespace", "default");
    }
    normal::normalize(&mut object.0, &resource.schema);
    types::default(&mut object.0, &resource.schema);
    object.set_meta("uid", uid);
    object.set_meta("creationTimestamp", "2026-11-21T06:18:32Z");
    let kind = kinds::of(resource);
    (kind.prepare_create)(&mut object);
    if kind.generation == Generation::Spec {
        object.set_meta("generation", 1);
    }
    normal::normalize(&mut object.0, &resource.schema);
    (resource, object)
}

fn remove(value: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = value;
    for step in parents {
        let Some(next) = at.get_mut(*step) else { return };
        at = next;
    }
    if let Some(map) = at.as_object_mut() {
        map.remove(*last);
    }
}

fn mask(value: &mut Value) {
    for field in ["managedFields", "uid", "creationTimestamp"] {
        remove(value, &["metadata", field]);
    }
    let kind = value["kind"].as_str().unwrap_or("").to_owned();
    match kind.as_str() {
        "Pod" => {
            for field in ["tolerations", "priority", "preemptionPolicy", "serviceAccount", "serviceAccountName"] {
                remove(value, &["spec", field]);
            }
            for list in ["containers", "initContainers"] {
                for container in value["spec"][list].as_array_mut().into_iter().flatten() {
                    without_token(container, "volumeMounts");
                }
            }
            without_token(&mut value["spec"], "volumes");
            if value["spec"]["initContainers"].is_null() {
                remove(value, &["spec", "initContainers"]);
            }
        }
        "Service" => {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                remove(value, &["spec", field]);
            }
        }
        "PersistentVolume" | "PersistentVolumeClaim" => remove(value, &["metadata", "finalizers"]),
        "Node" => remove(value, &["spec", "taints"]),
        _ => {}
    }
    if value["spec"].as_object().is_some_and(Map::is_empty) && kind == "Node" {
        remove(value, &["spec"]);
    }
}

fn without_token(map: &mut Value, field: &str) {
    let Some(items) = map[field].as_array_mut() else {
        remove(map, &[field]);
        return;
    };
    items.retain(|item| !item["name"].as_str().unwrap_or("").starts_with("kube-api-access"));
    if items.is_empty() {
        remove(map, &[field]);
    }
}

#[test]
fn valid() {
    let mut wrong = Vec::new();
    for record in records("valid") {
        let mut expected = record["response"].clone();
        let uid = expected["metadata"]["labels"]["controller-uid"].as_str().unwrap_or("00000000-0000-4000-8000-000000000001").to_owned();
        let (resource, object) = prepared(&record["request"], &uid);
        let causes = kinds::validate_create(resource, &object);
        let mut actual = object.into_value();
        mask(&mut actual);
        mask(&mut expected);
        let title = format!("{} {}", resource.kind, record["request"]["metadata"]["name"]);
        if !causes.is_empty() {
            wrong.push(format!("{title}: {}", causes.joined()));
        }
        if actual != expected {
            wrong.push(format!("{title}\n  actual   {actual}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn invalid() {
    let mut wrong = Vec::new();
    for record in records("invalid") {
        let expected = &record["response"];
        // Strict decoding belongs to the codec.
        if expected["code"] != 422 {
            continue;
        }
        let (resource, object) = prepared(&record["request"], "00000000-0000-4000-8000-000000000001");
        let causes = kinds::validate_create(resource, &object);
        let status = api::Status::invalid(&resource.group, &resource.kind, object.name(), &causes).to_value();
        let first = expected["details"]["causes"][0]["message"].as_str().unwrap_or("");
        // Addresses are allocated, and expressions compiled, elsewhere.
        if first.contains("failed to allocate IP") || first.contains("compilation failed") {
            continue;
        }
        let lines = |status: &Value| {
            let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
            causes.iter().map(|one| json!([one["field"], one["reason"], one["message"]]).to_string()).collect::<Vec<_>>().join("\n    ")
        };
        if lines(&status) != lines(expected) {
            let title = format!("{} {}", resource.kind, record["request"]["metadata"]["name"]);
            wrong.push(format!("{title}\n  actual\n    {}\n  expected\n    {}", lines(&status), lines(expected)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
