//! Validation of custom resources by the schema of their definition.

use std::cell::RefCell;
use std::collections::HashMap;

use api::{Cause, Causes, Object};
use regex::Regex;
use serde_json::{Map, Value};

use super::Served;
use super::custom::CustomVersion;

/// Deepest value that is looked at.
const MAX_DEPTH: usize = 128;

/// Most patterns that a thread keeps.
const MAX_PATTERNS: usize = 256;

/// What the real server calls the place of an object itself.
const ROOT: &str = "<nil>";

/// Validates an object, or only its status where nothing else can have changed.
pub fn validate(served: &Served, object: &Object, old: Option<&Object>, status: bool, causes: &mut Causes) {
    let Some(custom) = &served.custom else { return };
    if object.kind() == &*served.def.kind {
        of_schema(served, custom, object, status, causes);
    } else {
        // Then nothing is said about what the kind is made of, only by its rules.
        causes.0.clear();
        causes.invalid("kind", &Value::from(object.kind()), &format!("must be {}", served.def.kind));
    }
    if !custom.has_schema {
        return;
    }
    repeated(served.raw_schema(), &contents(object), "", causes, 0);
    if !custom.has_rules {
        return;
    }
    let blocking = ["FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"];
    if causes.0.iter().any(|cause| blocking.contains(&cause.reason)) {
        let why =
            "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        causes.invalid(ROOT, &Value::Null, why);
    } else {
        expressions(served.raw_schema(), object, old, causes);
    }
}

/// An object without what every object has.
fn contents(object: &Object) -> Value {
    let own = object.0.iter().filter(|(field, _)| !matches!(field.as_str(), "apiVersion" | "kind" | "metadata"));
    Value::Object(own.map(|(field, value)| (field.clone(), value.clone())).collect())
}

fn of_schema(served: &Served, custom: &CustomVersion, object: &Object, status: bool, causes: &mut Causes) {
    if status {
        // Texts name places inside the status, fields those of the whole.
        let mut inner = Causes::default();
        if let Some(value) = object.get("status") {
            check(&served.raw_schema()["properties"]["status"], value, "", &mut inner, 0);
        }
        causes.0.extend(inner.0.into_iter().map(|cause| Cause { field: join("status", &cause.field), ..cause }));
    } else if custom.has_schema {
        check(served.raw_schema(), &contents(object), "", causes, 0);
        // What every object has was not among the contents.
        causes
            .0
            .retain(|cause| !(cause.reason == "FieldValueRequired" && matches!(cause.field.as_str(), "apiVersion" | "kind" | "metadata")));
    }
    if let Some(scale) = &custom.scale {
        replicas(object, &scale.spec, causes);
        replicas(object, &scale.status, causes);
    }
}

/// A number of replicas is one that scale can show.
fn replicas(object: &Object, fields: &[String], causes: &mut Causes) {
    let path: String = fields.iter().map(|field| format!(".{field}")).collect();
    let mut wrong = |value: &Value, wanted: &str| {
        let why = format!("{path} accessor error: {} is of the type {}, expected {wanted}", go_text(value), go_type(value));
        causes.invalid(&path, &Value::from(0), &why);
    };
    let Some((first, rest)) = fields.split_first() else { return };
    let Some(mut value) = object.0.get(first) else { return };
    for field in rest {
        let Some(map) = value.as_object() else { return wrong(value, "map[string]interface{}") };
        let Some(inner) = map.get(field) else { return };
        value = inner;
    }
    let Some(number) = value.as_i64() else { return wrong(value, "int64") };
    if number < 0 {
        causes.invalid(&path, value, "should be a non-negative integer");
    } else if number > i64::from(i32::MAX) {
        causes.invalid(&path, value, &format!("should be less than or equal to {}", i32::MAX));
    }
}

/// A value as Go prints it.
fn go_text(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(go_text).collect())),
        Value::Object(map) => format!("map[{}]", joined(map.iter().map(|(name, value)| format!("{name}:{}", go_text(value))).collect())),
        other => other.to_string(),
    }
}

/// The type that Go gives a value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Rules of the schema; they may rely on the shape, so they come last.
fn expressions(schema: &Value, object: &Object, old: Option<&Object>, causes: &mut Causes) {
    let value = Value::Object(object.0.clone());
    let old = old.map(|old| Value::Object(old.0.clone()));
    for violation in cel::rules::validate(schema, &value, old.as_ref(), "") {
        let path = if violation.path.is_empty() { ROOT } else { &violation.path };
        match (violation.reason.as_str(), &violation.shown) {
            ("FieldValueForbidden", _) => causes.forbidden(path, &violation.message),
            ("FieldValueRequired", _) => causes.required(path, &violation.message),
            ("FieldValueDuplicate", Some(shown)) => causes.duplicate(path, shown),
            ("FieldValueDuplicate", None) => causes.0.push(without_value("FieldValueDuplicate", path, "Duplicate value".to_owned())),
            (_, Some(shown)) => causes.invalid(path, shown, &violation.message),
            (_, None) => causes.0.push(without_value("FieldValueInvalid", path, format!("Invalid value: {}", violation.message))),
        }
    }
}

fn without_value(reason: &'static str, path: &str, message: String) -> Cause {
    Cause { reason, field: path.to_owned(), message }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() || name.is_empty() { format!("{path}{name}") } else { format!("{path}.{name}") }
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
    let fits = check_type(schema, value, path, causes);
    if let Some(allowed) = schema["enum"].as_array() {
        if !allowed.contains(value) {
            let texts: Vec<String> = allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            causes.not_supported_in_order(path, value, &texts);
        }
    }
    if !fits {
        return;
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
        causes.type_invalid(
            path,
            &type_name(value).into(),
            &format!("{path} in body must be of type integer,string: {:?}", type_name(value)),
        );
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
        causes.type_invalid(path, &type_name(value).into(), &format!("{path} in body must be of type {wanted}: {:?}", type_name(value)));
    }
    fits
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
}

/// Looks for what stands twice in lists that are sets or maps, after all else is checked.
fn repeated(schema: &Value, value: &Value, path: &str, causes: &mut Causes, depth: usize) {
    if depth > MAX_DEPTH || !schema.is_object() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let child = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                repeated(child, value, &join(path, name), causes, depth + 1);
            }
        }
        Value::Array(items) => {
            unique(schema, items, path, causes);
            for (index, item) in items.iter().enumerate() {
                repeated(&schema["items"], item, &format!("{path}[{index}]"), causes, depth + 1);
            }
        }
        _ => {}
    }
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

/// Of length and pattern only the first that is not kept is told.
fn string(schema: &Value, text: &str, path: &str, causes: &mut Causes) {
    let length = text.chars().count() as u64;
    let value = Value::from(text);
    let pattern = schema["pattern"].as_str();
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        causes.too_long(path, most as usize);
    } else if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
        causes.invalid(path, &value, &format!("{path} in body should be at least {least} chars long"));
    } else if let Some(pattern) = pattern.filter(|pattern| !fits(pattern, text)) {
        causes.invalid(path, &value, &format!("{path} in body should match '{pattern}'"));
    }
    if let Some(format) = schema["format"].as_str() {
        if !super::formats::is_valid(format, text) {
            causes.type_invalid(path, &value, &format!("{path} in body must be of type {format}: {text:?}"));
        }
    }
}

thread_local! {
    /// Patterns that this thread has met lately, with nothing for those that are none.
    static PATTERNS: RefCell<HashMap<Box<str>, Option<Regex>>> = RefCell::default();
}

/// Whether a text fits a pattern; every text fits one that is none. Reading a pattern takes far longer than using it, and lists
/// have one for all their items.
fn fits(pattern: &str, text: &str) -> bool {
    PATTERNS.with_borrow_mut(|known| {
        if !known.contains_key(pattern) {
            if known.len() >= MAX_PATTERNS {
                known.clear();
            }
            known.insert(pattern.into(), Regex::new(pattern).ok());
        }
        known[pattern].as_ref().is_none_or(|regex| regex.is_match(text))
    })
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
    let parts = |name: &str| schema[name].as_array().map_or(&[][..], Vec::as_slice);
    for part in parts("allOf") {
        check(part, value, path, causes, depth + 1);
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
        repeated(&schema, &value, "", &mut causes, 0);
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
        fields(schema.clone(), json!({"a": "abcd", "n": 9}), &["a", "n"]);
        fields(schema.clone(), json!({"a": "x", "l": ["u", "w"]}), &["l", "l[1]"]);
        fields(schema.clone(), json!({"a": "x", "s": ["u", "u"]}), &["s[1]"]);
        fields(schema, json!({"a": 1}), &["a"]);
        fields(json!({"pattern": "("}), json!("anything"), &[]);
        for number in 0..2 * MAX_PATTERNS {
            fields(json!({"pattern": format!("^{number}$")}), json!("x"), &[""]);
        }
    }

    #[test]
    fn combinations() {
        fields(json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"a": 1, "b": 1}), &[""]);
        fields(json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), json!(1), &[]);
        fields(json!({"not": {"required": ["a"]}}), json!({"a": 1}), &[""]);
    }
}
