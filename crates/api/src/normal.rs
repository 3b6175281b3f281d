//! What a round trip through Go's structs does to an object.
//!
//! Clients compare what they sent with what they get, and Go programs built those expectations: a zero value of
//! an optional plain field disappears, a struct that is no pointer is there even when nobody sent it, a list
//! without `omitempty` is `null`. All of it follows from the flags of the schema table.

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{Field, Form, Scalar, Shape, Type, TypeRef};
use crate::time;

/// Lists that are never stored empty, since whoever sends one so is refused. The refusal shows what was sent.
const NEVER_EMPTY: &[(&str, &str)] = &[("batch.v1.SuccessPolicy", "rules")];

/// Brings an object into the form that a Go round trip gives it. Runs after decoding and before defaulting.
///
/// Guarantees: running it twice changes nothing; required structs, lists and scalars are present afterwards
/// (a `Quantity` as `"0"`, an int-or-string as 0, a time as `null`). Custom resources keep their values, only
/// their metadata is brought into form.
pub fn normalize(map: &mut Map<String, Value>, schema: &Type) {
    if schema.structural.is_some() {
        return custom(map, schema);
    }
    for field in &schema.fields {
        match map.get_mut(&*field.name) {
            Some(value) => {
                if !present(value, field, schema) || value.is_null() && field.omits_zero(schema) {
                    map.remove(&*field.name);
                }
            }
            None if field.omits_zero(schema) => {}
            None => {
                if let Some(value) = field.zero() {
                    map.insert(field.name.to_string(), value);
                }
            }
        }
    }
}

fn custom(map: &mut Map<String, Value>, schema: &Type) {
    for field in &schema.fields {
        if let (Shape::Ref(type_ref @ TypeRef::Builtin(_)), Some(Value::Object(inner))) = (&field.shape, map.get_mut(&*field.name)) {
            normalize(inner, type_ref);
        }
    }
}

/// Normalizes a value that is there; false when it has to go.
fn present(value: &mut Value, field: &Field, schema: &Type) -> bool {
    if value.is_null() {
        return match field.zero() {
            Some(zero) => {
                *value = zero;
                true
            }
            None => false,
        };
    }
    normalize_value(value, &field.shape);
    // Storage in protobuf cannot tell an empty list from none.
    if !field.omit_empty && is_empty(value, &field.shape) && matches!(field.shape, Shape::List(_) | Shape::Map(_)) {
        if !NEVER_EMPTY.contains(&(&*schema.name, &*field.name)) {
            *value = Value::Null;
        }
    }
    !(field.omit_empty && !field.pointer && is_empty(value, &field.shape))
}

/// The zero value of an element of a list or map.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Scalar(Scalar::Bytes) => "".into(),
        Shape::Scalar(scalar) => scalar.zero(),
        Shape::Ref(type_ref) => type_ref.zero_value(),
        Shape::List(_) | Shape::Map(_) => Value::Null,
    }
}

fn normalize_value(value: &mut Value, shape: &Shape) {
    match (shape, value) {
        (Shape::Scalar(_), _) => {}
        (Shape::Ref(type_ref), value) => normalize_typed(value, type_ref),
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| element(item, inner)),
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|item| element(item, inner)),
        (Shape::List(_) | Shape::Map(_), _) => {}
    }
}

fn element(value: &mut Value, shape: &Shape) {
    if value.is_null() {
        *value = zero(shape);
    } else {
        normalize_value(value, shape);
    }
}

fn normalize_typed(value: &mut Value, schema: &Type) {
    match (schema.form, &mut *value) {
        (Form::Struct, Value::Object(map)) => normalize(map, schema),
        (Form::Quantity, Value::String(_) | Value::Number(_)) => {
            if let Some(quantity) = Quantity::from_json(value) {
                *value = quantity.to_string().into();
            }
        }
        (Form::Time, Value::String(text)) => {
            if let Some(canonical) = time::canonical(text) {
                *text = canonical;
            }
        }
        (Form::MicroTime, Value::String(text)) => {
            if let Some(canonical) = time::canonical_micro(text) {
                *text = canonical;
            }
        }
        (Form::SchemaOrBool | Form::SchemaOrArray | Form::SchemaOrStrings, Value::Object(_) | Value::Array(_)) => union(value, schema),
        _ => {}
    }
}

fn union(value: &mut Value, schema: &Type) {
    let member = match value {
        Value::Array(items) if items.is_empty() => {
            *value = Value::Null;
            return;
        }
        Value::Array(_) => schema.field("JSONSchemas").or_else(|| schema.field("Property")),
        _ => schema.field("Schema"),
    };
    if let Some(field) = member {
        normalize_value(value, &field.shape);
    }
}

fn is_empty(value: &Value, shape: &Shape) -> bool {
    match (shape, value) {
        (_, Value::Null) => !matches!(shape, Shape::Ref(_)),
        (Shape::Scalar(_), Value::String(text)) => text.is_empty(),
        (Shape::Scalar(_), Value::Bool(flag)) => !flag,
        (Shape::Scalar(_), Value::Number(number)) => number.as_f64() == Some(0.0),
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}
