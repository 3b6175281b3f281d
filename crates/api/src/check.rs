//! Checks that many kinds share, each adding the cause that the real server gives.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;
use crate::read::Read;
use crate::types::object_meta;

/// Text of a change that is refused.
pub const IMMUTABLE: &str = "field is immutable";

/// Causes at lazily printed paths.
pub trait Check {
    /// One `Invalid value` for each text.
    fn each(&mut self, path: &Path, value: &str, errors: Vec<String>);
    /// `Unsupported value` that lists the values in the order given.
    fn unsupported(&mut self, path: &Path, value: &str, supported: &[&str]);
    /// `Unsupported value` of any JSON value.
    fn unsupported_value(&mut self, path: &Path, value: &Value, supported: &[&str]);
    /// `Invalid value: detail`, where the value itself would not help.
    fn bad_without_value(&mut self, path: &Path, detail: &str);
    /// `Invalid value` of any JSON value.
    fn bad(&mut self, path: &Path, value: impl Into<Value>, detail: &str);
    /// `Invalid value` of a struct, shown as the real server has it inside; `name` is that of the struct.
    fn bad_struct(&mut self, path: &Path, name: &str, value: &Value, detail: &str);
    /// `Required value`.
    fn needed(&mut self, path: &Path, detail: &str);
    /// `Forbidden`.
    fn refused(&mut self, path: &Path, detail: &str);
    /// `Duplicate value`.
    fn twice(&mut self, path: &Path, value: impl Into<Value>);
    /// Text that must not be empty; true if it is there.
    fn need_text(&mut self, map: &Map<String, Value>, field: &str, path: &Path) -> bool;
    /// Text that, if it is there, is one of a list (sorted by the caller).
    fn one_of(&mut self, map: &Map<String, Value>, field: &str, path: &Path, supported: &[&str]);
    /// Text that must be there and one of a list.
    fn need_one_of(&mut self, map: &Map<String, Value>, field: &str, path: &Path, supported: &[&str]);
}

impl Check for Causes {
    fn each(&mut self, path: &Path, value: &str, errors: Vec<String>) {
        for error in errors {
            self.invalid(&path.text(), &value.into(), &error);
        }
    }

    fn unsupported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        self.unsupported_value(path, &value.into(), supported);
    }

    fn unsupported_value(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", quoted.join(", "));
        self.0.push(crate::Cause { reason: "FieldValueNotSupported", field: path.text(), message });
    }

    fn bad_without_value(&mut self, path: &Path, detail: &str) {
        self.0.push(crate::Cause { reason: "FieldValueInvalid", field: path.text(), message: format!("Invalid value: {detail}") });
    }

    fn bad(&mut self, path: &Path, value: impl Into<Value>, detail: &str) {
        self.invalid(&path.text(), &value.into(), detail);
    }

    fn bad_struct(&mut self, path: &Path, name: &str, value: &Value, detail: &str) {
        self.invalid_text(&path.text(), &crate::shown::internal(name, value), detail);
    }

    fn needed(&mut self, path: &Path, detail: &str) {
        self.required(&path.text(), detail);
    }

    fn refused(&mut self, path: &Path, detail: &str) {
        self.forbidden(&path.text(), detail);
    }

    fn twice(&mut self, path: &Path, value: impl Into<Value>) {
        self.duplicate(&path.text(), &value.into());
    }

    fn need_text(&mut self, map: &Map<String, Value>, field: &str, path: &Path) -> bool {
        let there = !map.text(field).is_empty();
        if !there {
            self.needed(&path.field(field), "");
        }
        there
    }

    fn one_of(&mut self, map: &Map<String, Value>, field: &str, path: &Path, supported: &[&str]) {
        let value = map.text(field);
        if map.has(field) && !supported.contains(&value) {
            self.unsupported(&path.field(field), value, supported);
        }
    }

    fn need_one_of(&mut self, map: &Map<String, Value>, field: &str, path: &Path, supported: &[&str]) {
        if self.need_text(map, field, path) {
            self.one_of(map, field, path, supported);
        }
    }
}

/// A number that must not be negative.
pub fn non_negative(value: i64, path: &Path, causes: &mut Causes) {
    if value < 0 {
        causes.bad(path, value, "must be greater than or equal to 0");
    }
}

/// A field that, if set, must not be negative.
pub fn non_negative_field(map: &Map<String, Value>, field: &str, path: &Path, causes: &mut Causes) {
    if let Some(value) = map.int(field) {
        non_negative(value, &path.field(field), causes);
    }
}

/// A field that, if set, must be positive.
pub fn positive_field(map: &Map<String, Value>, field: &str, path: &Path, causes: &mut Causes) {
    if let Some(value) = map.int(field).filter(|value| *value <= 0) {
        causes.bad(&path.field(field), value, "must be greater than 0");
    }
}

/// Whether two optional values are the same to the real server: null, absent and empty are one.
pub fn same(new: Option<&Value>, old: Option<&Value>) -> bool {
    fn there(value: Option<&Value>) -> Option<&Value> {
        value.filter(|value| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        })
    }
    there(new) == there(old)
}

/// A value that may not change.
pub fn immutable(new: Option<&Value>, old: Option<&Value>, path: &Path, causes: &mut Causes) {
    if !same(new, old) {
        causes.bad(path, new.cloned().unwrap_or(Value::Null), IMMUTABLE);
    }
}

/// A field that may not change.
pub fn immutable_field(new: &Map<String, Value>, old: &Map<String, Value>, field: &str, path: &Path, causes: &mut Causes) {
    immutable(new.some(field), old.some(field), &path.field(field), causes);
}

/// A port number.
pub fn port_errors(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// A port number at a path.
pub fn port(value: i64, path: &Path, causes: &mut Causes) {
    for error in port_errors(value) {
        causes.bad(path, value, &error);
    }
}

/// A port number or the name of one.
pub fn port_or_name(value: &Value, path: &Path, causes: &mut Causes) {
    match value {
        Value::String(name) => causes.each(path, name, names::port_name_errors(name)),
        other => port(other.as_i64().unwrap_or(0), path, causes),
    }
}

/// A number or a percentage, not negative.
pub fn int_or_percent(value: &Value, path: &Path, causes: &mut Causes) {
    match value {
        Value::String(text) => causes.each(path, text, names::percent_errors(text)),
        other => non_negative(other.as_i64().unwrap_or(0), path, causes),
    }
}

/// A percentage of at most 100, where it is one.
pub fn at_most_hundred_percent(value: &Value, path: &Path, causes: &mut Causes) {
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|digits| digits.parse::<i64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        causes.bad(path, value.clone(), "must not be greater than 100%");
    }
}

/// The number behind an int-or-string (a percentage's digits).
pub fn scaled_is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.trim_end_matches('%').parse::<i64>() == Ok(0),
        other => other.as_i64().unwrap_or(0) == 0,
    }
}

/// An IP address in the strict form.
pub fn ip_errors(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An IP address at a path.
pub fn ip(text: &str, path: &Path, causes: &mut Causes) {
    causes.each(path, text, ip_errors(text));
}

/// A block of addresses at a path, in the strict form.
pub fn cidr(text: &str, path: &Path, causes: &mut Causes) {
    match text.parse::<ipnet::IpNet>() {
        Ok(block) if block.addr() != block.network() => causes.bad(path, text, "must not have bits set beyond the prefix length"),
        Ok(_) => {}
        Err(_) if text.contains('/') && without_leading_zeros(text).parse::<ipnet::IpNet>().is_ok() => {
            causes.bad(path, text, "must not have leading 0s in IP or prefix length");
        }
        Err(_) => causes.bad(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
    }
}

/// A block of addresses at a path; bits behind the prefix do no harm.
pub fn cidr_relaxed(text: &str, path: &Path, causes: &mut Causes) {
    if text.parse::<ipnet::IpNet>().is_err() {
        causes.bad(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

fn without_leading_zeros(text: &str) -> String {
    let part = |part: &str| match part.trim_start_matches('0') {
        "" => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let address: Vec<String> = address.split('.').map(part).collect();
    format!("{}/{}", address.join("."), part(prefix))
}

/// A quantity that must not be negative; the value is shown as text.
pub fn quantity_non_negative(quantity: Quantity, path: &Path, causes: &mut Causes) {
    if quantity.is_negative() {
        causes.bad(path, quantity.to_string(), "must be greater than or equal to 0");
    }
}

/// A `LabelSelector`.
pub fn label_selector(selector: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    object_meta::validate_labels(selector.map("matchLabels"), &path.field("matchLabels"), causes);
    let expressions = path.field("matchExpressions");
    for (index, expression) in selector.maps("matchExpressions").enumerate() {
        let at = expressions.index(index);
        let count = expression.list("values").len();
        match expression.text("operator") {
            "In" | "NotIn" if count == 0 => causes.needed(&at.field("values"), "must be specified when `operator` is 'In' or 'NotIn'"),
            "Exists" | "DoesNotExist" if count > 0 => {
                causes.refused(&at.field("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.bad(&at.field("operator"), other, "not a valid selector operator"),
        }
        let key = expression.text("key");
        causes.each(&at.field("key"), key, names::qualified_name_errors(key));
        let values = at.field("values");
        for (index, value) in expression.texts("values").enumerate() {
            causes.each(&values.index(index), value, names::label_value_errors(value));
        }
    }
}

/// Whether a `LabelSelector` has no requirement at all.
pub fn selector_is_empty(selector: &Map<String, Value>) -> bool {
    selector.map("matchLabels").is_empty() && selector.list("matchExpressions").is_empty()
}

/// Enumerations and required texts from the schema table, for types that need no more than that.
pub fn by_table(map: &Map<String, Value>, schema: &crate::schema::Type, path: &Path, causes: &mut Causes) {
    use crate::schema::{Form, Scalar, Shape};
    if schema.form != Form::Struct {
        return;
    }
    for field in &schema.fields {
        let at = path.field(&field.name);
        match (&field.shape, map.some(&field.name)) {
            (Shape::Scalar(Scalar::String), value) => {
                let text = value.and_then(Value::as_str).unwrap_or("");
                if text.is_empty() && field.required && !field.omit_empty {
                    causes.needed(&at, "");
                } else if !text.is_empty() && !field.enumeration.is_empty() && !field.enumeration.iter().any(|one| &**one == text) {
                    let supported: Vec<&str> = field.enumeration.iter().map(|one| &**one).collect();
                    causes.unsupported(&at, text, &supported);
                }
            }
            (Shape::Ref(inner), Some(Value::Object(child))) => by_table(child, inner, &at, causes),
            (Shape::List(inner), Some(Value::Array(items))) => {
                if let Shape::Ref(inner) = &**inner {
                    for (index, item) in items.iter().enumerate() {
                        by_table(crate::read::as_map(item), inner, &at.index(index), causes);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The spec of an object against the schema table alone.
pub fn spec_by_table(object: &crate::Object, type_name: &str, path: &Path, causes: &mut Causes) {
    let schema = crate::schema::builtin(type_name).expect("kinds name types of the table");
    by_table(object.map("spec"), &schema, path, causes);
}
