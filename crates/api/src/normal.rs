//! The form in which the real server writes an object: what its structs would print.
//!
//! Scalars and lists at their zero value vanish where the field says omitempty and appear where it does not,
//! embedded structs always appear, quantities and times are canonical. Recorded answers are compared in this
//! form, and two objects in it are equal exactly if the real server would call them equal.

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{Field, Form, Scalar, Shape, Type};

/// Brings a value of a type into normal form. Unknown fields stay.
pub fn normalize(map: &mut Map<String, Value>, schema: &Type) {
    if schema.form != Form::Struct {
        return;
    }
    for field in &schema.fields {
        match map.get_mut(&*field.name) {
            Some(value) if !value.is_null() => {
                normalize_shape(value, &field.shape);
                if vanishes(value, field) {
                    map.remove(&*field.name);
                } else if is_empty_collection(value, &field.shape) && !field.omit_empty {
                    // Storage knows no difference between empty and absent.
                    *value = Value::Null;
                }
            }
            _ => match zero(field) {
                Some(value) => {
                    map.insert(field.name.to_string(), value);
                }
                None => {
                    map.remove(&*field.name);
                }
            },
        }
    }
}

fn normalize_shape(value: &mut Value, shape: &Shape) {
    match (shape, value) {
        (Shape::Ref(schema), value) => match schema.form {
            Form::Struct => {
                if let Value::Object(map) = value {
                    normalize(map, schema);
                }
            }
            Form::Quantity => {
                let canonical = Quantity::from_json(value).map(|quantity| quantity.to_string());
                if let Some(text) = canonical.filter(|text| value.as_str() != Some(text)) {
                    *value = text.into();
                }
            }
            Form::Time => normalize_time(value, 0),
            Form::MicroTime => normalize_time(value, 6),
            _ => {}
        },
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| normalize_shape(item, inner)),
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|item| normalize_shape(item, inner)),
        _ => {}
    }
}

fn normalize_time(value: &mut Value, digits: u8) {
    let Some(text) = value.as_str() else { return };
    let canonical_len = if digits == 0 { 20 } else { 21 + usize::from(digits) };
    if text.len() == canonical_len && text.ends_with('Z') {
        return;
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        *value = format!("{time:.*}", usize::from(digits)).into();
    }
}

fn is_empty_collection(value: &Value, shape: &Shape) -> bool {
    match (shape, value) {
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// Whether a zero value is left out.
fn vanishes(value: &Value, field: &Field) -> bool {
    if !field.omit_empty {
        return false;
    }
    match (&field.shape, value) {
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        (Shape::Scalar(_), _) if field.pointer => false,
        (Shape::Scalar(_), Value::String(text)) => text.is_empty(),
        (Shape::Scalar(_), Value::Bool(flag)) => !flag,
        (Shape::Scalar(_), Value::Number(number)) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

/// What stands for an absent value; `None` where nothing does.
fn zero(field: &Field) -> Option<Value> {
    match &field.shape {
        Shape::Ref(schema) if !field.pointer => match schema.form {
            Form::Struct => {
                let mut map = Map::new();
                normalize(&mut map, schema);
                Some(Value::Object(map))
            }
            Form::Time | Form::MicroTime if field.omit_empty && &*field.name == "creationTimestamp" => None,
            Form::Quantity => Some("0".into()),
            Form::IntOrString => Some(0.into()),
            Form::Time | Form::MicroTime | Form::RawExtension | Form::Json => Some(Value::Null),
            _ if field.omit_empty => None,
            _ => Some(Value::Null),
        },
        _ if field.omit_empty => None,
        Shape::Scalar(scalar) if !field.pointer => Some(match scalar {
            Scalar::String => "".into(),
            Scalar::Bool => false.into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::Float64 => 0.into(),
            Scalar::Bytes => Value::Null,
        }),
        _ => Some(Value::Null),
    }
}
