//! Sizes, conversions between types, and optionals.

use crate::Failure;
use crate::eval::Budget;
use crate::value::{List, Value};

use super::Answer;

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    match (name, args) {
        ("size", [value]) => size(value),
        ("dyn", [value]) => Some(Ok(value.clone())),
        ("type", [value]) => Some(Ok(Value::Type(value.type_name()))),
        ("int", [value]) => int(value),
        ("uint", [value]) => uint(value),
        ("double", [value]) => double(value),
        ("bool", [Value::Bool(flag)]) => Some(Ok(Value::Bool(*flag))),
        ("bool", [Value::String(text)]) => Some(match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => Err(Failure::new(format!("type conversion error from 'string' to 'bool': {other}"))),
        }),
        ("bytes", [Value::Bytes(bytes)]) => Some(Ok(Value::Bytes(bytes.clone()))),
        ("bytes", [Value::String(text)]) => Some(budget.scan(text.len()).map(|()| Value::Bytes(text.as_bytes().into()))),
        ("string", [value]) => {
            let text = value.to_text();
            Some(match text {
                Some(text) => budget.scan(text.len()).map(|()| Value::text(text)),
                None if matches!(value, Value::Bytes(_)) => Err(Failure::new("invalid UTF-8 in bytes, cannot convert to string")),
                None => return None,
            })
        }
        ("optional.of", [value]) => Some(Ok(Value::Optional(Some(value.clone().into())))),
        ("optional.none", []) => Some(Ok(Value::Optional(None))),
        ("optional.ofNonZeroValue", [value]) => Some(Ok(Value::Optional((!is_zero(value)).then(|| value.clone().into())))),
        ("optional.unwrap" | "unwrap", [Value::List(list)]) => Some(Ok(present(list))),
        _ => None,
    }
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], _: &Budget) -> Answer<'a> {
    match (target, name, args) {
        (target, "size", []) => size(target),
        (Value::Optional(inner), "hasValue", []) => Some(Ok(Value::Bool(inner.is_some()))),
        (Value::Optional(Some(inner)), "value", []) => Some(Ok((**inner).clone())),
        (Value::Optional(None), "value", []) => Some(Err(Failure::new("optional.none() dereference"))),
        (Value::List(list), "unwrapOpt", []) => Some(Ok(present(list))),
        _ => None,
    }
}

fn present<'a>(list: &List<'a>) -> Value<'a> {
    let items = list.iter().filter_map(|item| match item {
        Value::Optional(inner) => inner.map(|inner| *inner),
        item => Some(item),
    });
    Value::list(items.collect())
}

fn size<'a>(value: &Value) -> Answer<'a> {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        _ => return None,
    };
    Some(Ok(Value::Int(size as i64)))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Int(integer) => *integer == 0,
        Value::Uint(integer) => *integer == 0,
        Value::Double(double) => *double == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Duration(nanos) => *nanos == 0,
        _ => false,
    }
}

fn int<'a>(value: &Value) -> Answer<'a> {
    let out_of_range = || Failure::new("integer overflow");
    Some(
        match value {
            Value::Int(integer) => Ok(*integer),
            Value::Uint(integer) => i64::try_from(*integer).map_err(|_| out_of_range()),
            Value::Double(double) if double.is_finite() && *double > -9.3e18 && *double < 9.223_372_036_854_775e18 => Ok(*double as i64),
            Value::Double(_) => Err(out_of_range()),
            Value::String(text) => text.parse().map_err(|_| Failure::new(format!("type conversion error from 'string' to 'int': {text}"))),
            Value::Timestamp(time) => Ok(time.as_second()),
            Value::Duration(nanos) => Ok(*nanos),
            _ => return None,
        }
        .map(Value::Int),
    )
}

fn uint<'a>(value: &Value) -> Answer<'a> {
    let out_of_range = || Failure::new("unsigned integer overflow");
    Some(
        match value {
            Value::Uint(integer) => Ok(*integer),
            Value::Int(integer) => u64::try_from(*integer).map_err(|_| out_of_range()),
            Value::Double(double) if double.is_finite() && *double >= 0.0 && *double < 1.8e19 => Ok(*double as u64),
            Value::Double(_) => Err(out_of_range()),
            Value::String(text) => text.parse().map_err(|_| Failure::new(format!("type conversion error from 'string' to 'uint': {text}"))),
            _ => return None,
        }
        .map(Value::Uint),
    )
}

fn double<'a>(value: &Value) -> Answer<'a> {
    Some(
        match value {
            Value::Double(double) => Ok(*double),
            Value::Int(integer) => Ok(*integer as f64),
            Value::Uint(integer) => Ok(*integer as f64),
            Value::String(text) => {
                text.parse().map_err(|_| Failure::new(format!("type conversion error from 'string' to 'double': {text}")))
            }
            _ => return None,
        }
        .map(Value::Double),
    )
}

/// A double as Go's shortest form writes it.
pub(crate) fn double_text(double: f64) -> String {
    if double.is_nan() {
        return "NaN".into();
    }
    if double.is_infinite() {
        return if double > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let exponent = if double == 0.0 { 0 } else { double.abs().log10().floor() as i32 };
    if (-4..21).contains(&exponent) {
        return format!("{double}");
    }
    let text = format!("{double:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}
