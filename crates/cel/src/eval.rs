//! Evaluation: a walk over the tree that counts what it does and stops when it is too much.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use crate::ast::{Binary, Expr, Literal, Macro, Node, Unary};
use crate::functions;
use crate::value::{List, Map, Value};

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It failed, for example `no such key: foo`.
    #[error("{0}")]
    Error(String),
    /// It took more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooExpensive,
}

impl Failure {
    /// A failure with a message.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure::Error(text.into())
    }
}

/// What evaluation may still cost. One budget may be shared by several expressions.
#[derive(Debug)]
pub struct Budget(Cell<u64>);

impl Budget {
    /// What the real server allows for one expression.
    pub const PER_CALL: u64 = 1_000_000;

    /// A budget of so many steps.
    pub fn new(steps: u64) -> Budget {
        Budget(Cell::new(steps))
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.0.get()
    }

    /// Takes steps.
    pub fn spend(&self, steps: u64) -> Result<(), Failure> {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or(0));
        left.map(drop).ok_or(Failure::TooExpensive)
    }

    /// Takes what it costs to look through so many bytes.
    pub fn scan(&self, bytes: usize) -> Result<(), Failure> {
        self.spend(1 + bytes as u64 / 10)
    }
}

/// The names that an expression may use.
pub trait Scope<'a> {
    /// The value of a name.
    fn get(&self, name: &str) -> Option<Result<Value<'a>, Failure>>;
}

/// Names with their values.
pub struct Names<'n, 'a>(pub Vec<(&'n str, Value<'a>)>);

impl<'a> Scope<'a> for Names<'_, 'a> {
    fn get(&self, name: &str) -> Option<Result<Value<'a>, Failure>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| Ok(value.clone()))
    }
}

/// The variable of a macro, before what is around it.
struct Inner<'s, 'a> {
    outer: &'s dyn Scope<'a>,
    first: (&'s str, Value<'a>),
    second: Option<(&'s str, Value<'a>)>,
}

impl<'a> Scope<'a> for Inner<'_, 'a> {
    fn get(&self, name: &str) -> Option<Result<Value<'a>, Failure>> {
        if self.first.0 == name {
            return Some(Ok(self.first.1.clone()));
        }
        match &self.second {
            Some((known, value)) if *known == name => Some(Ok(value.clone())),
            _ => self.outer.get(name),
        }
    }
}

type Evaluated<'a> = Result<Value<'a>, Failure>;

/// Evaluates an expression.
pub fn evaluate<'a>(expr: &Expr, scope: &dyn Scope<'a>, budget: &Budget) -> Evaluated<'a> {
    eval(expr, scope, budget)
}

fn eval<'a>(expr: &Expr, scope: &dyn Scope<'a>, budget: &Budget) -> Evaluated<'a> {
    match &expr.node {
        Node::Literal(literal) => Ok(match literal {
            Literal::Null => Value::Null,
            Literal::Bool(flag) => Value::Bool(*flag),
            Literal::Int(integer) => Value::Int(*integer),
            Literal::Uint(integer) => Value::Uint(*integer),
            Literal::Double(double) => Value::Double(*double),
            Literal::String(text) => Value::text(text.as_str()),
            Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
        }),
        Node::Name(name) => {
            budget.spend(1)?;
            name_value(name, scope)
        }
        Node::Select { .. } => select_chain(expr, scope, budget),
        Node::Index { operand, index, optional } => {
            budget.spend(1)?;
            let operand = eval(operand, scope, budget)?;
            let index = eval(index, scope, budget)?;
            index_value(operand, &index, *optional)
        }
        Node::Has { operand, field } => {
            let operand = eval(operand, scope, budget)?;
            Ok(Value::Bool(match operand {
                Value::Map(map) => map.field(field).is_some(),
                Value::Message(_, fields) => fields.iter().any(|(name, _)| name == field),
                Value::Optional(Some(inner)) => matches!(*inner, Value::Map(map) if map.field(field).is_some()),
                Value::Optional(None) => false,
                Value::Host(host) => host.field(field).is_some(),
                other => return Err(Failure::new(format!("invalid type for field selection: {}", other.type_name()))),
            }))
        }
        Node::Call { target, function, args } => call(target.as_deref(), function, args, scope, budget),
        Node::Unary(operator, operand) => {
            budget.spend(1)?;
            match (operator, eval(operand, scope, budget)?) {
                (Unary::Not, Value::Bool(flag)) => Ok(Value::Bool(!flag)),
                (Unary::Negate, Value::Int(integer)) => integer.checked_neg().map(Value::Int).ok_or_else(overflow),
                (Unary::Negate, Value::Double(double)) => Ok(Value::Double(-double)),
                (Unary::Negate, Value::Duration(nanos)) => nanos.checked_neg().map(Value::Duration).ok_or_else(overflow),
                _ => Err(no_overload()),
            }
        }
        Node::Binary(operator, left, right) => {
            budget.spend(1)?;
            let left = eval(left, scope, budget)?;
            let right = eval(right, scope, budget)?;
            binary(*operator, left, right, budget)
        }
        Node::And(all) => logic(all, false, scope, budget),
        Node::Or(all) => logic(all, true, scope, budget),
        Node::Conditional(test, yes, no) => match eval(test, scope, budget)? {
            Value::Bool(true) => eval(yes, scope, budget),
            Value::Bool(false) => eval(no, scope, budget),
            _ => Err(no_overload()),
        },
        Node::List(items) => {
            budget.spend(10)?;
            let mut made = Vec::with_capacity(items.len());
            for item in items {
                let value = eval(&item.value, scope, budget)?;
                made.extend(unwrap_optional(value, item.optional)?);
            }
            Ok(Value::list(made))
        }
        Node::Map(pairs) => {
            budget.spend(30)?;
            let mut made: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
            for pair in pairs {
                let key = eval(&pair.key, scope, budget)?;
                if made.iter().any(|(other, _)| other.equals(&key)) {
                    return Err(Failure::new(format!("Failed with repeated key: {}", key.to_text().unwrap_or_default())));
                }
                let value = eval(&pair.value, scope, budget)?;
                made.extend(unwrap_optional(value, pair.optional)?.map(|value| (key, value)));
            }
            Ok(Value::map(made))
        }
        Node::Message { name, fields } => {
            budget.spend(40)?;
            let mut made = Vec::with_capacity(fields.len());
            for field in fields {
                let value = eval(&field.value, scope, budget)?;
                made.extend(unwrap_optional(value, field.optional)?.map(|value| (field.name.clone(), value)));
            }
            Ok(Value::Message(name.as_str().into(), Arc::new(made)))
        }
        Node::Macro { kind, range, first, second, args } => over(*kind, range, first, second.as_deref(), args, scope, budget),
    }
}

fn name_value<'a>(name: &str, scope: &dyn Scope<'a>) -> Evaluated<'a> {
    let name = name.trim_start_matches('.');
    if let Some(value) = scope.get(name) {
        return value;
    }
    functions::type_named(name).map(Value::Type).ok_or_else(|| Failure::new(format!("no such attribute(s): {name}")))
}

/// `a.b.c`: the whole may be a name with dots, such as a type, if `a` is no name in the scope.
fn select_chain<'a>(expr: &Expr, scope: &dyn Scope<'a>, budget: &Budget) -> Evaluated<'a> {
    let Node::Select { operand, field, optional } = &expr.node else { return eval(expr, scope, budget) };
    budget.spend(1)?;
    if let Some(path) = dotted(expr)
        && let Some((first, _)) = path.split_once('.')
        && scope.get(first).is_none()
        && let Some(name) = functions::type_named(&path)
    {
        return Ok(Value::Type(name));
    }
    let operand = eval(operand, scope, budget)?;
    select(operand, field, *optional)
}

fn dotted(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Name(name) => Some(name.trim_start_matches('.').to_owned()),
        Node::Select { operand, field, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

fn select<'a>(operand: Value<'a>, field: &str, optional: bool) -> Evaluated<'a> {
    let found = match operand {
        Value::Map(map) => map.field(field),
        Value::Message(_, fields) => fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.clone()),
        Value::Host(host) => match host.field(field) {
            Some(value) => Some(value?),
            None => return Err(Failure::new(format!("no such field '{field}'"))),
        },
        // Below an optional everything is optional.
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => return select(*inner, field, true),
        other => return Err(Failure::new(format!("no such overload: {}.{field}", other.type_name()))),
    };
    match (found, optional) {
        (Some(value), false) => Ok(value),
        (Some(value), true) => Ok(Value::Optional(Some(value.into()))),
        (None, true) => Ok(Value::Optional(None)),
        (None, false) => Err(Failure::new(format!("no such key: {field}"))),
    }
}

fn index_value<'a>(operand: Value<'a>, index: &Value<'a>, optional: bool) -> Evaluated<'a> {
    let found = match operand {
        Value::List(list) => {
            let place = match index {
                Value::Int(place) => usize::try_from(*place).ok(),
                Value::Uint(place) => usize::try_from(*place).ok(),
                Value::Double(place) if place.fract() == 0.0 && *place >= 0.0 => Some(*place as usize),
                Value::Double(_) => None,
                _ => return Err(no_overload()),
            };
            match place.and_then(|place| list.get(place)) {
                None if !optional => return Err(Failure::new(format!("index out of bounds: {}", index.to_text().unwrap_or_default()))),
                found => found,
            }
        }
        Value::Map(map) => match map.get(index) {
            None if !optional => return Err(Failure::new(format!("no such key: {}", index.to_text().unwrap_or_default()))),
            found => found,
        },
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => return index_value(*inner, index, true),
        _ => return Err(no_overload()),
    };
    Ok(match (found, optional) {
        (Some(value), false) => value,
        (found, _) => Value::Optional(found.map(Box::new)),
    })
}

/// `&&` and `||`: one decisive operand outweighs failures of the others.
fn logic<'a>(all: &[Expr], decisive: bool, scope: &dyn Scope<'a>, budget: &Budget) -> Evaluated<'a> {
    let mut failure = None;
    for expr in all {
        match eval(expr, scope, budget) {
            Ok(Value::Bool(flag)) if flag == decisive => return Ok(Value::Bool(decisive)),
            Ok(Value::Bool(_)) => {}
            Ok(_) => failure = failure.or(Some(no_overload())),
            Err(Failure::TooExpensive) => return Err(Failure::TooExpensive),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(Value::Bool(!decisive)),
    }
}

fn unwrap_optional(value: Value<'_>, optional: bool) -> Result<Option<Value<'_>>, Failure> {
    match (optional, value) {
        (false, value) => Ok(Some(value)),
        (true, Value::Optional(value)) => Ok(value.map(|value| *value)),
        (true, _) => Err(no_overload()),
    }
}

pub(crate) fn no_overload() -> Failure {
    Failure::new("no such overload")
}

pub(crate) fn overflow() -> Failure {
    Failure::new("integer overflow")
}

fn binary<'a>(operator: Binary, left: Value<'a>, right: Value<'a>, budget: &Budget) -> Evaluated<'a> {
    match operator {
        Binary::Equal | Binary::NotEqual => {
            budget.scan(functions::weight(&left).min(functions::weight(&right)))?;
            Ok(Value::Bool(left.equals(&right) == (operator == Binary::Equal)))
        }
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            budget.scan(functions::weight(&left).min(functions::weight(&right)))?;
            let nan = |value: &Value| matches!(value, Value::Double(double) if double.is_nan());
            if nan(&left) || nan(&right) {
                return Ok(Value::Bool(false));
            }
            let order = left.compare(&right).ok_or_else(no_overload)?;
            Ok(Value::Bool(match operator {
                Binary::Less => order.is_lt(),
                Binary::LessEqual => order.is_le(),
                Binary::Greater => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        Binary::In => match right {
            Value::List(list) => {
                budget.spend(list.len() as u64)?;
                let found = list.iter().any(|item| item.equals(&left));
                Ok(Value::Bool(found))
            }
            Value::Map(map) => Ok(Value::Bool(map.get(&left).is_some())),
            _ => Err(no_overload()),
        },
        Binary::Add => add(left, right, budget),
        operator => arithmetic(operator, left, right),
    }
}

fn add<'a>(left: Value<'a>, right: Value<'a>, budget: &Budget) -> Evaluated<'a> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => {
            budget.scan(left.len() + right.len())?;
            Ok(Value::String(Cow::Owned(left.into_owned() + &right)))
        }
        (Value::Bytes(left), Value::Bytes(right)) => {
            budget.scan(left.len() + right.len())?;
            Ok(Value::Bytes([&left[..], &right[..]].concat().into()))
        }
        (Value::List(left), Value::List(right)) => {
            budget.spend((left.len() + right.len()) as u64 / 10)?;
            Ok(Value::list(left.iter().chain(right.iter()).collect()))
        }
        (Value::Timestamp(time), Value::Duration(nanos)) | (Value::Duration(nanos), Value::Timestamp(time)) => {
            time.checked_add(jiff::SignedDuration::from_nanos(nanos)).map(Value::Timestamp).map_err(|_| Failure::new("timestamp overflow"))
        }
        (Value::Duration(left), Value::Duration(right)) => left.checked_add(right).map(Value::Duration).ok_or_else(overflow),
        (left, right) => arithmetic(Binary::Add, left, right),
    }
}

fn arithmetic<'a>(operator: Binary, left: Value<'a>, right: Value<'a>) -> Evaluated<'a> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            if right == 0 && matches!(operator, Binary::Divide | Binary::Modulo) {
                return Err(by_zero(operator));
            }
            let result = match operator {
                Binary::Add => left.checked_add(right),
                Binary::Subtract => left.checked_sub(right),
                Binary::Multiply => left.checked_mul(right),
                Binary::Divide => left.checked_div(right),
                _ => left.checked_rem(right),
            };
            result.map(Value::Int).ok_or_else(overflow)
        }
        (Value::Uint(left), Value::Uint(right)) => {
            if right == 0 && matches!(operator, Binary::Divide | Binary::Modulo) {
                return Err(by_zero(operator));
            }
            let result = match operator {
                Binary::Add => left.checked_add(right),
                Binary::Subtract => left.checked_sub(right),
                Binary::Multiply => left.checked_mul(right),
                Binary::Divide => left.checked_div(right),
                _ => left.checked_rem(right),
            };
            result.map(Value::Uint).ok_or_else(|| Failure::new("unsigned integer overflow"))
        }
        (Value::Double(left), Value::Double(right)) => Ok(Value::Double(match operator {
            Binary::Add => left + right,
            Binary::Subtract => left - right,
            Binary::Multiply => left * right,
            Binary::Divide => left / right,
            _ => return Err(no_overload()),
        })),
        (Value::Timestamp(left), Value::Timestamp(right)) if operator == Binary::Subtract => {
            i64::try_from(left.duration_since(right).as_nanos()).map(Value::Duration).map_err(|_| overflow())
        }
        (Value::Timestamp(time), Value::Duration(nanos)) if operator == Binary::Subtract => {
            time.checked_sub(jiff::SignedDuration::from_nanos(nanos)).map(Value::Timestamp).map_err(|_| Failure::new("timestamp overflow"))
        }
        (Value::Duration(left), Value::Duration(right)) if operator == Binary::Subtract => {
            left.checked_sub(right).map(Value::Duration).ok_or_else(overflow)
        }
        _ => Err(no_overload()),
    }
}

fn by_zero(operator: Binary) -> Failure {
    Failure::new(if operator == Binary::Divide { "division by zero" } else { "modulus by zero" })
}

fn call<'a>(target: Option<&Expr>, function: &str, args: &[Expr], scope: &dyn Scope<'a>, budget: &Budget) -> Evaluated<'a> {
    budget.spend(1)?;
    if let Some(target) = target {
        // A function with a dotted name, such as `sets.contains`.
        if let Some(prefix) = dotted(target)
            && functions::is_prefix(&prefix)
            && scope.get(&prefix).is_none()
        {
            let args = all(args, scope, budget)?;
            return functions::global(&format!("{prefix}.{function}"), &args, budget);
        }
        let target = eval(target, scope, budget)?;
        if let Some(done) = lazy(&target, function, args, scope, budget) {
            return done;
        }
        let args = all(args, scope, budget)?;
        if let Value::Host(host) = &target {
            return host.call(function, &args).unwrap_or_else(|| Err(no_overload()));
        }
        return functions::method(&target, function, &args, budget);
    }
    let args = all(args, scope, budget)?;
    functions::global(function.trim_start_matches('.'), &args, budget)
}

/// Methods of optionals whose argument is only evaluated when it is needed.
fn lazy<'a>(target: &Value<'a>, function: &str, args: &[Expr], scope: &dyn Scope<'a>, budget: &Budget) -> Option<Evaluated<'a>> {
    let Value::Optional(inner) = target else { return None };
    let [arg] = args else { return None };
    match (function, inner) {
        ("orValue", Some(value)) => Some(Ok((**value).clone())),
        ("or", Some(_)) => Some(Ok(target.clone())),
        ("orValue" | "or", None) => Some(eval(arg, scope, budget)),
        _ => None,
    }
}

fn all<'a>(args: &[Expr], scope: &dyn Scope<'a>, budget: &Budget) -> Result<Vec<Value<'a>>, Failure> {
    args.iter().map(|arg| eval(arg, scope, budget)).collect()
}

/// The macros over lists and maps. With one variable it is the item or key; with two, index and item or key and value.
fn over<'a>(
    kind: Macro,
    range: &Expr,
    first: &str,
    second: Option<&str>,
    args: &[Expr],
    scope: &dyn Scope<'a>,
    budget: &Budget,
) -> Evaluated<'a> {
    let range = eval(range, scope, budget)?;
    if matches!(kind, Macro::OptMap | Macro::OptFlatMap) {
        let Value::Optional(inner) = range else { return Err(no_overload()) };
        let Some(inner) = inner else { return Ok(Value::Optional(None)) };
        let value = eval(&args[0], &Inner { outer: scope, first: (first, *inner), second: None }, budget)?;
        return Ok(if kind == Macro::OptMap { Value::Optional(Some(value.into())) } else { value });
    }
    let items: Vec<(Value, Option<Value>)> = match (&range, second) {
        (Value::List(list), None) => list.iter().map(|item| (item, None)).collect(),
        (Value::List(list), Some(_)) => list.iter().enumerate().map(|(index, item)| (Value::Int(index as i64), Some(item))).collect(),
        (Value::Map(map), None) => map.entries().into_iter().map(|(key, _)| (key, None)).collect(),
        (Value::Map(map), Some(_)) => map.entries().into_iter().map(|(key, value)| (key, Some(value))).collect(),
        _ => return Err(no_overload()),
    };
    let mut run = Run { kind, found: 0, failure: None, items: Vec::new(), entries: Vec::new() };
    for (item, value) in items {
        budget.spend(1)?;
        let kept = item.clone();
        let inner = Inner { outer: scope, first: (first, item), second: second.zip(value) };
        if run.step(kept, args, &inner, budget)? {
            break;
        }
    }
    run.finish()
}

/// What a macro has gathered so far.
struct Run<'a> {
    kind: Macro,
    found: usize,
    failure: Option<Failure>,
    items: Vec<Value<'a>>,
    entries: Vec<(Value<'a>, Value<'a>)>,
}

impl<'a> Run<'a> {
    /// One round; true when the result is certain.
    fn step(&mut self, item: Value<'a>, args: &[Expr], scope: &Inner<'_, 'a>, budget: &Budget) -> Result<bool, Failure> {
        let is_true = |expr: &Expr| match eval(expr, scope, budget)? {
            Value::Bool(flag) => Ok(flag),
            _ => Err(no_overload()),
        };
        match self.kind {
            Macro::All | Macro::Exists => match is_true(&args[0]) {
                Ok(flag) if flag == (self.kind == Macro::Exists) => {
                    self.found = 1;
                    return Ok(true);
                }
                Ok(_) => {}
                Err(Failure::TooExpensive) => return Err(Failure::TooExpensive),
                Err(error) => self.failure = self.failure.take().or(Some(error)),
            },
            Macro::ExistsOne => self.found += usize::from(is_true(&args[0])?),
            Macro::Filter => {
                if is_true(&args[0])? {
                    self.items.push(item);
                }
            }
            Macro::Map | Macro::TransformList => {
                if args.len() == 1 || is_true(&args[0])? {
                    self.items.push(eval(&args[args.len() - 1], scope, budget)?);
                }
            }
            Macro::SortBy => {
                let key = eval(&args[0], scope, budget)?;
                budget.spend(4)?;
                self.entries.push((key, item));
            }
            Macro::TransformMap => {
                if args.len() == 1 || is_true(&args[0])? {
                    let value = eval(&args[args.len() - 1], scope, budget)?;
                    self.entries.push((item, value));
                }
            }
            Macro::TransformMapEntry => {
                if args.len() == 1 || is_true(&args[0])? {
                    let Value::Map(map) = eval(&args[args.len() - 1], scope, budget)? else { return Err(no_overload()) };
                    for (key, value) in map.entries() {
                        if self.entries.iter().any(|(other, _)| other.equals(&key)) {
                            return Err(Failure::new(format!("insert failed: key {} already exists", key.to_text().unwrap_or_default())));
                        }
                        budget.spend(1 + self.entries.len() as u64 / 10)?;
                        self.entries.push((key, value));
                    }
                }
            }
            Macro::OptMap | Macro::OptFlatMap => return Err(no_overload()),
        }
        Ok(false)
    }

    fn finish(self) -> Evaluated<'a> {
        Ok(match self.kind {
            Macro::All | Macro::Exists if self.found == 1 => Value::Bool(self.kind == Macro::Exists),
            Macro::All | Macro::Exists => match self.failure {
                Some(failure) => return Err(failure),
                None => Value::Bool(self.kind == Macro::All),
            },
            Macro::ExistsOne => Value::Bool(self.found == 1),
            Macro::SortBy => sorted(self.entries)?,
            Macro::TransformMap | Macro::TransformMapEntry => Value::Map(Map::Own(Arc::new(self.entries))),
            _ => Value::List(List::Own(Arc::new(self.items))),
        })
    }
}

/// The values in the order of their keys.
fn sorted<'a>(mut entries: Vec<(Value<'a>, Value<'a>)>) -> Result<Value<'a>, Failure> {
    let mut wrong = false;
    entries.sort_by(|(left, _), (right, _)| {
        left.compare(right).unwrap_or_else(|| {
            wrong = true;
            std::cmp::Ordering::Equal
        })
    });
    if wrong {
        return Err(no_overload());
    }
    Ok(Value::list(entries.into_iter().map(|(_, value)| value).collect()))
}

#[cfg(test)]
mod tests;
