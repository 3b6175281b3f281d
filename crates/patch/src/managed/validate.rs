//! Whether a configuration fits its type: fields are declared, values have the right form, items have their keys.

use std::collections::HashSet;

use api::schema::{Scalar, Shape, Type};
use serde_json::{Map, Value};

use super::node::Node;

/// What is wrong with a configuration, one text for each place.
pub(super) fn validate(config: &Map<String, Value>, schema: &Type) -> Vec<String> {
    let mut errors = Vec::new();
    fields(config, Node::of_type(schema), "", &mut errors);
    errors
}

/// The errors in one text.
pub(super) fn joined(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    }
}

/// Lists and maps of a configuration that are owned as a whole, by their paths.
pub(super) fn wholes(config: &Map<String, Value>, node: Node) -> Vec<String> {
    let mut found = Vec::new();
    whole_fields(config, node, "", &mut found);
    found
}

fn whole_fields(map: &Map<String, Value>, node: Node, path: &str, found: &mut Vec<String>) {
    for (name, value) in map {
        whole_value(value, node.field(name), &format!("{path}.{name}"), found);
    }
}

fn whole_value(value: &Value, node: Node, path: &str, found: &mut Vec<String>) {
    match (node, value) {
        (Node::Fields(_) | Node::Values(_) | Node::Deduced, Value::Object(map)) => whole_fields(map, node, path, found),
        (Node::Set, Value::Array(_)) => {}
        (Node::Keyed(..), Value::Array(items)) => {
            for item in items {
                let step = node.step_of(item).map(|step| step.to_string()).unwrap_or_default();
                whole_value(item, node.item(), &format!("{path}{step}"), found);
            }
        }
        (Node::Leaf | Node::Deduced, Value::Array(_)) | (Node::Leaf, Value::Object(_)) => found.push(path.to_owned()),
        _ => {}
    }
}

fn fields(map: &Map<String, Value>, node: Node, path: &str, errors: &mut Vec<String>) {
    for (name, value) in map {
        let path = format!("{path}.{name}");
        match node {
            Node::Fields(schema) => match schema.field(name) {
                Some(field) => {
                    if let Some(expected) = wrong(value, &field.shape) {
                        errors.push(format!("{path}: expected {expected}, got {}", got(value)));
                    } else {
                        value_at(value, Node::of_field(field), &path, errors);
                    }
                }
                None if keeps_unknown(schema) => {}
                None => errors.push(format!("{path}: field not declared in schema")),
            },
            Node::Values(shape) => {
                if let Some(expected) = wrong(value, shape) {
                    errors.push(format!("{path}: expected {expected}, got {}", got(value)));
                } else {
                    value_at(value, node.field(name), &path, errors);
                }
            }
            _ => {}
        }
    }
}

fn value_at(value: &Value, node: Node, path: &str, errors: &mut Vec<String>) {
    match (node, value) {
        (Node::Fields(_) | Node::Values(_), Value::Object(map)) => fields(map, node, path, errors),
        (Node::Set | Node::Keyed(..), Value::Array(items)) => {
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                match node.step_of(item) {
                    Ok(step) => {
                        let place = format!("{path}{step}");
                        if !seen.insert(step.clone()) {
                            errors.push(format!("{path}: duplicate entries for key {step}"));
                        }
                        value_at(item, node.item(), &place, errors);
                    }
                    Err(error) => errors.push(format!("{path}: element {index}: {error}")),
                }
            }
        }
        _ => {}
    }
}

fn keeps_unknown(schema: &Type) -> bool {
    schema.structural.as_deref().is_some_and(|structural| structural.preserve_unknown || structural.embedded_resource)
}

/// What a value of the shape should be when it is something else; null fits everything.
fn wrong(value: &Value, shape: &Shape) -> Option<&'static str> {
    match (shape, value) {
        (_, Value::Null)
        | (Shape::Scalar(Scalar::String | Scalar::Bytes), Value::String(_))
        | (Shape::Scalar(Scalar::Bool), Value::Bool(_)) => None,
        (Shape::Scalar(Scalar::String | Scalar::Bytes), _) => Some("string"),
        (Shape::Scalar(Scalar::Bool), _) => Some("boolean"),
        (Shape::Scalar(_), Value::Number(_)) => None,
        (Shape::Scalar(_), _) => Some("numeric (int or float)"),
        (Shape::List(_), Value::Array(_)) | (Shape::Map(_), Value::Object(_)) => None,
        (Shape::List(_), _) => Some("list"),
        (Shape::Map(_), _) => Some("map"),
        (Shape::Ref(type_ref), value) => match Node::of_type(type_ref) {
            Node::Fields(_) if !value.is_object() => Some("map"),
            _ => None,
        },
    }
}

fn got(value: &Value) -> String {
    match value {
        Value::String(_) => "string".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(_) => "number".into(),
        Value::Array(_) => "list".into(),
        _ => "map".into(),
    }
}
