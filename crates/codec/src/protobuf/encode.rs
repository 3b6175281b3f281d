//! JSON values to messages, byte for byte as Go's generated code writes them: ascending field numbers, plain
//! fields always, pointers only when set, map entries by key.

use api::schema::{Field, Form, Scalar, Shape, Type};
use api::time;
use serde_json::{Map, Value};

use super::ProtobufError;
use super::wire::{put_bytes, put_double, put_message, put_number};
use crate::octets;

/// What stands behind a field number of a message.
enum Slot<'t> {
    Own(&'t Field),
    /// A message that JSON inlines.
    Embedded,
}

/// Writes the fields of a type that has fields.
pub(super) fn message(out: &mut Vec<u8>, map: &Map<String, Value>, schema: &Type) -> Result<(), ProtobufError> {
    level(out, map, schema, &[])
}

fn level(out: &mut Vec<u8>, map: &Map<String, Value>, schema: &Type, path: &[u32]) -> Result<(), ProtobufError> {
    for (number, slot) in slots(schema, path)? {
        match slot {
            Slot::Own(field) if super::is_wrapped(schema, field) => {
                map.get(&*field.name).map_or(Ok(()), |value| put_value(out, number, &field.shape, value))?;
            }
            Slot::Own(field) => put_field(out, number, field, map.get(&*field.name))?,
            Slot::Embedded => {
                let mut inner = path.to_vec();
                inner.push(number);
                put_message(out, number, |out| level(out, map, schema, &inner))?;
            }
        }
    }
    Ok(())
}

fn slots<'t>(schema: &'t Type, path: &[u32]) -> Result<Vec<(u32, Slot<'t>)>, ProtobufError> {
    let mut slots: Vec<(u32, Slot)> = Vec::with_capacity(schema.fields.len());
    for field in &schema.fields {
        if !field.embedded.starts_with(path) {
            continue;
        }
        match field.embedded.get(path.len()) {
            Some(number) => {
                if !slots.iter().any(|(other, _)| other == number) {
                    slots.push((*number, Slot::Embedded));
                }
            }
            None if field.number != 0 => slots.push((field.number, Slot::Own(field))),
            // TypeMeta stands in the envelope.
            None if matches!(&*field.name, "apiVersion" | "kind") => {}
            None => return Err(ProtobufError::NoForm(schema.name.to_string())),
        }
    }
    slots.sort_by_key(|(number, _)| *number);
    Ok(slots)
}

fn put_field(out: &mut Vec<u8>, number: u32, field: &Field, value: Option<&Value>) -> Result<(), ProtobufError> {
    let value = value.unwrap_or(&Value::Null);
    match (&field.shape, value) {
        (Shape::List(_) | Shape::Map(_), Value::Null) => Ok(()),
        (Shape::List(inner), Value::Array(items)) => items.iter().try_for_each(|item| put_value(out, number, inner, item)),
        (Shape::Map(inner), Value::Object(map)) => map.iter().try_for_each(|(key, item)| {
            put_message(out, number, |out| {
                put_bytes(out, 1, key.as_bytes());
                put_value(out, 2, inner, item)
            })
        }),
        (Shape::Scalar(Scalar::Bytes), Value::Null) => Ok(()),
        (_, Value::Null) if field.pointer => Ok(()),
        (shape, value) => put_value(out, number, shape, value),
    }
}

fn put_value(out: &mut Vec<u8>, number: u32, shape: &Shape, value: &Value) -> Result<(), ProtobufError> {
    match (shape, value) {
        (Shape::Scalar(Scalar::String), Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Shape::Scalar(Scalar::String), Value::Null) => put_bytes(out, number, b""),
        (Shape::Scalar(Scalar::Bool), Value::Bool(flag)) => put_number(out, number, u64::from(*flag)),
        (Shape::Scalar(Scalar::Bool | Scalar::Int32 | Scalar::Int64), Value::Null) => put_number(out, number, 0),
        (Shape::Scalar(Scalar::Int32 | Scalar::Int64), Value::Number(amount)) => {
            put_number(out, number, amount.as_i64().ok_or(WRONG)? as u64);
        }
        (Shape::Scalar(Scalar::Float64), Value::Number(amount)) => put_double(out, number, amount.as_f64().ok_or(WRONG)?),
        (Shape::Scalar(Scalar::Float64), Value::Null) => put_double(out, number, 0.0),
        (Shape::Scalar(Scalar::Bytes), Value::String(text)) => {
            put_bytes(out, number, &octets::decode(text).map_err(|_| WRONG)?);
        }
        (Shape::Scalar(Scalar::Bytes), Value::Null) => put_bytes(out, number, b""),
        (Shape::Ref(type_ref), value) => return put_message(out, number, |out| typed(out, type_ref, value)),
        (Shape::List(inner), Value::Array(items)) => {
            return put_message(out, number, |out| items.iter().try_for_each(|item| put_value(out, 1, inner, item)));
        }
        (Shape::List(_), Value::Null) => put_bytes(out, number, b""),
        _ => return Err(WRONG),
    }
    Ok(())
}

fn typed(out: &mut Vec<u8>, schema: &Type, value: &Value) -> Result<(), ProtobufError> {
    match (schema.form, value) {
        (Form::Struct, Value::Object(map)) => message(out, map, schema)?,
        (Form::Struct, Value::Null) => message(out, &Map::new(), schema)?,
        (Form::Quantity, Value::String(text)) => put_bytes(out, 1, text.as_bytes()),
        (Form::Quantity, Value::Null) => put_bytes(out, 1, b"0"),
        (Form::Time | Form::MicroTime, Value::Null) => {}
        (Form::Time | Form::MicroTime, Value::String(text)) => {
            let instant = time::parse(text).ok_or(WRONG)?;
            let nanos = if schema.form == Form::Time { 0 } else { instant.nanos / 1000 * 1000 };
            put_number(out, 1, instant.seconds as u64);
            put_number(out, 2, u64::from(nanos));
        }
        (Form::IntOrString, value) => {
            let (kind, amount, text) = match value {
                Value::String(text) => (1, 0, text.as_str()),
                Value::Number(amount) => (0, amount.as_i64().ok_or(WRONG)?, ""),
                Value::Null => (0, 0, ""),
                _ => return Err(WRONG),
            };
            put_number(out, 1, kind);
            put_number(out, 2, amount as u64);
            put_bytes(out, 3, text.as_bytes());
        }
        (Form::RawExtension, Value::Null) => {}
        (Form::RawExtension | Form::FieldsV1 | Form::Json, value) => {
            put_bytes(out, 1, &serde_json::to_vec(value).expect("a JSON value can always be written"));
        }
        (Form::SchemaOrBool, value) => {
            put_number(out, 1, u64::from(*value != Value::Bool(false)));
            if value.is_object() {
                put_member(out, 2, schema, "Schema", value)?;
            }
        }
        (Form::SchemaOrArray, Value::Array(_)) => put_member(out, 2, schema, "JSONSchemas", value)?,
        (Form::SchemaOrStrings, Value::Array(_)) => put_member(out, 2, schema, "Property", value)?,
        (Form::SchemaOrArray | Form::SchemaOrStrings, Value::Object(_)) => put_member(out, 1, schema, "Schema", value)?,
        (Form::SchemaOrArray | Form::SchemaOrStrings, Value::Null) => {}
        (Form::Duration | Form::Alias, _) => return Err(ProtobufError::NoForm(schema.name.to_string())),
        _ => return Err(WRONG),
    }
    Ok(())
}

fn put_member(out: &mut Vec<u8>, number: u32, schema: &Type, name: &str, value: &Value) -> Result<(), ProtobufError> {
    match schema.field(name) {
        Some(field) => put_field(out, number, field, Some(value)),
        None => Err(ProtobufError::NoForm(schema.name.to_string())),
    }
}

const WRONG: ProtobufError = ProtobufError::Malformed("a value does not fit the type of its field");
