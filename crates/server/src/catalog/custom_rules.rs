//! Validation of custom resources by the schema of their definition.

use api::{Causes, Object};
use regex::Regex;
use serde_json::{Map, Value};

use super::Served;

/// Deepest value that is looked at.
const MAX_DEPTH: usize = 128;

/// Validates an object.
pub fn validate(served: &Served, object: &Object, old: Option<&Object>, causes: &mut Causes) {
    let Some(custom) = &served.custom else { return };
    if !custom.has_schema {
        return;
    }
    let mut value = Value::Object(object.0.clone());
    if let Some(map) = value.as_object_mut() {
        for field in ["apiVersion", "kind", "metadata"] {
            map.remove(field);
        }
    }
    let schema = served.raw_schema();
    check(schema, &value, "", causes, 0);
    if causes.is_empty() && custom.has_rules {
        expressions(schema, object, old, causes);
    }
}

/// Rules of the schema; they may rely on the shape, so they come last.
fn expressions(schema: &Value, object: &Object, old: Option<&Object>, causes: &mut Causes) {
    let value = Value::Object(object.0.clone());
    let old = old.map(|old| Value::Object(old.0.clone()));
    for violation in cel::rules::validate(schema, &value, old.as_ref(), "") {
        let kind = Value::from(violation.kind);
        match violation.reason.as_str() {
            "FieldValueForbidden" => causes.forbidden(&violation.path, &violation.message),
            "FieldValueRequired" => causes.required(&violation.path, &violation.message),
            "FieldValueDuplicate" => causes.duplicate(&violation.path, &kind),
            _ => causes.invalid(&violation.path, &kind, &violation.message),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Whether a value satisfies a schema.
fn satisfies(schema: &Value, value: &Value, depth: usize) -> bool {
    let mut causes = Causes::default();
    check(schema, value, "", &mut causes, depth);
    causes.is_empty()
}

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Causes, depth: usize) {
    if depth > MAX_DEPTH || !schema.is_object() {
        return;
    }
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if !check_type(schema, value, path, causes) {
        return;
    }
    if let Some(allowed) = schema["enum"].as_array() {
        if !allowed.contains(value) {
            let texts: Vec<String> = allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            causes.not_supported(path, value, &texts);
        }
    }
    match value {
        Value::Object(map) => object(schema, map, path, causes, depth),
        Value::Array(items) => list(schema, items, path, causes, depth),
        Value::String(text) => string(schema, text, path, causes),
        Value::Number(_) => number(schema, value, path, causes),
        _ => {}
    }
    combined(schema, value, path, causes, depth);
}

fn check_type(schema: &Value, value: &Value, path: &str, causes: &mut Causes) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        if value.is_string() || value.is_i64() || value.is_u64() {
            return true;
        }
        causes.type_invalid(path, value, &format!("{} in body must be of type integer,string: {:?}", subject(path), type_name(value)));
        return false;
    }
    let Some(wanted) = schema["type"].as_str().filter(|wanted| !wanted.is_empty()) else { return true };
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        causes.type_invalid(path, value, &format!("{} in body must be of type {wanted}: {:?}", subject(path), type_name(value)));
    }
    fits
}

fn subject(path: &str) -> &str {
    path
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn object(schema: &Value, map: &Map<String, Value>, path: &str, causes: &mut Causes, depth: usize) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        // Of the whole object, others have looked at these.
        let looked_at = depth == 0 && matches!(name, "apiVersion" | "kind" | "metadata");
        if !map.contains_key(name) && !looked_at {
            causes.required(&join(path, name), "");
        }
    }
    let count = map.len() as u64;
    if let Some(most) = schema["maxProperties"].as_u64().filter(|most| count > *most) {
        causes.too_many(path, map.len(), most as usize);
    }
    if let Some(least) = schema["minProperties"].as_u64().filter(|least| count < *least) {
        causes.invalid(path, &Value::Object(map.clone()), &format!("{path} in body should have at least {least} properties"));
    }
    let known = schema["properties"].as_object();
    for (name, value) in map {
        if let Some(child) = known.and_then(|known| known.get(name)) {
            check(child, value, &join(path, name), causes, depth + 1);
        } else if schema["additionalProperties"].is_object() {
            check(&schema["additionalProperties"], value, &join(path, name), causes, depth + 1);
        }
    }
}

fn list(schema: &Value, items: &[Value], path: &str, causes: &mut Causes, depth: usize) {
    let count = items.len() as u64;
    if let Some(most) = schema["maxItems"].as_u64().filter(|most| count > *most) {
        causes.too_many(path, items.len(), most as usize);
    }
    if let Some(least) = schema["minItems"].as_u64().filter(|least| count < *least) {
        causes.invalid(path, &Value::from(count), &format!("{path} in body should have at least {least} items"));
    }
    for (index, item) in items.iter().enumerate() {
        check(&schema["items"], item, &format!("{path}[{index}]"), causes, depth + 1);
    }
    unique(schema, items, path, causes);
}

/// Sets have no item twice, maps no key twice.
fn unique(schema: &Value, items: &[Value], path: &str, causes: &mut Causes) {
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let identity = |item: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(item.clone()),
        Some("map") => {
            let pairs = keys.iter().filter_map(|key| Some(((*key).to_owned(), item.get(*key)?.clone())));
            Some(Value::Object(pairs.collect()))
        }
        _ => None,
    };
    let mut seen: std::collections::HashSet<String> = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let Some(id) = identity(item) else { return };
        if !seen.insert(id.to_string()) {
            causes.duplicate(&format!("{path}[{index}]"), &id);
        }
    }
}

fn string(schema: &Value, text: &str, path: &str, causes: &mut Causes) {
    let length = text.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        causes.too_long(path, most as usize);
    }
    let value = Value::from(text);
    if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
        causes.invalid(path, &value, &format!("{path} in body should be at least {least} chars long"));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        if Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text)) {
            causes.invalid(path, &value, &format!("{path} in body should match '{pattern}'"));
        }
    }
    if let Some(format) = schema["format"].as_str() {
        if !super::formats::is_valid(format, text) {
            causes.invalid(path, &value, &format!("{path} in body must be of type {format}: {text:?}"));
        }
    }
}

fn number(schema: &Value, value: &Value, path: &str, causes: &mut Causes) {
    let Some(number) = value.as_f64() else { return };
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > most || (exclusive && number >= most) {
            let relation = if exclusive { "less than" } else { "less than or equal to" };
            causes.invalid(path, value, &format!("{path} in body should be {relation} {}", schema["maximum"]));
        }
    }
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < least || (exclusive && number <= least) {
            let relation = if exclusive { "greater than" } else { "greater than or equal to" };
            causes.invalid(path, value, &format!("{path} in body should be {relation} {}", schema["minimum"]));
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step > 0.0) {
        let ratio = number / step;
        if (ratio - ratio.round()).abs() > 1e-9 {
            causes.invalid(path, value, &format!("{path} in body should be a multiple of {}", schema["multipleOf"]));
        }
    }
    let range = match schema["format"].as_str() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        _ => None,
    };
    if range.is_some_and(|(low, high)| number < low || number > high) {
        causes.invalid(path, value, &format!("{path} in body must be of type int32: {value:?}"));
    }
}

fn combined(schema: &Value, value: &Value, path: &str, causes: &mut Causes, depth: usize) {
    let parts = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
    for part in parts("allOf") {
        check(&part, value, path, causes, depth + 1);
    }
    let any = parts("anyOf");
    if !any.is_empty() && !any.iter().any(|part| satisfies(part, value, depth + 1)) {
        causes.invalid(path, value, &format!("{} in body must validate at least one schema (anyOf)", quoted(path)));
    }
    let one = parts("oneOf");
    if !one.is_empty() && one.iter().filter(|part| satisfies(part, value, depth + 1)).count() != 1 {
        causes.invalid(path, value, &format!("{} in body must validate one and only one schema (oneOf)", quoted(path)));
    }
    if schema["not"].is_object() && satisfies(&schema["not"], value, depth + 1) {
        causes.invalid(path, value, &format!("{} in body must not validate the schema (not)", quoted(path)));
    }
}

fn quoted(path: &str) -> String {
    format!("{path:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn fields(schema: Value, value: Value, expected: &[&str]) {
        let mut causes = Causes::default();
        check(&schema, &value, "", &mut causes, 0);
        let fields: Vec<&str> = causes.0.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, expected, "{causes:?}");
    }

    #[test]
    fn values() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string", "pattern": "^x", "maxLength": 3},
            "n": {"type": "integer", "minimum": 1, "maximum": 5},
            "l": {"type": "array", "maxItems": 1, "items": {"enum": ["u", "v"]}},
            "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        }});
        fields(schema.clone(), json!({"a": "xy", "n": 3, "l": ["u"]}), &[]);
        fields(schema.clone(), json!({}), &["a"]);
        fields(schema.clone(), json!({"a": "abcd", "n": 9}), &["a", "a", "n"]);
        fields(schema.clone(), json!({"a": "x", "l": ["u", "w"]}), &["l", "l[1]"]);
        fields(schema.clone(), json!({"a": "x", "s": ["u", "u"]}), &["s[1]"]);
        fields(schema, json!({"a": 1}), &["a"]);
    }

    #[test]
    fn combinations() {
        fields(json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"a": 1, "b": 1}), &[""]);
        fields(json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), json!(1), &[]);
        fields(json!({"not": {"required": ["a"]}}), json!({"a": 1}), &[""]);
    }
}
