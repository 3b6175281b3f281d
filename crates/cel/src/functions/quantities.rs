//! Quantities such as `100m` and `1.5Gi`.

use api::Quantity;
use api::quantity::Format;

use crate::Failure;
use crate::eval::Budget;
use crate::value::Value;

use super::Answer;

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    let [Value::String(text)] = args else { return None };
    if let Err(failure) = budget.scan(text.len()) {
        return Some(Err(failure));
    }
    match name {
        "quantity" => Some(
            Quantity::parse(text)
                .map(Value::Quantity)
                .ok_or_else(|| Failure::new("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")),
        ),
        "isQuantity" => Some(Ok(Value::Bool(Quantity::parse(text).is_some()))),
        _ => None,
    }
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], _: &Budget) -> Answer<'a> {
    let Value::Quantity(quantity) = target else { return None };
    let value = match (name, args) {
        ("sign", []) => Value::Int(quantity.nano().signum() as i64),
        ("isInteger", []) => Value::Bool(quantity.is_whole() && i64::try_from(quantity.nano() / NANO).is_ok()),
        ("asInteger", []) if quantity.is_whole() => match i64::try_from(quantity.nano() / NANO) {
            Ok(integer) => Value::Int(integer),
            Err(_) => return Some(Err(not_integer())),
        },
        ("asInteger", []) => return Some(Err(not_integer())),
        ("asApproximateFloat", []) => Value::Double(quantity.as_f64()),
        ("add", [other]) => Value::Quantity(quantity.add(amount(other)?)),
        ("sub", [other]) => Value::Quantity(quantity.sub(amount(other)?)),
        ("isGreaterThan", [Value::Quantity(other)]) => Value::Bool(quantity > other),
        ("isLessThan", [Value::Quantity(other)]) => Value::Bool(quantity < other),
        ("compareTo", [Value::Quantity(other)]) => Value::Int(quantity.cmp(other) as i64),
        _ => return None,
    };
    Some(Ok(value))
}

const NANO: i128 = 1_000_000_000;

fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::Quantity(quantity) => Some(*quantity),
        Value::Int(integer) => Some(Quantity::from_value(*integer, Format::DecimalSI)),
        _ => None,
    }
}

fn not_integer() -> Failure {
    Failure::new("cannot convert value to integer")
}
