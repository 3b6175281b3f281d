//! Schemas of custom resources must be structural: every value has a type, and what stands in `allOf` and the like
//! only narrows it. Only then can unknown fields be dropped and defaults be filled.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::path::Path;
use crate::read::{Read, as_map};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const FORBIDDEN: [&str; 6] = ["definitions", "dependencies", "patternProperties", "additionalItems", "id", "$ref"];

/// Validates the schema of a whole resource. Whether it is structural is asked only of schemas without what none may have.
pub fn validate_root(schema: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let (mut basic, mut structural) = (Causes::default(), Causes::default());
    validate(schema, path, Place::Root, &mut Both { basic: &mut basic, structural: &mut structural });
    if !has_forbidden(schema) {
        validate_top(schema, path, causes);
        causes.0.append(&mut structural.0);
    }
    causes.0.append(&mut basic.0);
}

/// Whether a schema or one inside says what no structural schema can.
fn has_forbidden(schema: &Map<String, Value>) -> bool {
    let one = |value: &Value| value.as_object().is_some_and(has_forbidden);
    FORBIDDEN.iter().any(|field| schema.has(field))
        || schema.get("items").is_some_and(|items| items.is_array() || one(items))
        || ["additionalProperties", "not"].iter().any(|field| schema.get(*field).is_some_and(one))
        || ["allOf", "anyOf", "oneOf"].iter().any(|field| schema.list(field).iter().any(one))
        || schema.map("properties").values().any(one)
}

/// Whether rules of a schema can be looked at: it is structural.
pub fn is_structural(schema: &Map<String, Value>) -> bool {
    let (mut basic, mut structural) = (Causes::default(), Causes::default());
    validate(schema, &Path::root(""), Place::Root, &mut Both { basic: &mut basic, structural: &mut structural });
    structural.is_empty() && !has_forbidden(schema)
}

/// Causes by the question that found them.
struct Both<'c> {
    basic: &'c mut Causes,
    structural: &'c mut Causes,
}

fn validate_top(schema: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    match schema.text("type") {
        "object" => {}
        "" => causes.needed(&path.field("type"), "must not be empty at the root"),
        other => causes.bad(&path.field("type"), other, "must be object at the root"),
    }
    if schema.flag("nullable") {
        causes.refused(&path.field("nullable"), "must be false at the root");
    }
    let properties = path.field("properties");
    if let Some(metadata) = schema.map("properties").object("metadata") {
        let at = properties.key("metadata");
        let kind = metadata.text("type");
        if !kind.is_empty() && kind != "object" {
            causes.bad(&at.field("type"), kind, "must be object");
        }
        let inner = at.field("properties");
        for (name, _) in metadata.map("properties").iter().filter(|(name, _)| !matches!(name.as_str(), "name" | "generateName")) {
            causes.refused(
                &inner,
                &format!("must not specify anything other than name and generateName, but metadata is implicitly specified: {name}"),
            );
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Property,
    Item,
}

fn validate(schema: &Map<String, Value>, path: &Path, place: Place, causes: &mut Both) {
    validate_type(schema, path, place, causes);
    for field in FORBIDDEN.iter().filter(|field| schema.has(field)) {
        causes.basic.refused(&path.field(field), &format!("{field} is not supported"));
    }
    if schema.flag("uniqueItems") {
        causes
            .basic
            .refused(&path.field("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    let properties = path.field("properties");
    let closed = schema.some("additionalProperties").and_then(Value::as_bool) == Some(false);
    if closed {
        causes.structural.refused(&path.field("additionalProperties"), "additionalProperties cannot be set to false");
    } else if schema.has("additionalProperties") && !schema.map("properties").is_empty() {
        causes.basic.refused(&path.field("additionalProperties"), "additionalProperties and properties are mutual exclusive");
    }
    for (name, property) in schema.map("properties") {
        validate(as_map(property), &properties.key(name), Place::Property, causes);
    }
    if let Some(inner) = schema.object("additionalProperties") {
        validate(inner, &path.field("additionalProperties"), Place::Property, causes);
    }
    match schema.some("items") {
        Some(Value::Array(_)) => causes.basic.refused(&path.field("items"), "items must be a schema object and not an array"),
        Some(items) => validate(as_map(items), &path.field("items"), Place::Item, causes),
        None if schema.text("type") == "array" => causes.structural.needed(&path.field("items"), "must be specified"),
        None => {}
    }
    validate_extensions(schema, path, causes);
    for field in ["allOf", "anyOf", "oneOf"] {
        let list = path.field(field);
        for (index, part) in schema.maps(field).enumerate() {
            validate_junctor(part, schema, &list.index(index), causes.structural);
        }
    }
    if let Some(part) = schema.object("not") {
        validate_junctor(part, schema, &path.field("not"), causes.structural);
    }
    let pattern = schema.text("pattern");
    if !pattern.is_empty() && regex::Regex::new(pattern).is_err() {
        causes.structural.bad(&path.field("pattern"), pattern, "must be a valid regular expression");
    }
    let rules = path.field("x-kubernetes-validations");
    for (index, rule) in schema.maps("x-kubernetes-validations").enumerate() {
        if rule.text("rule").trim().is_empty() {
            causes.basic.needed(&rules.index(index).field("rule"), "rule is not specified");
        }
    }
}

fn validate_type(schema: &Map<String, Value>, path: &Path, place: Place, causes: &mut Both) {
    let kind = schema.text("type");
    let free = schema.flag("x-kubernetes-preserve-unknown-fields") || schema.flag("x-kubernetes-int-or-string");
    if kind.is_empty() {
        match place {
            Place::Property if !free => causes.structural.needed(&path.field("type"), "must not be empty for specified object fields"),
            Place::Item if !free => causes.structural.needed(&path.field("type"), "must not be empty for specified array items"),
            _ => {}
        }
    } else if !TYPES.contains(&kind) {
        causes.basic.unsupported(&path.field("type"), kind, &TYPES);
    }
}

fn validate_extensions(schema: &Map<String, Value>, path: &Path, causes: &mut Both) {
    let kind = schema.text("type");
    let embedded = schema.flag("x-kubernetes-embedded-resource");
    if embedded && kind != "object" {
        causes.structural.bad(&path.field("type"), kind, "must be object if x-kubernetes-embedded-resource is true");
    }
    if embedded && schema.map("properties").is_empty() && !schema.flag("x-kubernetes-preserve-unknown-fields") {
        causes.structural.needed(
            &path.field("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
    let (list_type, at) = (schema.text("x-kubernetes-list-type"), path.field("x-kubernetes-list-type"));
    if schema.has("x-kubernetes-list-type") {
        if kind != "array" {
            causes.basic.bad(&path.field("type"), kind, "must be array if x-kubernetes-list-type is specified");
        }
        if !matches!(list_type, "atomic" | "map" | "set") {
            causes.basic.unsupported(&at, list_type, &["atomic", "set", "map"]);
        }
    }
    let keys = path.field("x-kubernetes-list-map-keys");
    match (list_type, schema.list("x-kubernetes-list-map-keys").is_empty()) {
        ("map", true) => causes.basic.needed(&keys, "must not be empty if x-kubernetes-list-type is map"),
        ("map", false) => {
            let items = schema.map("items").map("properties");
            for (index, key) in schema.texts("x-kubernetes-list-map-keys").enumerate().filter(|(_, key)| !items.contains_key(*key)) {
                causes.basic.bad(&keys.index(index), key, "entries must all be names of item properties");
            }
        }
        (_, false) => causes.basic.bad(&at, list_type, "must be map if x-kubernetes-list-map-keys is non-empty"),
        (_, true) => {}
    }
    causes.basic.one_of(schema, "x-kubernetes-map-type", path, &["atomic", "granular"]);
}

/// Inside a junctor only value validations may stand, and only for fields that the structure outside names.
fn validate_junctor(part: &Map<String, Value>, outer: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let int_or_string = outer.flag("x-kubernetes-int-or-string");
    for field in ["type", "default", "nullable", "title", "description", "additionalProperties"] {
        if part.has(field) && !(field == "type" && int_or_string) {
            let text = if field == "type" { "must be empty to be structural" } else { "must be undefined to be structural" };
            causes.refused(&path.field(field), text);
        }
    }
    for (field, _) in part.iter().filter(|(field, _)| field.starts_with("x-kubernetes-") && field.as_str() != "x-kubernetes-validations") {
        causes.refused(&path.field(field), "must be undefined to be structural");
    }
    let (properties, known) = (path.field("properties"), outer.map("properties"));
    for (name, property) in part.map("properties") {
        match known.object(name) {
            Some(outer) => validate_junctor(as_map(property), outer, &properties.key(name), causes),
            None if outer.has("additionalProperties") || outer.flag("x-kubernetes-preserve-unknown-fields") => {}
            None => causes.needed(&properties.key(name), "must not be empty for specified object fields"),
        }
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        let list = path.field(field);
        for (index, inner) in part.maps(field).enumerate() {
            validate_junctor(inner, outer, &list.index(index), causes);
        }
    }
}

/// Formats of strings that nobody checks.
pub fn unknown_formats(schema: &Map<String, Value>, out: &mut Vec<String>) {
    const KNOWN: [&str; 26] = [
        "bsonobjectid",
        "byte",
        "cidr",
        "creditcard",
        "date",
        "datetime",
        "duration",
        "email",
        "hexcolor",
        "hostname",
        "ipv4",
        "ipv6",
        "isbn",
        "isbn10",
        "isbn13",
        "k8slongname",
        "k8sshortname",
        "mac",
        "password",
        "rgbcolor",
        "ssn",
        "uri",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
    ];
    let format = schema.text("format");
    if schema.text("type") == "string" && !format.is_empty() && !KNOWN.contains(&format.replace('-', "").as_str()) {
        out.push(format.to_owned());
    }
    for inner in schema.map("properties").values().chain(schema.get("items")).chain(schema.get("additionalProperties")) {
        if let Some(inner) = inner.as_object() {
            unknown_formats(inner, out);
        }
    }
}
