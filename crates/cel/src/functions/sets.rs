//! Lists taken as sets.

use crate::eval::Budget;
use crate::value::{List, Value};

use super::Answer;

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    let [Value::List(left), Value::List(right)] = args else { return None };
    let contains = |set: &List<'a>, part: &List<'a>| part.iter().all(|item| set.iter().any(|other| other.equals(&item)));
    let test: &dyn Fn() -> bool = match name {
        "sets.contains" => &|| contains(left, right),
        "sets.equivalent" => &|| contains(left, right) && contains(right, left),
        "sets.intersects" => &|| right.iter().any(|item| left.iter().any(|other| other.equals(&item))),
        _ => return None,
    };
    let cost = (left.len() as u64).saturating_mul(right.len() as u64).saturating_mul(2);
    Some(budget.spend(cost).map(|()| Value::Bool(test())))
}
