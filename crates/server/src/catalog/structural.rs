//! A structural schema as a type of the schema table, so that custom resources are decoded, pruned,
//! merged and applied by the same code as built-in ones.

use std::sync::{Arc, OnceLock};

use api::schema::{ListType, Structural};
use api::{Field, Form, Scalar, Shape, Type, TypeRef};
use serde_json::{Value, json};

/// The type of a whole custom resource: its schema plus `apiVersion`, `kind` and `metadata`.
pub fn root(schema: Value, preserve_unknown: bool, kind: &str) -> Type {
    let schema = if schema.is_null() { json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}) } else { schema };
    let mut root = object_type(&schema, preserve_unknown, true);
    root.name = kind.into();
    if let Some(structural) = &mut root.structural {
        structural.schema = schema;
    }
    root
}

/// Whether any node of a schema has a default.
pub fn has_defaults(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.get("default").is_some_and(|default| !default.is_null())
                || map.get("properties").and_then(Value::as_object).into_iter().flatten().any(|(_, child)| has_defaults(child))
                || ["items", "additionalProperties"].iter().any(|field| map.get(*field).is_some_and(has_defaults))
        }
        _ => false,
    }
}

fn object_type(schema: &Value, preserve: bool, root: bool) -> Type {
    let flag = |name: &str| schema[name] == true;
    let preserve_here = preserve || flag("x-kubernetes-preserve-unknown-fields");
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields: Vec<Field> = Vec::new();
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        let own_meta = (root || flag("x-kubernetes-embedded-resource")) && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
        if !own_meta {
            fields.push(field(name, child, preserve, required.contains(&name.as_str())));
        }
    }
    if root || flag("x-kubernetes-embedded-resource") {
        fields.extend(object_fields());
    }
    fields.sort_by(|left, right| left.name.cmp(&right.name));
    Type {
        name: "".into(),
        form: Form::Struct,
        fields,
        atomic: schema["x-kubernetes-map-type"] == "atomic",
        structural: Some(Box::new(structural(schema, preserve_here))),
    }
}

fn structural(schema: &Value, preserve_unknown: bool) -> Structural {
    Structural {
        nullable: schema["nullable"] == true,
        preserve_unknown,
        embedded_resource: schema["x-kubernetes-embedded-resource"] == true,
        int_or_string: schema["x-kubernetes-int-or-string"] == true,
        schema: Value::Null,
    }
}

fn object_fields() -> Vec<Field> {
    static META: OnceLock<TypeRef> = OnceLock::new();
    let meta = META.get_or_init(|| api::schema::builtin("apis.meta.v1.ObjectMeta").expect("the table has ObjectMeta"));
    let text = || Shape::Scalar(Scalar::String);
    vec![plain("apiVersion", text(), false), plain("kind", text(), false), plain("metadata", Shape::Ref(meta.clone()), false)]
}

fn plain(name: &str, shape: Shape, required: bool) -> Field {
    Field {
        name: name.into(),
        number: 0,
        embedded: Vec::new(),
        shape,
        omit_empty: true,
        pointer: true,
        required,
        list_type: ListType::Atomic,
        list_map_keys: Vec::new(),
        patch_merge: false,
        patch_retain_keys: false,
        merge_key: "".into(),
        atomic: false,
        default: None,
        enumeration: Vec::new(),
    }
}

fn field(name: &str, schema: &Value, preserve: bool, required: bool) -> Field {
    let mut field = plain(name, shape(schema, preserve), required);
    field.default = schema.get("default").filter(|default| !default.is_null()).cloned();
    merge_facts(&mut field, schema);
    field
}

/// How the value of a field merges.
fn merge_facts(field: &mut Field, schema: &Value) {
    field.atomic = schema["x-kubernetes-map-type"] == "atomic";
    field.list_type = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => ListType::Map,
        Some("set") => ListType::Set,
        _ => ListType::Atomic,
    };
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
    field.list_map_keys = keys.filter_map(Value::as_str).map(Box::from).collect();
}

/// Shapes that carry constraints become types of the form `Alias`, whose field 0 has the bare shape.
fn shape(schema: &Value, preserve: bool) -> Shape {
    if schema["x-kubernetes-int-or-string"] == true {
        return Shape::Ref(own(Type { form: Form::IntOrString, ..alias(schema, Shape::Scalar(Scalar::String)) }));
    }
    match schema["type"].as_str() {
        Some("object") if schema["additionalProperties"].is_object() && schema["properties"].is_null() => {
            let inner = shape(&schema["additionalProperties"], preserve);
            Shape::Ref(own(alias(schema, Shape::Map(Box::new(inner)))))
        }
        Some("object") if schema["additionalProperties"] == true && schema["properties"].is_null() => {
            Shape::Ref(own(Type { form: Form::Json, ..alias(schema, Shape::Scalar(Scalar::String)) }))
        }
        Some("object") => Shape::Ref(own(object_type(schema, preserve, false))),
        Some("array") => {
            let inner = shape(&schema["items"], preserve);
            Shape::Ref(own(alias(schema, Shape::List(Box::new(inner)))))
        }
        Some("integer") => {
            let scalar = if schema["format"] == "int32" { Scalar::Int32 } else { Scalar::Int64 };
            Shape::Ref(own(alias(schema, Shape::Scalar(scalar))))
        }
        Some("number") => Shape::Ref(own(alias(schema, Shape::Scalar(Scalar::Float64)))),
        Some("boolean") => Shape::Ref(own(alias(schema, Shape::Scalar(Scalar::Bool)))),
        Some("string") => Shape::Ref(own(alias(schema, Shape::Scalar(Scalar::String)))),
        _ => Shape::Ref(own(Type { form: Form::Json, ..alias(schema, Shape::Scalar(Scalar::String)) })),
    }
}

fn own(inner: Type) -> TypeRef {
    TypeRef::Own(Arc::new(inner))
}

fn alias(schema: &Value, shape: Shape) -> Type {
    let mut only = plain("", shape, false);
    merge_facts(&mut only, schema);
    Type {
        name: "".into(),
        form: Form::Alias,
        fields: vec![only],
        atomic: schema["x-kubernetes-map-type"] == "atomic",
        structural: Some(Box::new(structural(schema, schema["x-kubernetes-preserve-unknown-fields"] == true))),
    }
}
