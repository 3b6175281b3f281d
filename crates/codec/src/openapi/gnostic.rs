//! The protobuf form of OpenAPI v2, for clients that ask for it instead of four megabytes of JSON.
//!
//! Field numbers are those of the published message definitions; extensions travel as YAML text, which JSON is.

use std::convert::Infallible;

use serde_json::{Map, Value};

use crate::protobuf::wire::{put_bytes, put_double, put_message, put_number};

/// A message being written.
struct Message {
    out: Vec<u8>,
}

/// Fields of a schema that are plain texts, numbers or flags, with their numbers.
const SCHEMA_FIELDS: [(&str, u32); 17] = [
    ("$ref", 1),
    ("format", 2),
    ("title", 3),
    ("description", 4),
    ("exclusiveMaximum", 8),
    ("exclusiveMinimum", 10),
    ("maxLength", 11),
    ("minLength", 12),
    ("pattern", 13),
    ("maxItems", 14),
    ("minItems", 15),
    ("uniqueItems", 16),
    ("maxProperties", 17),
    ("minProperties", 18),
    ("required", 19),
    ("discriminator", 26),
    ("readOnly", 27),
];

/// A v2 document as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut message = Message { out: Vec::new() };
    message.plain(document, &[("swagger", 1)]);
    message.inner(2, |info| info.plain(&document["info"], &[("title", 1), ("version", 2), ("description", 3)]));
    message.inner(8, |paths| {
        paths.named(2, &document["paths"], Message::path_item);
    });
    message.inner(9, |definitions| definitions.named(1, &document["definitions"], Message::schema));
    for requirement in items(&document["security"]) {
        message.inner(12, |message| {
            message.named(1, requirement, |message, scopes| items(scopes).for_each(|scope| message.value(1, scope)));
        });
    }
    message.inner(13, |definitions| {
        definitions.named(1, &document["securityDefinitions"], |message, definition| {
            message.inner(2, |key| key.plain(definition, &[("type", 1), ("name", 2), ("in", 3), ("description", 4)]));
        });
    });
    message.out
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

impl Message {
    fn inner(&mut self, number: u32, write: impl FnOnce(&mut Message)) {
        let written = put_message(&mut self.out, number, |out| {
            let mut message = Message { out: std::mem::take(out) };
            write(&mut message);
            *out = message.out;
            Ok::<(), Infallible>(())
        });
        let Ok(()) = written;
    }

    /// A text, number or flag, or a list of them.
    fn value(&mut self, number: u32, value: &Value) {
        match value {
            Value::String(text) => put_bytes(&mut self.out, number, text.as_bytes()),
            Value::Bool(flag) => put_number(&mut self.out, number, u64::from(*flag)),
            Value::Number(amount) => put_number(&mut self.out, number, amount.as_i64().unwrap_or(0) as u64),
            Value::Array(items) => items.iter().for_each(|item| self.value(number, item)),
            Value::Null | Value::Object(_) => {}
        }
    }

    fn plain(&mut self, object: &Value, fields: &[(&str, u32)]) {
        for (name, number) in fields {
            if let Some(value) = object.get(name) {
                self.value(*number, value);
            }
        }
    }

    /// Every member of an object as a message of its name and value.
    fn named(&mut self, number: u32, object: &Value, write: impl Fn(&mut Message, &Value)) {
        for (name, value) in members(object) {
            self.inner(number, |pair| {
                put_bytes(&mut pair.out, 1, name.as_bytes());
                pair.inner(2, |message| write(message, value));
            });
        }
    }

    /// Any value, as YAML text.
    fn any(&mut self, number: u32, value: &Value) {
        self.inner(number, |any| put_bytes(&mut any.out, 2, format!("{value}\n").as_bytes()));
    }

    fn extensions(&mut self, number: u32, object: &Value) {
        for (name, value) in members(object).filter(|(name, _)| name.starts_with("x-")) {
            self.inner(number, |pair| {
                put_bytes(&mut pair.out, 1, name.as_bytes());
                pair.any(2, value);
            });
        }
    }

    fn path_item(&mut self, item: &Value) {
        for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)] {
            if let Some(operation) = item.get(method) {
                self.inner(number, |message| message.operation(operation));
            }
        }
        items(&item["parameters"]).for_each(|parameter| self.parameter(9, parameter));
    }

    fn operation(&mut self, operation: &Value) {
        self.plain(operation, &[("tags", 1), ("summary", 2), ("description", 3), ("operationId", 5), ("produces", 6), ("consumes", 7)]);
        items(&operation["parameters"]).for_each(|parameter| self.parameter(8, parameter));
        self.inner(9, |responses| {
            responses.named(1, &operation["responses"], |value, response| {
                value.inner(1, |message| {
                    message.plain(response, &[("description", 1)]);
                    if let Some(schema) = response.get("schema") {
                        message.inner(2, |item| item.inner(1, |message| message.schema(schema)));
                    }
                });
            });
        });
        self.plain(operation, &[("schemes", 10), ("deprecated", 11)]);
        self.extensions(13, operation);
    }

    fn parameter(&mut self, number: u32, parameter: &Value) {
        self.inner(number, |item| {
            item.inner(1, |message| match parameter["in"].as_str() {
                Some("body") => message.inner(1, |body| {
                    body.plain(parameter, &[("description", 1), ("name", 2), ("in", 3), ("required", 4)]);
                    body.inner(5, |message| message.schema(&parameter["schema"]));
                }),
                Some("path") => message.inner(2, |other| {
                    other.inner(4, |path| {
                        path.plain(
                            parameter,
                            &[("required", 1), ("in", 2), ("description", 3), ("name", 4), ("type", 5), ("format", 6), ("uniqueItems", 19)],
                        );
                    });
                }),
                _ => message.inner(2, |other| {
                    other.inner(3, |query| {
                        query.plain(
                            parameter,
                            &[("required", 1), ("in", 2), ("description", 3), ("name", 4), ("type", 6), ("format", 7), ("uniqueItems", 20)],
                        );
                    });
                }),
            });
        });
    }

    fn schema(&mut self, schema: &Value) {
        self.plain(schema, &SCHEMA_FIELDS);
        for (name, number) in [("multipleOf", 6), ("maximum", 7), ("minimum", 9)] {
            if let Some(amount) = schema.get(name).and_then(Value::as_f64) {
                put_double(&mut self.out, number, amount);
            }
        }
        if let Some(default) = schema.get("default") {
            self.any(5, default);
        }
        items(&schema["enum"]).for_each(|value| self.any(20, value));
        match &schema["additionalProperties"] {
            Value::Bool(flag) => self.inner(21, |item| put_number(&mut item.out, 2, u64::from(*flag))),
            inner @ Value::Object(_) => self.inner(21, |item| item.inner(1, |message| message.schema(inner))),
            _ => {}
        }
        if let Some(kind) = schema.get("type") {
            self.inner(22, |message| message.value(1, kind));
        }
        if let Some(inner) = schema.get("items") {
            self.inner(23, |message| message.inner(1, |message| message.schema(inner)));
        }
        items(&schema["allOf"]).for_each(|inner| self.inner(24, |message| message.schema(inner)));
        let empty = Map::new();
        if schema.get("properties").and_then(Value::as_object).unwrap_or(&empty).is_empty() {
            return self.extensions(31, schema);
        }
        self.inner(25, |properties| properties.named(1, &schema["properties"], Message::schema));
        if let Some(example) = schema.get("example") {
            self.any(30, example);
        }
        self.extensions(31, schema);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn fields_stand_where_clients_look() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "t", "version": "v"},
            "paths": {"/p": {"get": {"operationId": "o", "x-kubernetes-action": "get"}}},
            "definitions": {"a.B": {"type": "object", "properties": {"c": {"$ref": "#/definitions/a.B"}}}},
        });
        let bytes = super::v2_protobuf(&document);
        assert!(bytes.starts_with(b"\x0a\x032.0\x12\x06\x0a\x01t\x12\x01v"));
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(holds(b"\x0a\x02/p") && holds(b"\x2a\x01o") && holds(b"\x12\x06\"get\"\n") && holds(b"\xb2\x01\x08\x0a\x06object"));
        assert!(holds(b"\x0a\x11#/definitions/a.B"));
    }
}
