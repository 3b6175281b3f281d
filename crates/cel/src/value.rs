//! Values while an expression is evaluated. What comes from JSON is borrowed and looked at in place.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use api::Quantity;
use serde_json::Value as Json;

use crate::Failure;
use crate::parse::RESERVED;

/// A value.
#[derive(Clone)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `uint`
    Uint(u64),
    /// `double`
    Double(f64),
    /// `string`
    String(Cow<'a, str>),
    /// `bytes`
    Bytes(Arc<[u8]>),
    /// `list`
    List(List<'a>),
    /// `map`
    Map(Map<'a>),
    /// `google.protobuf.Timestamp`
    Timestamp(jiff::Timestamp),
    /// `google.protobuf.Duration` in nanoseconds
    Duration(i64),
    /// A type itself
    Type(Cow<'static, str>),
    /// `optional_type`
    Optional(Option<Box<Value<'a>>>),
    /// `kubernetes.Quantity`
    Quantity(Quantity),
    /// `net.IP`
    Ip(IpAddr),
    /// `net.CIDR`: address and length of the prefix
    Cidr(IpAddr, u8),
    /// `kubernetes.URL`
    Url(Arc<crate::functions::Url>),
    /// `kubernetes.Semver`
    Semver(Arc<crate::functions::Semver>),
    /// `kubernetes.NamedFormat`
    Format(&'static str),
    /// `Object{...}`, `JSONPatch{...}`: the name of the type and the fields
    Message(Arc<str>, Arc<Vec<(String, Value<'a>)>>),
    /// Something that the caller provides, such as the authorizer
    Host(Arc<dyn Host<'a> + 'a>),
}

/// An object of the caller: fields that are computed when asked for, and methods.
pub trait Host<'a>: Send + Sync {
    /// Name of its type.
    fn type_name(&self) -> &'static str;

    /// A field; `None` when there is no such field.
    fn field(&self, name: &str) -> Option<Result<Value<'a>, Failure>>;

    /// A method; `None` when there is no such method with so many arguments.
    fn call(&self, method: &str, args: &[Value<'a>]) -> Option<Result<Value<'a>, Failure>>;
}

/// A raw schema of a custom resource, by which text becomes times and the like.
pub type Schema<'a> = Option<&'a Json>;

/// A list, in JSON or made while evaluating.
#[derive(Clone)]
pub enum List<'a> {
    /// Borrowed, with the schema of the items where one is known.
    Json(&'a [Json], Schema<'a>),
    /// Made.
    Own(Arc<Vec<Value<'a>>>),
}

/// A map, in JSON or made while evaluating.
#[derive(Clone)]
pub enum Map<'a> {
    /// Borrowed, with the schema of the map where one is known; the keys are text.
    Json(&'a serde_json::Map<String, Json>, Schema<'a>),
    /// Made; in the order of making.
    Own(Arc<Vec<(Value<'a>, Value<'a>)>>),
}

impl<'a> List<'a> {
    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Own(items) => items.len(),
        }
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, schema) => items.get(index).map(|item| Value::typed(item, child(*schema, "items"))),
            List::Own(items) => items.get(index).cloned(),
        }
    }

    /// All items.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> Map<'a> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Own(entries) => entries.len(),
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'a>) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Json(..), Value::String(key)) => self.field(key),
            (Map::Json(..), _) => None,
            (Map::Own(entries), key) => entries.iter().find(|(other, _)| other.equals(key)).map(|(_, value)| value.clone()),
        }
    }

    /// The value of a text.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(map, schema) => match map.get(name) {
                Some(value) => Some(Value::typed(value, property(*schema, name))),
                None if name.contains("__") => {
                    let name = unescape(name);
                    map.get(&name).map(|value| Value::typed(value, property(*schema, &name)))
                }
                None => None,
            },
            Map::Own(entries) => {
                entries.iter().find(|(key, _)| matches!(key, Value::String(key) if key == name)).map(|(_, value)| value.clone())
            }
        }
    }

    /// All keys with their values.
    pub fn entries(&self) -> Vec<(Value<'a>, Value<'a>)> {
        match self {
            Map::Json(map, schema) => {
                let typed = |key, value| Value::typed(value, property(*schema, key));
                map.iter().map(|(key, value)| (Value::String(Cow::Borrowed(key)), typed(key, value))).collect()
            }
            Map::Own(entries) => entries.to_vec(),
        }
    }
}

impl<'a> Value<'a> {
    /// A JSON value in place.
    pub fn from_json(json: &'a Json) -> Value<'a> {
        Value::typed(json, None)
    }

    /// A JSON value in place, read by a schema.
    pub fn typed(json: &'a Json, schema: Schema<'a>) -> Value<'a> {
        if let Some(schema) = schema
            && let Some(value) = by_format(json, schema)
        {
            return value;
        }
        match json {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Value::Int(integer),
                (None, Some(double)) => Value::Double(double),
                _ => Value::Null,
            },
            Json::String(text) => Value::String(Cow::Borrowed(text)),
            Json::Array(items) => Value::List(List::Json(items, schema)),
            Json::Object(map) => Value::Map(Map::Json(map, schema)),
        }
    }

    /// Text.
    pub fn text(text: impl Into<String>) -> Value<'a> {
        Value::String(Cow::Owned(text.into()))
    }

    /// A list.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Own(Arc::new(items)))
    }

    /// A map.
    pub fn map(entries: Vec<(Value<'a>, Value<'a>)>) -> Value<'a> {
        Value::Map(Map::Own(Arc::new(entries)))
    }

    /// JSON again; `None` for what has no JSON form.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Int(integer) => (*integer).into(),
            Value::Uint(integer) => (*integer).into(),
            Value::Double(double) => Json::from(*double),
            Value::String(text) => Json::from(&**text),
            Value::Bytes(bytes) => {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD.encode(bytes).into()
            }
            Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|item| item.to_json()).collect::<Option<_>>()?),
            Value::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Value::Map(Map::Own(entries)) => {
                let pairs = entries.iter().map(|(key, value)| match key {
                    Value::String(key) => Some((key.to_string(), value.to_json()?)),
                    _ => None,
                });
                Json::Object(pairs.collect::<Option<_>>()?)
            }
            Value::Message(_, fields) => {
                Json::Object(fields.iter().map(|(name, value)| Some((name.clone(), value.to_json()?))).collect::<Option<_>>()?)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Optional(None) => Json::Null,
            Value::Timestamp(_) | Value::Duration(_) | Value::Quantity(_) | Value::Ip(_) | Value::Cidr(..) => self.to_text()?.into(),
            Value::Type(_) | Value::Url(_) | Value::Semver(_) | Value::Format(_) | Value::Host(_) => return None,
        })
    }

    /// What `string()` makes of it.
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            Value::String(text) => text.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Int(integer) => integer.to_string(),
            Value::Uint(integer) => integer.to_string(),
            Value::Double(double) => crate::functions::double_text(*double),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
            Value::Timestamp(time) => time.to_string(),
            Value::Duration(nanos) => crate::functions::duration_text(*nanos),
            Value::Quantity(quantity) => quantity.to_string(),
            Value::Ip(ip) => ip.to_string(),
            Value::Cidr(ip, length) => format!("{ip}/{length}"),
            Value::Url(url) => url.text.clone(),
            Value::Type(name) => name.to_string(),
            _ => return None,
        })
    }

    /// Name of the type.
    pub fn type_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Ip(_) => "net.IP",
            Value::Cidr(..) => "net.CIDR",
            Value::Url(_) => "kubernetes.URL",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Message(name, _) => return Cow::Owned(name.to_string()),
            Value::Host(host) => host.type_name(),
        })
    }

    /// Whether two values are equal; values of different kinds are not, numbers compare by amount.
    pub fn equals(&self, other: &Value<'a>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Quantity(a), Value::Quantity(b)) => a == b,
            (Value::Ip(a), Value::Ip(b)) => a == b,
            (Value::Cidr(a, n), Value::Cidr(b, m)) => a == b && n == m,
            (Value::Url(a), Value::Url(b)) => a.text == b.text,
            (Value::Semver(a), Value::Semver(b)) => a == b,
            (Value::Format(a), Value::Format(b)) => a == b,
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Value::List(List::Json(a, None)), Value::List(List::Json(b, None))) => json_equal(a, b),
            // Sets and lists with keys are equal in any order.
            (Value::List(a @ List::Json(_, Some(schema))), Value::List(b))
                if schema.get("x-kubernetes-list-type").is_some_and(|kind| kind != "atomic") =>
            {
                a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| a.equals(&b)))
            }
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(&b)),
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len() && a.entries().iter().all(|(key, value)| b.get(key).is_some_and(|other| value.equals(&other)))
            }
            (Value::Message(name, a), Value::Message(other, b)) => {
                name == other
                    && a.len() == b.len()
                    && a.iter().all(|(field, value)| b.iter().any(|(other, found)| field == other && value.equals(found)))
            }
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values; `None` where they have none.
    pub fn compare(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            _ => self.compare_numbers(other),
        }
    }

    fn compare_numbers(&self, other: &Value<'a>) -> Option<Ordering> {
        let exact = |value: &Value| match value {
            Value::Int(integer) => Some(i128::from(*integer)),
            Value::Uint(integer) => Some(i128::from(*integer)),
            _ => None,
        };
        match (self, other) {
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Double(a), b) => compare_mixed(*a, exact(b)?),
            (a, Value::Double(b)) => compare_mixed(*b, exact(a)?).map(Ordering::reverse),
            (a, b) => Some(exact(a)?.cmp(&exact(b)?)),
        }
    }
}

/// A double with an integer, exactly.
fn compare_mixed(double: f64, integer: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    const LIMIT: f64 = 1.0e30;
    if double.abs() > LIMIT {
        return Some(if double > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let whole = double.trunc();
    Some((whole as i128).cmp(&integer).then_with(|| (double - whole).partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
}

fn json_equal(a: &[Json], b: &[Json]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || Value::from_json(a).equals(&Value::from_json(b)))
}

fn child<'a>(schema: Schema<'a>, name: &str) -> Schema<'a> {
    schema?.get(name)
}

/// The schema of a property, listed or additional.
fn property<'a>(schema: Schema<'a>, name: &str) -> Schema<'a> {
    let schema = schema?;
    let listed = schema.get("properties").and_then(|properties| properties.get(name));
    listed.or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}

/// What a format makes of text, and doubles of whole numbers.
fn by_format<'a>(json: &'a Json, schema: &'a Json) -> Option<Value<'a>> {
    let is = |field: &str, text: &str| schema.get(field).is_some_and(|value| value == text);
    match json {
        Json::String(text) if is("format", "date-time") => text.parse().ok().map(Value::Timestamp),
        Json::String(text) if is("format", "date") => format!("{text}T00:00:00Z").parse().ok().map(Value::Timestamp),
        Json::String(text) if is("format", "duration") => crate::functions::duration(text).ok().map(Value::Duration),
        Json::String(text) if is("format", "byte") => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into()))
        }
        Json::Number(number) if is("type", "number") => number.as_f64().map(Value::Double),
        _ => None,
    }
}

/// Whether a property of this name has to be written between `__`, since no identifier can be called so.
pub(crate) fn is_keyword(word: &str) -> bool {
    matches!(word, "true" | "false" | "null" | "in") || RESERVED.contains(&word)
}

/// A property name that had to be written as an identifier: `__dash__` is `-`.
fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"))
        && is_keyword(word)
    {
        return word.to_owned();
    }
    let name = name.replace("__dot__", ".").replace("__dash__", "-").replace("__slash__", "/");
    name.replace("__underscores__", "__")
}
