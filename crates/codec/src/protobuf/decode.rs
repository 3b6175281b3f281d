//! Messages to JSON values by the field numbers of the schema table.

use api::schema::{Field, Form, Scalar, Shape, Type};
use api::time::{self, Instant};
use serde_json::{Map, Value};

use super::ProtobufError;
use super::wire::{Fields, Wire, varint};
use crate::{MAX_DEPTH, json, octets};

/// Decodes a message of a type that has fields; fields that the table does not know are skipped.
pub(super) fn message(bytes: &[u8], schema: &Type, depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let mut map = Map::new();
    level(bytes, schema, &[], depth, &mut map)?;
    Ok(map)
}

/// One message of the type: its own fields, or those that an embedded message holds (`path` are the numbers that lead there).
fn level(bytes: &[u8], schema: &Type, path: &[u32], depth: usize, map: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    if depth == 0 {
        return Err(ProtobufError::TooDeep);
    }
    let mut fields = Fields::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        if let Some(field) = schema.fields.iter().find(|field| field.number == number && field.embedded == path) {
            if super::is_wrapped(schema, field) {
                map.insert(field.name.to_string(), value(&field.shape, wire, depth)?);
            } else {
                put_field(map, field, wire, depth)?;
            }
        } else if schema
            .fields
            .iter()
            .any(|field| field.embedded.len() > path.len() && field.embedded.starts_with(path) && field.embedded[path.len()] == number)
        {
            let mut inner = path.to_vec();
            inner.push(number);
            level(wire.bytes()?, schema, &inner, depth - 1, map)?;
        }
    }
    Ok(())
}

fn put_field(map: &mut Map<String, Value>, field: &Field, wire: Wire, depth: usize) -> Result<(), ProtobufError> {
    match &field.shape {
        Shape::List(inner) => {
            let list = map.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Err(ProtobufError::Malformed("repeated field mixed with another")) };
            if let (Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool), Wire::Bytes(mut packed)) = (&**inner, wire) {
                while !packed.is_empty() {
                    items.push(value(inner, Wire::Varint(varint(&mut packed)?), depth)?);
                }
            } else {
                items.push(value(inner, wire, depth)?);
            }
        }
        Shape::Map(inner) => {
            let (key, entry) = map_entry(wire.bytes()?, inner, depth)?;
            let Value::Object(entries) = map.entry(&*field.name).or_insert_with(|| Value::Object(Map::new())) else {
                return Err(ProtobufError::Malformed("map field mixed with another"));
            };
            entries.insert(key, entry);
        }
        shape => {
            map.insert(field.name.to_string(), value(shape, wire, depth)?);
        }
    }
    Ok(())
}

fn map_entry(bytes: &[u8], inner: &Shape, depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut entry = None;
    let mut fields = Fields::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => key = text(wire)?,
            2 => entry = Some(value(inner, wire, depth)?),
            _ => {}
        }
    }
    let entry = match entry {
        Some(entry) => entry,
        None => value(inner, zero_wire(inner), depth)?,
    };
    Ok((key, entry))
}

/// What a map value that is left out means.
fn zero_wire(shape: &Shape) -> Wire<'static> {
    match shape {
        Shape::Scalar(Scalar::Bool | Scalar::Int32 | Scalar::Int64) => Wire::Varint(0),
        Shape::Scalar(Scalar::Float64) => Wire::Fixed64(0),
        _ => Wire::Bytes(&[]),
    }
}

fn value(shape: &Shape, wire: Wire, depth: usize) -> Result<Value, ProtobufError> {
    if depth == 0 {
        return Err(ProtobufError::TooDeep);
    }
    Ok(match shape {
        Shape::Scalar(Scalar::String) => text(wire)?.into(),
        Shape::Scalar(Scalar::Bool) => (wire.varint()? != 0).into(),
        Shape::Scalar(Scalar::Int32) => (wire.varint()? as i32).into(),
        Shape::Scalar(Scalar::Int64) => (wire.varint()? as i64).into(),
        Shape::Scalar(Scalar::Float64) => match wire {
            Wire::Fixed64(bits) => {
                json::float_value(f64::from_bits(bits)).ok_or(ProtobufError::Malformed("unsupported value: NaN or infinite"))?
            }
            _ => return Err(ProtobufError::Malformed("proto: wrong wireType")),
        },
        Shape::Scalar(Scalar::Bytes) => octets::encode(wire.bytes()?).into(),
        Shape::Ref(type_ref) => typed(wire.bytes()?, type_ref, depth)?,
        // A list inside a map or list is a message with the items in field 1.
        Shape::List(inner) => {
            let mut items = Vec::new();
            let mut fields = Fields::new(wire.bytes()?);
            while let Some((number, wire)) = fields.next()? {
                if number == 1 {
                    items.push(value(inner, wire, depth - 1)?);
                }
            }
            Value::Array(items)
        }
        Shape::Map(_) => return Err(ProtobufError::Malformed("a map of maps has no protobuf form")),
    })
}

fn typed(bytes: &[u8], schema: &Type, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match schema.form {
        Form::Struct => Value::Object(message(bytes, schema, depth - 1)?),
        Form::Quantity => match field(bytes, 1)? {
            Some(wire) => text(wire)?.into(),
            None => "0".into(),
        },
        Form::Time => instant(bytes)?.map_or(Value::Null, |instant| time::seconds_text(instant.seconds).into()),
        Form::MicroTime => instant(bytes)?.map_or(Value::Null, |instant| time::micros_text(instant).into()),
        Form::IntOrString => match field(bytes, 1)? {
            Some(Wire::Varint(1)) => match field(bytes, 3)? {
                Some(wire) => text(wire)?.into(),
                None => "".into(),
            },
            _ => match field(bytes, 2)? {
                Some(wire) => (wire.varint()? as i32).into(),
                None => 0.into(),
            },
        },
        Form::RawExtension | Form::FieldsV1 | Form::Json => match field(bytes, 1)? {
            Some(wire) => raw(wire.bytes()?)?,
            None => Value::Null,
        },
        Form::SchemaOrBool => match union_schema(bytes, 2, schema, depth)? {
            Some(schema) => schema,
            None => match field(bytes, 1)? {
                Some(wire) => (wire.varint()? != 0).into(),
                None => false.into(),
            },
        },
        Form::SchemaOrArray => union_list(bytes, "JSONSchemas", schema, depth)?,
        Form::SchemaOrStrings => union_list(bytes, "Property", schema, depth)?,
        Form::Duration | Form::Alias => return Err(ProtobufError::NoForm(schema.name.to_string())),
    })
}

/// The list of a union if it has items, else its schema.
fn union_list(bytes: &[u8], list: &str, schema: &Type, depth: usize) -> Result<Value, ProtobufError> {
    let Some(Shape::List(inner)) = schema.field(list).map(|field| &field.shape) else {
        return Err(ProtobufError::NoForm(schema.name.to_string()));
    };
    let mut items = Vec::new();
    let mut fields = Fields::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        if number == 2 {
            items.push(value(inner, wire, depth - 1)?);
        }
    }
    if !items.is_empty() {
        return Ok(Value::Array(items));
    }
    Ok(union_schema(bytes, 1, schema, depth)?.unwrap_or(Value::Null))
}

fn union_schema(bytes: &[u8], number: u32, schema: &Type, depth: usize) -> Result<Option<Value>, ProtobufError> {
    match (field(bytes, number)?, schema.field("Schema")) {
        (Some(wire), Some(member)) => value(&member.shape, wire, depth - 1).map(Some),
        _ => Ok(None),
    }
}

/// The last field of a number in a message.
fn field(bytes: &[u8], number: u32) -> Result<Option<Wire<'_>>, ProtobufError> {
    let mut found = None;
    let mut fields = Fields::new(bytes);
    while let Some((other, wire)) = fields.next()? {
        if other == number {
            found = Some(wire);
        }
    }
    Ok(found)
}

/// An empty message is the zero time, which JSON writes as null.
fn instant(bytes: &[u8]) -> Result<Option<Instant>, ProtobufError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;
    let number = |wire: Option<Wire>| wire.map_or(Ok(0), Wire::varint);
    let seconds = number(field(bytes, 1)?)? as i64;
    let nanos = number(field(bytes, 2)?)? as i64;
    let (seconds, nanos) = (seconds.saturating_add(nanos.div_euclid(1_000_000_000)), nanos.rem_euclid(1_000_000_000));
    if !YEARS.contains(&seconds) {
        return Err(ProtobufError::Malformed("Time.MarshalJSON: year outside of range [0,9999]"));
    }
    Ok(Some(Instant { seconds, nanos: nanos as u32 }))
}

fn text(wire: Wire) -> Result<String, ProtobufError> {
    Ok(String::from_utf8_lossy(wire.bytes()?).into_owned())
}

fn raw(bytes: &[u8]) -> Result<Value, ProtobufError> {
    json::parse(bytes).map_err(|_| ProtobufError::Malformed("raw data is no JSON"))
}

/// Deepest nesting of messages.
pub(super) const DEPTH: usize = MAX_DEPTH;
