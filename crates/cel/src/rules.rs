//! Validation rules of custom resources: `x-kubernetes-validations` anywhere in a schema.
//!
//! A rule sees the value at its place as `self` and, on updates, the old value as `oldSelf`. Items of lists are only
//! matched with old ones where the list has keys.

use serde_json::Value as Json;

use crate::check::{Env, Program};
use crate::eval::{Budget, Failure, Names, evaluate};
use crate::types::{ObjectType, Type};
use crate::value::{Value, is_keyword};

/// What the rules of one object may cost together.
const TOTAL: u64 = 10_000_000;

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where, for example `spec.items[0]`.
    pub path: String,
    /// What messages show of the value there: nothing of lists and objects, the type where a rule could not be run.
    pub shown: Option<Json>,
    /// Why.
    pub message: String,
    /// `FieldValueInvalid` where the rule says nothing.
    pub reason: String,
}

/// A rule that is no valid expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where in the schema, for example `properties[spec].x-kubernetes-validations[0].rule`.
    pub path: String,
    /// The expression.
    pub text: String,
    /// What is wrong.
    pub message: String,
}

/// Checks all rules of the schema of a version; `path` is the place of the schema.
pub fn check(schema: &Json, path: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_node(schema, path, true, &mut faults);
    faults
}

fn check_node(schema: &Json, path: &str, is_root: bool, faults: &mut Vec<Fault>) {
    for (index, rule) in rules(schema).enumerate() {
        let this = object_type(schema, is_root);
        let old = if optional_old(rule) { Type::Optional(Box::new(this.clone())) } else { this.clone() };
        let env = Env::new(vec![("self", this), ("oldSelf", old)]);
        for (field, wanted) in [("rule", Type::Bool), ("messageExpression", Type::String)] {
            let Some(text) = rule.get(field).and_then(Json::as_str) else { continue };
            let message = match Program::compile(text, &env) {
                Err(error) => format!("compilation failed: {error}"),
                Ok(program) if !program.result.fits(&wanted) => {
                    format!("{} must evaluate to a {wanted}", if field == "rule" { "rule" } else { field })
                }
                Ok(_) => continue,
            };
            faults.push(Fault { path: format!("{path}.x-kubernetes-validations[{index}].{field}"), text: text.to_owned(), message });
        }
    }
    for (name, inner) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
        check_node(inner, &format!("{path}.properties[{name}]"), false, faults);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(name).filter(|inner| inner.is_object()) {
            check_node(inner, &format!("{path}.{name}"), false, faults);
        }
    }
}

fn rules(schema: &Json) -> impl Iterator<Item = &Json> {
    schema.get("x-kubernetes-validations").and_then(Json::as_array).into_iter().flatten()
}

fn optional_old(rule: &Json) -> bool {
    rule.get("optionalOldSelf") == Some(&Json::Bool(true))
}

/// The static type of values of a schema.
pub fn type_of(schema: &Json) -> Type {
    object_type(schema, false)
}

/// The same; the root has version, kind and metadata whether its schema lists them or not.
fn object_type(schema: &Json, is_root: bool) -> Type {
    let is = |field: &str| schema.get(field) == Some(&Json::Bool(true));
    if is("x-kubernetes-int-or-string") || schema.get("type").is_none() {
        return Type::Dyn;
    }
    match schema.get("type").and_then(Json::as_str).unwrap_or("") {
        "string" => match schema.get("format").and_then(Json::as_str) {
            Some("date-time" | "date") => Type::Timestamp,
            Some("duration") => Type::Duration,
            Some("byte") => Type::Bytes,
            _ => Type::String,
        },
        "integer" => Type::Int,
        "number" => Type::Double,
        "boolean" => Type::Bool,
        "array" => Type::list(schema.get("items").map_or(Type::Dyn, type_of)),
        "object" => {
            if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
                return Type::map(type_of(values));
            }
            let mut fields: Vec<(String, Type)> = schema
                .get("properties")
                .and_then(Json::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(name, inner)| Some((escape(name)?, type_of(inner))))
                .collect();
            if is_root || is("x-kubernetes-embedded-resource") {
                fields.retain(|(known, _)| !matches!(known.as_str(), "apiVersion" | "kind" | "metadata"));
                fields.extend([("apiVersion".into(), Type::String), ("kind".into(), Type::String), ("metadata".into(), Type::Dyn)]);
            }
            if fields.is_empty() && is("x-kubernetes-preserve-unknown-fields") {
                return Type::Dyn;
            }
            Type::Object(std::sync::Arc::new(ObjectType { name: "object".into(), fields, open: false }))
        }
        _ => Type::Dyn,
    }
}

/// A property name as an identifier; `None` when it cannot be one.
fn escape(name: &str) -> Option<String> {
    if is_keyword(name) {
        return Some(format!("__{name}__"));
    }
    let escaped = name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__");
    let good = escaped.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !escaped.starts_with(|letter: char| letter.is_ascii_digit());
    good.then_some(escaped)
}

/// Evaluates all rules of a schema on a value; `old` is the value before an update.
pub fn validate(schema: &Json, value: &Json, old: Option<&Json>, path: &str) -> Vec<Violation> {
    let mut run = Run { left: Budget::new(TOTAL), violations: Vec::new(), over: false };
    run.node(schema, value, old, path);
    run.violations
}

struct Run {
    left: Budget,
    violations: Vec<Violation>,
    /// The rules cost too much; none is run any more.
    over: bool,
}

impl Run {
    fn node(&mut self, schema: &Json, value: &Json, old: Option<&Json>, path: &str) {
        if self.over || value.is_null() {
            return;
        }
        for rule in rules(schema) {
            self.rule(rule, schema, value, old, path);
        }
        match value {
            Json::Object(map) => {
                for (name, inner) in map {
                    let listed = schema.get("properties").and_then(|properties| properties.get(name));
                    let (place, inner_schema) = match listed {
                        Some(listed) => (join(path, name), listed),
                        None => match schema.get("additionalProperties").filter(|values| values.is_object()) {
                            Some(values) => (format!("{path}[{name}]"), values),
                            None => continue,
                        },
                    };
                    self.node(inner_schema, inner, old.and_then(|old| old.get(name)), &place);
                }
            }
            Json::Array(items) => {
                let Some(inner_schema) = schema.get("items") else { return };
                for (index, item) in items.iter().enumerate() {
                    self.node(inner_schema, item, old.and_then(|old| counterpart(schema, item, old)), &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: &Json, schema: &Json, value: &Json, old: Option<&Json>, path: &str) {
        if self.over {
            return;
        }
        let text = rule.get("rule").and_then(Json::as_str).unwrap_or("");
        let kind = || Some(Json::from(schema.get("type").and_then(Json::as_str).unwrap_or("")));
        let optional = optional_old(rule);
        if old.is_none() && !optional && uses_old(text) {
            return;
        }
        // An error is told with the message of the rule, or with the rule itself.
        let about = || rule.get("message").and_then(Json::as_str).map(str::trim).filter(|text| !text.is_empty()).unwrap_or(text);
        let fails = match self.holds(text, schema, value, old, optional) {
            Ok(true) => return,
            Ok(false) => {
                let message = self.message(rule, schema, value, old, optional);
                let field = rule.get("fieldPath").and_then(Json::as_str);
                let place = field.map_or_else(|| path.to_owned(), |field| join(path, field.trim_start_matches('.')));
                let reason = rule.get("reason").and_then(Json::as_str).unwrap_or("FieldValueInvalid").to_owned();
                let shown = (!value.is_object() && !value.is_array()).then(|| value.clone());
                self.violations.push(Violation { path: place, shown, message, reason });
                return;
            }
            Err(Failure::TooExpensive) => {
                self.over = true;
                format!("'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {text}")
            }
            Err(Failure::Error(error)) if error.starts_with("no such overload") => {
                format!("'{error}': call arguments did not match a supported operator, function or macro signature for rule: {text}")
            }
            Err(Failure::Error(error)) => format!("{error} evaluating rule: {}", about()),
        };
        let reason = "FieldValueInvalid".to_owned();
        self.violations.push(Violation { path: path.to_owned(), shown: kind(), message: fails, reason });
    }

    fn holds(&self, text: &str, schema: &Json, value: &Json, old: Option<&Json>, optional: bool) -> Result<bool, Failure> {
        match self.evaluate(text, schema, value, old, optional)? {
            Json::Bool(flag) => Ok(flag),
            _ => Err(Failure::new("no such overload")),
        }
    }

    fn message(&self, rule: &Json, schema: &Json, value: &Json, old: Option<&Json>, optional: bool) -> String {
        let expression = rule.get("messageExpression").and_then(Json::as_str);
        let computed = expression.and_then(|text| match self.evaluate(text, schema, value, old, optional) {
            Ok(Json::String(text)) if !text.trim().is_empty() && !text.contains('\n') => Some(text.trim().to_owned()),
            _ => None,
        });
        let fixed = || rule.get("message").and_then(Json::as_str).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        computed.or_else(fixed).unwrap_or_else(|| format!("failed rule: {}", rule.get("rule").and_then(Json::as_str).unwrap_or("").trim()))
    }

    fn evaluate(&self, text: &str, schema: &Json, value: &Json, old: Option<&Json>, optional: bool) -> Result<Json, Failure> {
        self.left.scan(text.len())?;
        let expr = crate::parse(text).map_err(Failure::Error)?;
        let mut names = vec![("self", Value::typed(value, Some(schema)))];
        let old = old.map(|old| Value::typed(old, Some(schema)));
        match (old, optional) {
            (old, true) => names.push(("oldSelf", Value::Optional(old.map(Box::new)))),
            (Some(old), false) => names.push(("oldSelf", old)),
            (None, false) => {}
        }
        let budget = Budget::new(Budget::PER_CALL.min(self.left.left()));
        let before = budget.left();
        let result = evaluate(&expr, &Names(names), &budget);
        // A result that ends exactly with the last of the budget is as good as too expensive.
        self.left.spend(before - budget.left())?;
        result?.to_json().ok_or_else(|| Failure::new("no such overload"))
    }
}

fn uses_old(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').any(|word| word == "oldSelf")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The old item of a list with keys.
fn counterpart<'v>(schema: &Json, item: &Json, old: &'v Json) -> Option<&'v Json> {
    if schema.get("x-kubernetes-list-type").and_then(Json::as_str) != Some("map") {
        return None;
    }
    let keys: Vec<&str> = schema.get("x-kubernetes-list-map-keys")?.as_array()?.iter().filter_map(Json::as_str).collect();
    old.as_array()?.iter().find(|other| keys.iter().all(|key| other.get(key) == item.get(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Json {
        json!({
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "x-kubernetes-validations": [
                        {"rule": "self.min <= self.max", "message": "min must not be above max", "fieldPath": ".min"},
                        {"rule": "!has(self.until) || self.until > timestamp('2020-01-01T00:00:00Z')"},
                        {"rule": "self.max >= oldSelf.max", "messageExpression": "'max may not fall below ' + string(oldSelf.max)", "reason": "FieldValueForbidden"},
                    ],
                    "properties": {
                        "min": {"type": "integer"}, "max": {"type": "integer"}, "until": {"type": "string", "format": "date-time"},
                        "namespace": {"type": "string"},
                        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                            "type": "object", "properties": {"name": {"type": "string"}, "a-b": {"type": "string"}},
                            "x-kubernetes-validations": [{"rule": "self.a__dash__b == oldSelf.a__dash__b", "message": "is immutable"}],
                        }},
                    },
                },
            },
        })
    }

    #[test]
    fn rules_are_checked() {
        assert_eq!(check(&schema(), "s"), []);
        let mut named = schema();
        named["x-kubernetes-validations"] =
            json!([{"rule": "self.metadata.name.startsWith('a') && self.spec.min > 0 && has(self.spec.__namespace__)"}]);
        assert_eq!(check(&named, "s"), []);
        let mut bad = schema();
        bad["properties"]["spec"]["x-kubernetes-validations"] =
            json!([{"rule": "self.nope == 1"}, {"rule": "self.min"}, {"rule": "self.min +"}]);
        let faults = check(&bad, "s");
        let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert!(
            messages[0].contains("undefined field 'nope'")
                && messages[1] == "rule must evaluate to a bool"
                && messages[2].contains("Syntax error"),
            "{messages:?}"
        );
        assert_eq!(faults[0].path, "s.properties[spec].x-kubernetes-validations[0].rule");
    }

    #[test]
    fn rules_are_evaluated() {
        let check = |value: Json, old: Option<Json>| -> Vec<(String, String)> {
            validate(&schema(), &value, old.as_ref(), "").into_iter().map(|violation| (violation.path, violation.message)).collect()
        };
        assert_eq!(check(json!({"spec": {"min": 1, "max": 2, "until": "2024-01-01T00:00:00Z"}}), None), []);
        let pair = |path: &str, message: &str| (path.to_owned(), message.to_owned());
        assert_eq!(check(json!({"spec": {"min": 3, "max": 2}}), None), [pair("spec.min", "min must not be above max")]);
        assert_eq!(check(json!({"spec": {"max": 2}}), None), [pair("spec", "no such key: min evaluating rule: min must not be above max")]);
        assert_eq!(
            check(json!({"spec": {"min": 0, "max": 2, "until": "2010-01-01T00:00:00Z"}}), Some(json!({"spec": {"max": 5}}))),
            [
                pair("spec", "failed rule: !has(self.until) || self.until > timestamp('2020-01-01T00:00:00Z')"),
                pair("spec", "max may not fall below 5")
            ]
        );
        let items = |value: &str| json!({"spec": {"min": 0, "max": 0, "items": [{"name": "x", "a-b": "0"}, {"name": "y", "a-b": value}]}});
        assert_eq!(check(items("2"), Some(items("1"))), [pair("spec.items[1]", "is immutable")]);
    }
}
