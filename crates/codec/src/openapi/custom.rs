//! Schemas of custom resources for publication: the raw schema of the definition, completed to an object of the API.

use api::ResourceDef;
use serde_json::{Map, Value, json};

use super::descriptions::{API_VERSION, KIND};
use super::schemas::Schemas;
use super::{Dialect, names};

const METADATA: &str =
    "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str =
    "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Publishes the kind of a custom resource and its list; returns both names.
pub(super) fn publish(resource: &ResourceDef, dialect: Dialect, schemas: &mut Schemas) -> (String, String) {
    let name = names::of_custom(&resource.group, &resource.version, &resource.kind);
    let list = names::of_custom(&resource.group, &resource.version, &resource.list_kind);
    let metadata = reference(schemas, "apis.meta.v1.ObjectMeta", METADATA, dialect);
    let raw = resource.schema.structural.as_deref().map(|structural| structural.schema.clone()).unwrap_or_default();
    schemas.insert(&name, object(raw, metadata, dialect));
    schemas.is_kind(&name, (&resource.group, &resource.version, &resource.kind));
    let list_metadata = reference(schemas, "apis.meta.v1.ListMeta", LIST_METADATA, dialect);
    let items = schemas.reference(&name);
    schemas.insert(
        &list,
        json!({
            "type": "object",
            "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": API_VERSION},
                "kind": {"type": "string", "description": KIND},
                "metadata": list_metadata,
                "items": {"type": "array", "items": items, "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", resource.plural)},
            },
        }),
    );
    schemas.is_kind(&list, (&resource.group, &resource.version, &resource.list_kind));
    (name, list)
}

/// A reference with a description beside it.
fn reference(schemas: &mut Schemas, schema: &str, description: &str, dialect: Dialect) -> Value {
    let name = schemas.publish_builtin(schema).expect("the table has the types of metadata");
    let mut reference = schemas.reference(&name);
    match dialect {
        Dialect::V2 => {
            reference["description"] = description.into();
            reference
        }
        Dialect::V3 => json!({"allOf": [reference], "description": description}),
    }
}

fn object(raw: Value, metadata: Value, dialect: Dialect) -> Value {
    let keeps = |schema: &Value| schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    // kubectl takes listed properties for all there are, so a schema that keeps unknown fields lists none in v2.
    if !raw.is_object() || dialect == Dialect::V2 && keeps(&raw) {
        return json!({"type": "object"});
    }
    let mut schema = raw;
    if dialect == Dialect::V2 {
        reduce(&mut schema);
    }
    let Value::Object(map) = &mut schema else { return json!({"type": "object"}) };
    let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    properties["kind"] = json!({"type": "string", "description": KIND});
    properties["metadata"] = metadata;
    schema
}

/// Takes out what OpenAPI v2 cannot say.
fn reduce(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for key in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(key);
    }
    let is = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    if is(map, "nullable") {
        for key in ["nullable", "type", "items", "properties", "additionalProperties"] {
            map.remove(key);
        }
    }
    if is(map, "x-kubernetes-preserve-unknown-fields") {
        map.remove("items");
        map.remove("properties");
    }
    if is(map, "x-kubernetes-int-or-string") {
        map.remove("type");
    }
    let nullable: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| property.get("nullable") == Some(&Value::Bool(true)))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !nullable.iter().any(|nullable| name == nullable));
        if required.is_empty() {
            map.remove("required");
        }
    }
    match map.get_mut("properties") {
        Some(Value::Object(properties)) => properties.values_mut().for_each(reduce),
        _ => drop(map.remove("properties")),
    }
    if let Some(items) = map.get_mut("items") {
        reduce(items);
    }
    match map.get_mut("additionalProperties") {
        Some(Value::Bool(false)) => drop(map.remove("additionalProperties")),
        Some(values) => reduce(values),
        None => {}
    }
}
