//! What holds for every kind: columns fit their heads, recorded objects are stable under defaulting and valid when
//! nothing changes, and the objects that the real server makes for itself are valid.

use api::kinds::{self, Clock};
use api::{Object, ResourceDef, normal, resources, types};
use serde_json::{Value, json};

fn resource(object: &Object) -> Option<&'static ResourceDef> {
    let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
    let all = resources::builtin().iter();
    all.filter(|one| &*one.group == group && &*one.version == version).find(|one| *one.kind == *object.kind()).map(|one| &**one)
}

fn recorded() -> Vec<Object> {
    let text = std::fs::read_to_string(format!("{}/tests/golden/valid.json", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let records: Vec<Value> = serde_json::from_str(&text).unwrap();
    let unmasked = |record: Value| {
        let text =
            record["response"].to_string().replace("\"creationTimestamp\":\"MASK\"", "\"creationTimestamp\":\"2026-11-21T06:18:32Z\"");
        let text = text
            .replace("\"time\":\"MASK\"", "\"time\":\"2026-11-21T06:18:32Z\"")
            .replace("\"clusterIP\":\"MASK\"", "\"clusterIP\":\"10.96.0.7\"");
        let text = text.replace("\"clusterIPs\":[\"MASK\"]", "\"clusterIPs\":[\"10.96.0.7\"]").replace("MASK", "aaaaa");
        let mut object = Object::from_value(serde_json::from_str(&text).unwrap()).unwrap();
        if let Some(uid) = object.label("controller-uid").map(str::to_owned) {
            object.set_meta("uid", uid);
        }
        object
    };
    records.into_iter().map(unmasked).collect()
}

fn check_stable_and_valid(object: &Object, wrong: &mut Vec<String>) {
    let Some(resource) = resource(object) else { return };
    let title = format!("{} {}", object.kind(), object.name());
    let mut again = object.clone();
    normal::normalize(&mut again.0, &resource.schema);
    types::default(&mut again.0, &resource.schema);
    normal::normalize(&mut again.0, &resource.schema);
    if again != *object {
        wrong.push(format!("{title} changes\n  from {}\n  to   {}", Value::Object(object.0.clone()), Value::Object(again.0)));
    }
    let kind = kinds::of(resource);
    let mut updated = object.clone();
    (kind.prepare_update)(&mut updated, object);
    let causes = kinds::validate_update(resource, &updated, object);
    if !causes.is_empty() || updated != *object {
        wrong.push(format!("{title} cannot stay as it is: {}", causes.joined()));
    }
    if resource.subresource("status").is_none() {
        return;
    }
    (kind.prepare_status_update)(&mut updated, object);
    let causes = kinds::validate_status_update(resource, &updated, object);
    if !causes.is_empty() || updated != *object {
        wrong.push(format!("{title} cannot keep its status: {}", causes.joined()));
    }
}

#[test]
fn recorded_objects_are_stable() {
    let mut wrong = Vec::new();
    for object in recorded() {
        check_stable_and_valid(&object, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bootstrap_objects_are_valid() {
    let path = format!("{}/../../xtask/facts/bootstrap.json", env!("CARGO_MANIFEST_DIR"));
    let facts: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut objects = Vec::new();
    collect(&facts, &mut objects);
    assert!(objects.len() > 50, "{}", objects.len());
    let mut wrong = Vec::new();
    for mut object in objects {
        let Some(resource) = resource(&object) else { continue };
        // The facts leave out what a server adds by itself.
        object.metadata_mut();
        types::default(&mut object.0, &resource.schema);
        normal::normalize(&mut object.0, &resource.schema);
        check_stable_and_valid(&object, &mut wrong);
        let causes = kinds::validate_create(resource, &object);
        if !causes.is_empty() {
            wrong.push(format!("{} {}: {}", object.kind(), object.name(), causes.joined()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn collect(value: &Value, objects: &mut Vec<Object>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, objects)),
        Value::Object(map)
            if map.contains_key("kind") && map.contains_key("apiVersion") && map.contains_key("metadata") && !map.contains_key("items") =>
        {
            objects.push(Object(map.clone()));
        }
        Value::Object(map) => map.values().for_each(|item| collect(item, objects)),
        _ => {}
    }
}

#[test]
fn columns_fit_their_heads() {
    let clock = Clock { now: 1_795_000_000 };
    for resource in resources::builtin().iter().filter(|one| !one.columns.is_empty()) {
        let columns = kinds::of(resource).columns.unwrap_or_else(|| api::print::plain);
        let bare =
            Object::from_value(json!({"kind": &*resource.kind, "apiVersion": resource.api_version(), "metadata": {"name": "n"}})).unwrap();
        let cells = columns(&bare, &clock);
        // The real server tells the age of an address and has no head for it.
        let more = usize::from(&*resource.kind == "IPAddress");
        assert_eq!(cells.len(), resource.columns.len() + more, "{} {}", resource.kind, resource.group);
        let is_name = |(cell, column): (&Value, &api::resources::Column)| (&*column.name == "Name").then(|| cell == "n").unwrap_or(true);
        assert!(cells.iter().zip(&resource.columns).all(is_name), "{}", resource.kind);
    }
}

#[test]
fn every_kind_and_rule_is_of_the_table() {
    for (name, _) in api::schema::builtin_types() {
        let _ = types::find(name);
    }
    for resource in resources::builtin().iter().filter(|one| one.has_verb("list")) {
        assert_eq!(kinds::of(resource).kind, &*resource.kind, "{} has no file", resource.kind);
    }
}
