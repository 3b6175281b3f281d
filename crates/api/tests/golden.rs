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
    if kind.generation != Generation::None {
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
            for condition in value["status"]["conditions"].as_array_mut().into_iter().flatten() {
                remove(condition, &["lastTransitionTime"]);
            }
            if value["status"]["conditions"].is_null() {
                remove(value, &["status", "conditions"]);
            }
            if value["spec"]["initContainers"].is_null() {
                remove(value, &["spec", "initContainers"]);
            }
        }
        "Node" => remove(value, &["spec", "taints"]),
        "Service" => {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
                remove(value, &["spec", field]);
            }
            value["spec"]["ports"].as_array_mut().into_iter().flatten().for_each(|port| remove(port, &["nodePort"]));
            if value["spec"]["ports"].is_null() {
                remove(value, &["spec", "ports"]);
            }
        }
        "PersistentVolume" | "PersistentVolumeClaim" => {
            remove(value, &["spec", "claimRef", "resourceVersion"]);
            remove(value, &["metadata", "finalizers"]);
            remove(value, &["status", "lastPhaseTransitionTime"]);
        }
        "CertificateSigningRequest" => {
            for field in ["groups", "uid", "username", "extra"] {
                remove(value, &["spec", field]);
            }
        }
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

fn check_valid(name: &str) {
    let mut wrong = Vec::new();
    for record in records(name) {
        let mut expected = record["response"].clone();
        let uid = record["uid"].as_str().or(expected["metadata"]["labels"]["controller-uid"].as_str());
        let uid = uid.unwrap_or("00000000-0000-4000-8000-000000000001").to_owned();
        let (resource, object) = prepared(&record["request"], &uid);
        let title = format!("{} {}", resource.kind, record["request"]["metadata"]["name"]);
        let causes = kinds::validate_create(resource, &object);
        let warnings = json!((kinds::of(resource).warnings)(&object));
        if record.get("warnings").is_some_and(|expected| *expected != warnings) {
            wrong.push(format!("{title}: warns\n  actual   {warnings}\n  expected {}", record["warnings"]));
        }
        let mut actual = object.into_value();
        mask(&mut actual);
        mask(&mut expected);
        if !causes.is_empty() {
            wrong.push(format!("{title}: {}", causes.joined()));
        }
        if actual != expected {
            let mut differences = Vec::new();
            differ(&actual, &expected, "", &mut differences);
            wrong.push(format!("{title} (actual, expected)\n  {}", differences.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where two values differ, one line each.
fn differ(actual: &Value, expected: &Value, path: &str, out: &mut Vec<String>) {
    match (actual, expected) {
        (Value::Object(left), Value::Object(right)) => {
            let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                match (left.get(key), right.get(key)) {
                    (Some(one), Some(other)) => differ(one, other, &format!("{path}.{key}"), out),
                    (one, other) => out.push(format!("{path}.{key}: {} | {}", shown(one), shown(other))),
                }
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (one, other)) in left.iter().zip(right).enumerate() {
                differ(one, other, &format!("{path}[{index}]"), out);
            }
        }
        (one, other) if one != other => out.push(format!("{path}: {one} | {other}")),
        _ => {}
    }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "absent".to_owned(), Value::to_string)
}

#[test]
fn valid() {
    check_valid("valid");
}

#[test]
fn more_valid() {
    check_valid("more_valid");
}

#[test]
fn invalid() {
    check_invalid("invalid");
}

#[test]
fn more_invalid() {
    check_invalid("more_invalid");
}

fn check_invalid(name: &str) {
    let mut wrong = Vec::new();
    for record in records(name) {
        let expected = &record["response"];
        // Strict decoding belongs to the codec.
        if expected["code"] != 422 {
            continue;
        }
        // What is refused has no UID that anybody is told, unless it is part of what is wrong.
        let said = expected["message"].as_str().unwrap_or("");
        let uid = said.split_once("controller-uid\":\"").and_then(|(_, rest)| rest.get(..36));
        let (resource, object) = prepared(&record["request"], uid.unwrap_or("00000000-0000-4000-8000-000000000001"));
        let causes = kinds::validate_create(resource, &object);
        let status = api::Status::invalid(&resource.group, &resource.kind, object.name(), &causes).to_value();
        let first = expected["details"]["causes"][0]["message"].as_str().unwrap_or("");
        // Addresses are allocated, and expressions compiled, elsewhere.
        if first.contains("failed to allocate IP") || first.contains("compilation failed") {
            continue;
        }
        let lines = |status: &Value| {
            let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
            let lines = causes.iter().map(|one| json!([one["field"], one["reason"], one["message"]]).to_string());
            lines.filter(|line| !line.contains("when serviceAccountName is not set")).collect::<Vec<_>>()
        };
        let (actual, wanted) = (lines(&status), lines(expected));
        let extra: Vec<String> = actual.iter().filter(|line| !wanted.contains(line)).map(|line| format!("\n  + {line}")).collect();
        let missing: Vec<String> = wanted.iter().filter(|line| !actual.contains(line)).map(|line| format!("\n  - {line}")).collect();
        if !extra.is_empty() || !missing.is_empty() {
            let title = format!("{} {}", resource.kind, record["request"]["metadata"]["name"]);
            wrong.push(format!("{title}{}{}", missing.concat(), extra.concat()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
