//! Checking before evaluation: names that nobody declared, fields that do not exist, operands that do not fit.

use crate::ast::{Binary, Expr, Literal, Macro, Node, Unary};
use crate::types::Type;
use crate::{functions, parse, signatures, source};

/// The names that an expression may use, with their types.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// Declared names.
    pub names: Vec<(String, Type)>,
}

impl Env {
    /// An environment of these names.
    pub fn new(names: Vec<(&str, Type)>) -> Env {
        Env { names: names.into_iter().map(|(name, declared)| (name.to_owned(), declared)).collect() }
    }
}

/// A checked expression.
#[derive(Debug, Clone)]
pub struct Program {
    /// The tree.
    pub expr: Expr,
    /// What it gives, as far as known.
    pub result: Type,
}

impl Program {
    /// Parses and checks; the error is the text that users see after `compilation failed: `.
    pub fn compile(text: &str, env: &Env) -> Result<Program, String> {
        let expr = parse(text)?;
        let mut checker = Checker { env, inner: Vec::new(), errors: Vec::new() };
        let result = checker.check(&expr);
        if checker.errors.is_empty() {
            return Ok(Program { expr, result });
        }
        let errors: Vec<String> = checker.errors.iter().map(|(at, what)| source::error(text, *at as usize, what)).collect();
        Err(errors.join("\n"))
    }
}

struct Checker<'e> {
    env: &'e Env,
    /// Variables of macros around the place.
    inner: Vec<(String, Type)>,
    errors: Vec<(u32, String)>,
}

impl Checker<'_> {
    fn fail(&mut self, at: u32, what: String) -> Type {
        self.errors.push((at, what));
        Type::Dyn
    }

    fn declared(&self, name: &str) -> Option<Type> {
        let known = |(known, _): &&(String, Type)| known == name;
        self.inner.iter().rev().find(known).or_else(|| self.env.names.iter().find(known)).map(|(_, declared)| declared.clone())
    }

    fn check(&mut self, expr: &Expr) -> Type {
        match &expr.node {
            Node::Literal(literal) => match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Node::Name(name) => self.name(name.trim_start_matches('.'), expr.at),
            Node::Select { operand, field, optional } => {
                if let Some(path) = dotted(expr)
                    && let Some((first, _)) = path.split_once('.')
                    && self.declared(first).is_none()
                    && functions::type_named(&path).is_some()
                {
                    return Type::Type;
                }
                let operand = self.check(operand);
                self.field(operand, field, *optional, expr.at)
            }
            Node::Has { operand, field } => {
                let operand = self.check(operand);
                self.field(operand, field, false, expr.at);
                Type::Bool
            }
            Node::Index { operand, index, optional } => {
                let operand = self.check(operand);
                let index = self.check(index);
                self.index(operand, index, *optional, expr.at)
            }
            Node::Call { target, function, args } => self.call(target.as_deref(), function, args, expr.at),
            Node::Unary(Unary::Not, operand) => self.expect(operand, &Type::Bool, "!_", expr.at),
            Node::Unary(Unary::Negate, operand) => match self.check(operand) {
                found @ (Type::Int | Type::Double | Type::Dyn | Type::Duration) => found,
                other => self.fail(expr.at, no_overload("-_", &[other])),
            },
            Node::Binary(operator, left, right) => {
                let left = self.check(left);
                let right = self.check(right);
                self.binary(*operator, left, right, expr.at)
            }
            Node::And(all) => self.logic(all, "_&&_"),
            Node::Or(all) => self.logic(all, "_||_"),
            Node::Conditional(test, yes, no) => {
                self.expect(test, &Type::Bool, "_?_:_", expr.at);
                let (yes, no) = (self.check(yes), self.check(no));
                match (yes.fits(&no) || no.fits(&yes), yes) {
                    (true, Type::Null) => no,
                    (true, Type::Dyn) => no,
                    (true, yes) => yes,
                    (false, yes) => self.fail(expr.at, no_overload("_?_:_", &[Type::Bool, yes, no])),
                }
            }
            Node::List(items) => {
                let types: Vec<Type> = items.iter().map(|item| self.check(&item.value)).collect();
                Type::list(common(&types))
            }
            Node::Map(pairs) => {
                let keys: Vec<Type> = pairs.iter().map(|pair| self.check(&pair.key)).collect();
                let values: Vec<Type> = pairs.iter().map(|pair| self.check(&pair.value)).collect();
                Type::Map(Box::new(common(&keys)), Box::new(common(&values)))
            }
            Node::Message { name, fields } => {
                if !(name == "Object" || name.starts_with("Object.") || name == "JSONPatch") {
                    return self.fail(expr.at, format!("undeclared reference to '{name}' (in container '')"));
                }
                for field in fields {
                    self.check(&field.value);
                    if name == "JSONPatch" && !matches!(&*field.name, "op" | "path" | "from" | "value") {
                        self.fail(field.value.at, format!("undefined field '{}'", field.name));
                    }
                }
                Type::Dyn
            }
            Node::Macro { kind, range, first, second, args } => self.over(*kind, range, first, second.as_deref(), args),
        }
    }

    fn name(&mut self, name: &str, at: u32) -> Type {
        if let Some(declared) = self.declared(name) {
            return declared;
        }
        if functions::type_named(name).is_some() {
            return Type::Type;
        }
        self.fail(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn field(&mut self, operand: Type, field: &str, optional: bool, at: u32) -> Type {
        let found = match operand {
            Type::Dyn => Type::Dyn,
            Type::Map(_, value) => *value,
            Type::Object(object) => match object.fields.iter().find(|(name, _)| name == field) {
                Some((_, declared)) => declared.clone(),
                None if object.open => Type::Dyn,
                None => return self.fail(at, format!("undefined field '{field}'")),
            },
            Type::Optional(inner) => return self.field(*inner, field, true, at),
            Type::Library("kubernetes.authorization.Authorizer") if field == "requestResource" => {
                Type::Library("kubernetes.authorization.ResourceCheck")
            }
            other => return self.fail(at, format!("type '{other}' does not support field selection")),
        };
        if optional { Type::Optional(Box::new(found)) } else { found }
    }

    fn index(&mut self, operand: Type, index: Type, optional: bool, at: u32) -> Type {
        let found = match &operand {
            Type::Dyn => Type::Dyn,
            Type::List(item) if index.fits(&Type::Int) || index.is_number() => (**item).clone(),
            Type::Map(key, value) if index.fits(key) || index.is_number() && key.is_number() => (**value).clone(),
            Type::Optional(inner) => return self.index((**inner).clone(), index, true, at),
            _ => return self.fail(at, no_overload("_[_]", &[operand, index])),
        };
        if optional { Type::Optional(Box::new(found)) } else { found }
    }

    fn expect(&mut self, expr: &Expr, wanted: &Type, function: &str, at: u32) -> Type {
        let found = self.check(expr);
        if !found.fits(wanted) {
            return self.fail(at, no_overload(function, &[found]));
        }
        wanted.clone()
    }

    fn logic(&mut self, all: &[Expr], function: &str) -> Type {
        for expr in all {
            let found = self.check(expr);
            if !found.fits(&Type::Bool) {
                self.fail(expr.at, format!("expected type 'bool' but found '{found}' in '{function}'"));
            }
        }
        Type::Bool
    }

    fn binary(&mut self, operator: Binary, left: Type, right: Type, at: u32) -> Type {
        use Type::{Bool, Bytes, Double, Duration, Dyn, Int, List, Map, String, Timestamp, Uint};
        let numbers = left.is_number() && right.is_number();
        let (name, result) = match operator {
            Binary::Equal | Binary::NotEqual => {
                let name = if operator == Binary::Equal { "_==_" } else { "_!=_" };
                (name, (left.fits(&right) || right.fits(&left) || numbers || left == Type::Null || right == Type::Null).then_some(Bool))
            }
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
                let name = match operator {
                    Binary::Less => "_<_",
                    Binary::LessEqual => "_<=_",
                    Binary::Greater => "_>_",
                    _ => "_>=_",
                };
                let ordered = |one: &Type| matches!(one, Bool | Int | Uint | Double | String | Bytes | Timestamp | Duration | Dyn);
                (name, (numbers || ordered(&left) && ordered(&right) && left.fits(&right)).then_some(Bool))
            }
            Binary::In => {
                let fits = match &right {
                    List(item) => left.fits(item) || left.is_number() && item.is_number(),
                    Map(key, _) => left.fits(key) || left.is_number() && key.is_number(),
                    Dyn => true,
                    _ => false,
                };
                ("@in", fits.then_some(Bool))
            }
            operator => {
                let name = match operator {
                    Binary::Add => "_+_",
                    Binary::Subtract => "_-_",
                    Binary::Multiply => "_*_",
                    Binary::Divide => "_/_",
                    _ => "_%_",
                };
                (name, arithmetic(operator, &left, &right))
            }
        };
        result.unwrap_or_else(|| self.fail(at, no_overload(name, &[left, right])))
    }

    fn call(&mut self, target: Option<&Expr>, function: &str, args: &[Expr], at: u32) -> Type {
        let types = |checker: &mut Self| -> Vec<Type> { args.iter().map(|arg| checker.check(arg)).collect() };
        let Some(target) = target else {
            let args = types(self);
            let name = function.trim_start_matches('.');
            if !signatures::is_known(name) {
                return self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
            }
            return match signatures::result(name, None, &args) {
                Some(result) => result,
                None => self.fail(at, no_overload(name, &args)),
            };
        };
        if let Some(prefix) = dotted(target)
            && functions::is_prefix(&prefix)
            && self.declared(&prefix).is_none()
        {
            let name = format!("{prefix}.{function}");
            let args = types(self);
            return match signatures::result(&name, None, &args) {
                Some(result) => result,
                None if signatures::is_known(&name) => self.fail(at, no_overload(&name, &args)),
                None => self.fail(at, format!("undeclared reference to '{name}' (in container '')")),
            };
        }
        let target = self.check(target);
        let args = types(self);
        if !signatures::is_known(function) {
            return self.fail(at, format!("undeclared reference to '{function}' (in container '')"));
        }
        match signatures::result(function, Some(&target), &args) {
            Some(result) => result,
            None => {
                let args: Vec<String> = args.iter().map(Type::to_string).collect();
                self.fail(at, format!("found no matching overload for '{function}' applied to '{target}.({})'", args.join(", ")))
            }
        }
    }

    fn over(&mut self, kind: Macro, range: &Expr, first: &str, second: Option<&str>, args: &[Expr]) -> Type {
        let at = range.at;
        let range = self.check(range);
        let two = second.is_some();
        let (first_type, second_type) = match &range {
            Type::List(item) if two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Optional(inner) if matches!(kind, Macro::OptMap | Macro::OptFlatMap) => ((**inner).clone(), Type::Dyn),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::Object(_) => (Type::String, Type::Dyn),
            other => (
                self.fail(at, format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)")),
                Type::Dyn,
            ),
        };
        let depth = self.inner.len();
        self.inner.push((first.to_owned(), first_type.clone()));
        if let Some(second) = second {
            self.inner.push((second.to_owned(), second_type));
        }
        let types: Vec<Type> = args.iter().map(|arg| self.check(arg)).collect();
        self.inner.truncate(depth);
        let last = types.last().cloned().unwrap_or(Type::Dyn);
        let predicate = match kind {
            Macro::All | Macro::Exists | Macro::ExistsOne | Macro::Filter => Some(&types[0]),
            Macro::Map | Macro::TransformList | Macro::TransformMap | Macro::TransformMapEntry if types.len() == 2 => Some(&types[0]),
            _ => None,
        };
        if let Some(other) = predicate.filter(|found| !found.fits(&Type::Bool)) {
            self.fail(args[0].at, format!("expected type 'bool' but found '{other}'"));
        }
        match kind {
            Macro::All | Macro::Exists | Macro::ExistsOne => Type::Bool,
            Macro::Filter => Type::list(first_type),
            Macro::SortBy => range,
            Macro::Map | Macro::TransformList => Type::list(last),
            Macro::TransformMap => Type::Map(Box::new(first_type), Box::new(last)),
            Macro::TransformMapEntry => last,
            Macro::OptMap => Type::Optional(Box::new(last)),
            Macro::OptFlatMap => last,
        }
    }
}

fn arithmetic(operator: Binary, left: &Type, right: &Type) -> Option<Type> {
    use Type::{Bytes, Double, Duration, Dyn, Int, List, String, Timestamp, Uint};
    match (left, right) {
        (Dyn, _) | (_, Dyn) => Some(Dyn),
        (Int, Int) => Some(Int),
        (Uint, Uint) => Some(Uint),
        (Double, Double) if operator != Binary::Modulo => Some(Double),
        (String, String) if operator == Binary::Add => Some(String),
        (Bytes, Bytes) if operator == Binary::Add => Some(Bytes),
        (List(a), List(b)) if operator == Binary::Add => Some(Type::list(if a == b { (**a).clone() } else { Dyn })),
        (Timestamp, Duration) if matches!(operator, Binary::Add | Binary::Subtract) => Some(Timestamp),
        (Duration, Timestamp) if operator == Binary::Add => Some(Timestamp),
        (Timestamp, Timestamp) if operator == Binary::Subtract => Some(Duration),
        (Duration, Duration) if matches!(operator, Binary::Add | Binary::Subtract) => Some(Duration),
        _ => None,
    }
}

/// The one type of all, or anything.
fn common(types: &[Type]) -> Type {
    match types.split_first() {
        Some((first, rest)) if rest.iter().all(|other| other == first) => first.clone(),
        _ => Type::Dyn,
    }
}

fn no_overload(function: &str, args: &[Type]) -> String {
    let args: Vec<String> = args.iter().map(Type::to_string).collect();
    format!("found no matching overload for '{function}' applied to '({})'", args.join(", "))
}

fn dotted(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Name(name) => Some(name.trim_start_matches('.').to_owned()),
        Node::Select { operand, field, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        let request = Type::object("kubernetes.AdmissionRequest", vec![("name", Type::String), ("dryRun", Type::Bool)]);
        Env::new(vec![("object", Type::Dyn), ("request", request), ("authorizer", Type::Library("kubernetes.authorization.Authorizer"))])
    }

    #[test]
    fn results() {
        for (text, expected) in [
            ("object.spec.replicas > 1 && request.name == 'a'", Type::Bool),
            ("[1, 2].map(x, string(x))", Type::list(Type::String)),
            ("'a' + request.name", Type::String),
            ("object.x + 1", Type::Dyn),
            ("authorizer.group('apps').resource('deployments').check('get').allowed()", Type::Bool),
            ("quantity('1').add(quantity('2'))", Type::Library("kubernetes.Quantity")),
            ("[1].first().orValue(2)", Type::Int),
            ("object.items.filter(i, i.ready).size()", Type::Int),
            ("timestamp('2024-01-01T00:00:00Z') - duration('1h')", Type::Timestamp),
            ("Object{spec: Object.spec{replicas: 1}}", Type::Dyn),
            ("type(1) == int ? 'a' : 'b'", Type::String),
            ("authorizer.requestResource.check('update').allowed()", Type::Bool),
        ] {
            assert_eq!(Program::compile(text, &env()).map(|program| program.result), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, expected) in [
            ("nothing == 1", "ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')\n | nothing == 1\n | ^"),
            ("request.nam == 'a'", "undefined field 'nam'"),
            ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
            ("frob(1)", "undeclared reference to 'frob' (in container '')"),
            ("'a'.frob()", "undeclared reference to 'frob' (in container '')"),
            ("'a'.size(1)", "found no matching overload for 'size' applied to 'string.(int)'"),
            ("request.name.x", "type 'string' does not support field selection"),
            ("!'a'", "found no matching overload for '!_' applied to '(string)'"),
            ("1.all(x, true)", "cannot be range of a comprehension"),
            ("x.all(x, true)", "undeclared reference to 'x'"),
            ("Foo{a: 1}", "undeclared reference to 'Foo'"),
            ("1 == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ] {
            let error = Program::compile(text, &env()).map(drop).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn every_signature_reads() {
        for name in ["size", "optional.of", "hasValue", "format.uuid", "containsIP", "ip", "ip.isCanonical", "lists.range"] {
            assert!(signatures::is_known(name), "{name}");
        }
    }
}
