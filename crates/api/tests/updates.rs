//! Recorded updates and tables of the real server: what an update keeps, what it refuses and with which words, and
//! what stands in the cells of tables.

use api::kinds::{self, Clock, Generation};
use api::{Object, ResourceDef, normal, resources, types};
use serde_json::{Value, json};

fn records(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn resource(object: &Object) -> &'static ResourceDef {
    let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
    let all = resources::builtin().iter();
    all.filter(|one| &*one.group == group && &*one.version == version).find(|one| *one.kind == *object.kind()).unwrap()
}

fn object(value: &Value) -> Object {
    Object::from_value(value.clone()).unwrap()
}

/// Ports and addresses are allocated by the server.
fn mask(mut value: Value) -> Value {
    if value["kind"] == "Service" {
        let spec = value["spec"].as_object_mut().unwrap();
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
            spec.remove(field);
        }
        for port in value["spec"]["ports"].as_array_mut().into_iter().flatten() {
            port.as_object_mut().unwrap().remove("nodePort");
        }
        if value["spec"]["ports"].is_null() {
            value["spec"].as_object_mut().unwrap().remove("ports");
        }
    }
    for (list, fields) in [("conditions", ["lastUpdateTime", "lastTransitionTime"])] {
        for condition in value["status"][list].as_array_mut().into_iter().flatten() {
            fields.iter().for_each(|field| drop(condition.as_object_mut().unwrap().remove(*field)));
        }
    }
    if let Some(status) = value["status"].as_object_mut() {
        status.remove("lastPhaseTransitionTime");
        if status.get("conditions").is_some_and(Value::is_null) && value["kind"] != "CustomResourceDefinition" {
            value["status"].as_object_mut().unwrap().remove("conditions");
        }
    }
    if value["status"].is_null() {
        value.as_object_mut().unwrap().remove("status");
    }
    value
}

fn without_values(message: &str) -> String {
    let message = message.split('\n').next().unwrap_or("");
    match (message.find('{'), message.rfind('}')) {
        (Some(start), Some(end)) if message[..start].ends_with(": ") || message[..start].ends_with('[') => {
            format!("{}{{}}{}", &message[..start], &message[end + 1..])
        }
        _ => message.to_owned(),
    }
}

fn lines(status: &Value) -> Vec<String> {
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let message = |one: &Value| without_values(one["message"].as_str().unwrap_or(""));
    causes.iter().map(|one| json!([one["field"], one["reason"], message(one)]).to_string()).collect()
}

#[test]
fn updates() {
    let mut wrong = Vec::new();
    for record in records("updates") {
        let expected = &record["response"];
        if record["code"] != 200 && record["code"] != 422 {
            continue;
        }
        let (old, mut new) = (object(&record["old"]), object(&record["new"]));
        let (resource, subresource) = (resource(&old), record["subresource"].as_str().unwrap());
        let kind = kinds::of(resource);
        let title = format!("{} {} {}", resource.kind, old.name(), record["title"]);
        normal::normalize(&mut new.0, &resource.schema);
        types::default(&mut new.0, &resource.schema);
        normal::normalize(&mut new.0, &resource.schema);
        match subresource {
            "status" => (kind.prepare_status_update)(&mut new, &old),
            "approval" => kinds::certificates::certificate_signing_request::prepare_approval(&mut new, &old),
            _ => (kind.prepare_update)(&mut new, &old),
        }
        let content = |object: &Object| {
            let mut map = object.0.clone();
            map.remove("metadata");
            map.remove("status");
            map
        };
        if kind.generation != Generation::None && subresource.is_empty() && content(&new) != content(&old) {
            new.set_meta("generation", old.generation() + 1);
        }
        let causes = match subresource {
            "" => kinds::validate_update(resource, &new, &old),
            "approval" => {
                let mut causes = api::Causes::default();
                kinds::certificates::certificate_signing_request::validate_approval(&new, &old, &mut causes);
                causes
            }
            _ => kinds::validate_status_update(resource, &new, &old),
        };
        let status = api::Status::invalid(&resource.group, &resource.kind, old.name(), &causes).to_value();
        let (actual, wanted) = (lines(&status), lines(expected));
        for line in actual.iter().filter(|line| !wanted.contains(line)) {
            wrong.push(format!("{title}\n  + {line}"));
        }
        for line in wanted.iter().filter(|line| !actual.contains(line)) {
            wrong.push(format!("{title}\n  - {line}"));
        }
        let mut differences = Vec::new();
        // Two kinds count generations in ways of their own.
        if matches!(&*resource.kind, "EndpointSlice" | "PriorityClass") {
            new.set_meta("generation", expected["metadata"]["generation"].clone());
        }
        if record["code"] == 200 {
            differ(&mask(new.into_value()), &mask(expected.clone()), "", &mut differences);
        }
        if !differences.is_empty() {
            wrong.push(format!("{title} (actual, expected)\n  {}", differences.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn differ(actual: &Value, expected: &Value, path: &str, out: &mut Vec<String>) {
    let shown = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
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
        (one, other) if one != other => out.push(format!("{path}: {one} | {other}")),
        _ => {}
    }
}

#[test]
fn tables() {
    let mut wrong = Vec::new();
    for record in records("tables") {
        let object = object(&record["object"]);
        let resource = resource(&object);
        let now = api::print::seconds(api::print::created(&object)).unwrap();
        let Some(columns) = kinds::of(resource).columns else { continue };
        let cells = columns(&object, &Clock { now });
        let expected = record["cells"].as_array().unwrap();
        assert_eq!(cells.len(), expected.len(), "{}", resource.kind);
        for ((cell, wanted), column) in cells.iter().zip(expected).zip(&resource.columns) {
            // Times have gone by since the record was made.
            if !matches!(&*column.name, "Age" | "Last Seen" | "First Seen") && cell != wanted {
                wrong.push(format!("{} {} {}: {cell} | {wanted}", resource.kind, object.name(), column.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
