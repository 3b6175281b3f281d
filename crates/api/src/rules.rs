//! What a type can do beside being data: conditional defaults and validation that run wherever the type occurs
//! (a pod spec inside a Deployment is defaulted like one inside a Pod).

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::schema::{Form, Shape, Type};

/// Rules of one type.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Name in the schema table, for example `core.v1.PodSpec`.
    pub name: &'static str,
    /// Fills conditional defaults of one value; runs outermost first, before its children.
    pub default: fn(&mut Map<String, Value>),
    /// Validates one value at a path.
    pub validate: fn(&Map<String, Value>, &str, &mut Causes),
}

impl Rules {
    /// Rules that do nothing, to be completed by `..`.
    pub const fn of(name: &'static str) -> Rules {
        Rules { name, default: |_| {}, validate: |_, _, _| {} }
    }
}

/// The rules of a type, if it has any.
pub fn find(name: &str) -> Option<&'static Rules> {
    static BY_NAME: OnceLock<HashMap<&str, &Rules>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| crate::types::ALL.iter().map(|one| (one.name, one)).collect());
    by_name.get(name).copied()
}

/// Fills all defaults of a value of a type: the rules' conditional ones, then the children. Zero values that the
/// real server prints because a field is no omitempty are not defaults; normal form adds them.
pub fn default(map: &mut Map<String, Value>, schema: &Type) {
    if schema.form != Form::Struct {
        return;
    }
    if let Some(rules) = find(&schema.name) {
        (rules.default)(map);
    }
    for field in &schema.fields {
        if let Some(value) = map.get_mut(&*field.name) {
            default_shape(value, &field.shape);
        }
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
