//! What a type can do beside being data: conditional defaults that run wherever the type occurs
//! (a pod spec inside a Deployment is defaulted like one inside a Pod).

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::schema::{Field, Form, Shape, Type};

/// Rules of one type.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Name in the schema table, for example `core.v1.PodSpec`.
    pub name: &'static str,
    /// Fills conditional defaults of one value; runs outermost first, before its children.
    pub default: fn(&mut Map<String, Value>),
}

impl Rules {
    /// Rules that do nothing, to be completed by `..`.
    pub const fn of(name: &'static str) -> Rules {
        Rules { name, default: |_| {} }
    }
}

/// The rules of a type, if it has any.
pub fn find(name: &str) -> Option<&'static Rules> {
    static BY_NAME: OnceLock<HashMap<&str, &Rules>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| crate::types::ALL.iter().map(|one| (one.name, one)).collect());
    by_name.get(name).copied()
}

/// Fills all defaults of a value of a type: the rules' conditional ones, the static ones of the table, then the children. Zero values that the
/// real server prints because a field is no omitempty are not defaults; normal form adds them.
pub fn default(map: &mut Map<String, Value>, schema: &Type) {
    if schema.form != Form::Struct {
        return;
    }
    if let Some(rules) = find(&schema.name) {
        (rules.default)(map);
    }
    for field in &schema.fields {
        match map.get_mut(&*field.name) {
            Some(value) if !value.is_null() && !is_static_gap(value, field) => default_shape(value, &field.shape),
            _ => {
                if let Some(value) = static_default(field) {
                    map.insert(field.name.to_string(), value.clone());
                } else if let Some(value) = embedded_default(field) {
                    map.insert(field.name.to_string(), value);
                }
            }
        }
    }
}

/// The default of the table, where it is more than the zero value that normal form prints.
fn static_default(field: &Field) -> Option<&Value> {
    field.default.as_ref().filter(|value| field.pointer || !is_zero(value))
}

/// A struct that is no pointer is always there, and has its defaults even if nobody mentioned it.
fn embedded_default(field: &Field) -> Option<Value> {
    match &field.shape {
        Shape::Ref(schema) if !field.pointer && schema.form == Form::Struct => {
            let mut map = Map::new();
            default(&mut map, schema);
            Some(Value::Object(map))
        }
        _ => None,
    }
}

/// A zero scalar counts as absent where the field is no pointer.
fn is_static_gap(value: &Value, field: &Field) -> bool {
    !field.pointer && is_zero(value) && static_default(field).is_some()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(flag) => !flag,
        Value::Object(map) => map.is_empty(),
        _ => value.is_null(),
    }
}

fn default_shape(value: &mut Value, shape: &Shape) {
    match (shape, value) {
        (Shape::Ref(type_ref), Value::Object(map)) => default(map, type_ref),
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| default_shape(item, inner)),
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|item| default_shape(item, inner)),
        _ => {}
    }
}
