//! Documents against what clients look for.

use std::sync::Arc;

use api::ResourceDef;
use api::schema::{Structural, Type, TypeRef};
use serde_json::{Value, json};

use super::*;

fn of(group: &str, version: &str) -> Vec<Arc<ResourceDef>> {
    api::resources::builtin().iter().filter(|one| &*one.group == group && &*one.version == version).cloned().collect()
}

/// Every reference leads somewhere.
fn check_references(value: &Value, document: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').expect("references are local");
                assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
            }
            map.values().for_each(|value| check_references(value, document));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(value, document)),
        _ => {}
    }
}

#[test]
fn documents_are_complete() {
    let apps = v3(&of("apps", "v1"));
    check_references(&apps, &apps);
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "kind": "Deployment", "version": "v1"}));
    assert!(patch["parameters"].as_array().is_some_and(|list| list.iter().any(|one| one["name"] == "fieldValidation")));
    let container = &apps["components"]["schemas"]["io.k8s.api.core.v1.Container"]["properties"];
    assert_eq!(container["ports"]["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!((&container["name"]["type"], &container["name"]["default"]), (&json!("string"), &json!("")));
    assert!(container["name"]["description"].as_str().is_some_and(|text| text.len() > 20));
    assert_eq!(container["resources"]["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.ResourceRequirements"}]));
    let all = v2(api::resources::builtin());
    check_references(&all, &all);
    assert_eq!(
        all["definitions"]["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
    assert_eq!(all["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["get"]["x-kubernetes-action"], "connect");
}

#[test]
fn custom_resources_are_published() {
    let mut def = (**api::resources::find("apps", "v1", "deployments").expect("deployments are served")).clone();
    let schema = json!({"type": "object", "description": "A tab.", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "nullable": true}}}}});
    let structural = Structural { schema, ..Structural::default() };
    let own = Type { name: "".into(), form: api::Form::Struct, fields: Vec::new(), atomic: false, structural: Some(Box::new(structural)) };
    def.custom = true;
    def.group = "stable.example.com".into();
    def.kind = "Tab".into();
    def.list_kind = "TabList".into();
    def.plural = "tabs".into();
    def.subresources.clear();
    def.schema = TypeRef::Own(Arc::new(own));
    let resources = [Arc::new(def)];
    let document = v3(&resources);
    check_references(&document, &document);
    let tab = &document["components"]["schemas"]["com.example.stable.v1.Tab"];
    assert_eq!((&tab["description"], &tab["properties"]["spec"]["properties"]["size"]["type"]), (&json!("A tab."), &json!("integer")));
    assert_eq!(tab["x-kubernetes-group-version-kind"], json!([{"group": "stable.example.com", "kind": "Tab", "version": "v1"}]));
    let document = v2(&resources);
    check_references(&document, &document);
    assert_eq!(document["definitions"]["com.example.stable.v1.Tab"]["properties"]["spec"]["properties"]["size"], json!({}));
}
