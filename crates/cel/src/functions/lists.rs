//! Functions of lists.

use std::cmp::Ordering;

use crate::Failure;
use crate::eval::{Budget, no_overload, overflow};
use crate::value::{List, Value};

use super::{Answer, int_arg};

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    match (name, args) {
        ("lists.range", [Value::Int(count)]) => {
            let count = (*count).max(0);
            Some(budget.spend(count as u64).map(|()| Value::list((0..count).map(Value::Int).collect())))
        }
        _ => None,
    }
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    let Value::List(list) = target else { return None };
    if let Err(failure) = budget.spend(list.len() as u64) {
        return Some(Err(failure));
    }
    Some(match (name, args) {
        ("isSorted", []) => is_sorted(list),
        ("sum", []) => sum(list),
        ("min", []) => extreme(list, Ordering::Less, "min"),
        ("max", []) => extreme(list, Ordering::Greater, "max"),
        ("indexOf", [value]) => Ok(place(list.iter().position(|item| item.equals(value)))),
        ("lastIndexOf", [value]) => Ok(place((0..list.len()).rev().find(|index| list.get(*index).is_some_and(|item| item.equals(value))))),
        ("slice", [Value::Int(from), Value::Int(to)]) => slice(list, *from, *to),
        ("flatten", []) => flatten(list, 1, budget),
        ("flatten", [_]) => flatten(list, int_arg(args, 0)?, budget),
        ("reverse", []) => Ok(Value::list((0..list.len()).rev().filter_map(|index| list.get(index)).collect())),
        ("distinct", []) => distinct(list, budget),
        ("sort", []) => sort(list, budget),
        ("first", []) => Ok(Value::Optional(list.get(0).map(Box::new))),
        ("last", []) => Ok(Value::Optional(list.len().checked_sub(1).and_then(|last| list.get(last)).map(Box::new))),
        _ => return None,
    })
}

fn place<'a>(index: Option<usize>) -> Value<'a> {
    Value::Int(index.map_or(-1, |index| index as i64))
}

fn is_sorted<'a>(list: &List<'a>) -> Result<Value<'a>, Failure> {
    let items: Vec<Value> = list.iter().collect();
    for pair in items.windows(2) {
        if pair[0].compare(&pair[1]).ok_or_else(no_overload)?.is_gt() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(list: &List<'a>) -> Result<Value<'a>, Failure> {
    let mut total = match list.get(0) {
        None => return Ok(Value::Int(0)),
        Some(first) => first,
    };
    for item in list.iter().skip(1) {
        total = match (total, item) {
            (Value::Int(left), Value::Int(right)) => Value::Int(left.checked_add(right).ok_or_else(overflow)?),
            (Value::Uint(left), Value::Uint(right)) => Value::Uint(left.checked_add(right).ok_or_else(overflow)?),
            (Value::Double(left), Value::Double(right)) => Value::Double(left + right),
            (Value::Duration(left), Value::Duration(right)) => Value::Duration(left.checked_add(right).ok_or_else(overflow)?),
            _ => return Err(no_overload()),
        };
    }
    Ok(total)
}

fn extreme<'a>(list: &List<'a>, wanted: Ordering, name: &str) -> Result<Value<'a>, Failure> {
    let mut best = list.get(0).ok_or_else(|| Failure::new(format!("{name} called on empty list")))?;
    for item in list.iter().skip(1) {
        if item.compare(&best).ok_or_else(no_overload)? == wanted {
            best = item;
        }
    }
    Ok(best)
}

fn slice<'a>(list: &List<'a>, from: i64, to: i64) -> Result<Value<'a>, Failure> {
    let length = list.len() as i64;
    if from < 0 || to < 0 {
        return Err(Failure::new(format!("cannot slice({from}, {to}), negative indexes not supported")));
    }
    if from > to {
        return Err(Failure::new(format!("cannot slice({from}, {to}), start index must be less than or equal to end index")));
    }
    if to > length {
        return Err(Failure::new(format!("cannot slice({from}, {to}), list is length {length}")));
    }
    Ok(Value::list((from..to).filter_map(|index| list.get(index as usize)).collect()))
}

fn flatten<'a>(list: &List<'a>, depth: i64, budget: &Budget) -> Result<Value<'a>, Failure> {
    if depth < 0 {
        return Err(Failure::new("level must be non-negative"));
    }
    let mut items: Vec<Value> = list.iter().collect();
    for _ in 0..depth {
        if !items.iter().any(|item| matches!(item, Value::List(_))) {
            break;
        }
        let mut flat = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::List(inner) => {
                    budget.spend(1 + inner.len() as u64)?;
                    flat.extend(inner.iter());
                }
                item => flat.push(item),
            }
        }
        items = flat;
    }
    Ok(Value::list(items))
}

fn distinct<'a>(list: &List<'a>, budget: &Budget) -> Result<Value<'a>, Failure> {
    let mut kept: Vec<Value> = Vec::new();
    for item in list.iter() {
        budget.spend(1 + kept.len() as u64 / 10)?;
        if !kept.iter().any(|other| other.equals(&item)) {
            kept.push(item);
        }
    }
    Ok(Value::list(kept))
}

fn sort<'a>(list: &List<'a>, budget: &Budget) -> Result<Value<'a>, Failure> {
    let mut items: Vec<Value> = list.iter().collect();
    budget.spend(items.len() as u64 * 4)?;
    let mut wrong = false;
    items.sort_by(|left, right| {
        left.compare(right).unwrap_or_else(|| {
            wrong = true;
            Ordering::Equal
        })
    });
    if wrong { Err(Failure::new("list elements must have the same type")) } else { Ok(Value::list(items)) }
}
