//! The functions of the language and of the Kubernetes libraries.
//!
//! Each file knows some of them and answers `None` for the others, so that adding a library touches one list here.

mod conversions;
mod formats;
mod lists;
mod network;
mod quantities;
mod semver;
mod sets;
mod strings;
mod times;

use std::borrow::Cow;

use crate::Failure;
use crate::eval::{Budget, no_overload};
use crate::value::Value;

pub use network::Url;
pub use semver::Semver;

pub(crate) use conversions::double_text;
pub(crate) use times::{duration, duration_text};

/// What a function gives; `None` when the file does not know it for these arguments.
type Answer<'a> = Option<Result<Value<'a>, Failure>>;

type Global = for<'a> fn(&str, &[Value<'a>], &Budget) -> Answer<'a>;
type Method = for<'a> fn(&Value<'a>, &str, &[Value<'a>], &Budget) -> Answer<'a>;

const GLOBALS: [Global; 9] = [
    conversions::global,
    strings::global,
    lists::global,
    times::global,
    quantities::global,
    network::global,
    semver::global,
    formats::global,
    sets::global,
];
const METHODS: [Method; 8] = [
    conversions::method,
    strings::method,
    lists::method,
    times::method,
    quantities::method,
    network::method,
    semver::method,
    formats::method,
];

/// Calls a function without a target.
pub(crate) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Result<Value<'a>, Failure> {
    GLOBALS.iter().find_map(|file| file(name, args, budget)).unwrap_or_else(|| Err(no_overload()))
}

/// Calls a function on a target.
pub(crate) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], budget: &Budget) -> Result<Value<'a>, Failure> {
    METHODS.iter().find_map(|file| file(target, name, args, budget)).unwrap_or_else(|| Err(no_overload()))
}

/// Types by their names.
pub(crate) fn type_named(name: &str) -> Option<Cow<'static, str>> {
    const TYPES: [&str; 18] = [
        "bool",
        "bytes",
        "double",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "type",
        "uint",
        "optional_type",
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
        "kubernetes.Quantity",
        "kubernetes.URL",
        "kubernetes.Semver",
        "net.IP",
        "net.CIDR",
    ];
    TYPES.iter().find(|known| **known == name).map(|known| Cow::Borrowed(*known))
}

/// What stands before the dot in functions with dotted names.
pub(crate) fn is_prefix(name: &str) -> bool {
    matches!(name, "optional" | "sets" | "strings" | "lists" | "ip" | "format" | "jsonpatch")
}

/// Rough size of a value, for costs.
pub(crate) fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len() * 10,
        Value::Map(map) => map.len() * 10,
        _ => 1,
    }
}

fn text_arg<'v>(args: &'v [Value], index: usize) -> Option<&'v str> {
    match args.get(index) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn int_arg(args: &[Value], index: usize) -> Option<i64> {
    match args.get(index) {
        Some(Value::Int(integer)) => Some(*integer),
        _ => None,
    }
}
