//! Tokens to a tree, by precedence. Macros are recognised here.

use crate::ast::{Binary, Expr, FieldInit, Item, Literal, Macro, Node, Pair, Unary};
use crate::lex::{Fault, Kind, Token, tokens};
use crate::{MAX_DEPTH, MAX_LENGTH, source};

/// What may begin an operand, as messages list it.
const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
/// Deepest nesting of brackets; each level takes a few frames of the stack.
const MAX_NESTING: usize = 100;
/// Words that are no names, beside those that are values or operators.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Parses an expression; the error is the text that users see.
pub fn parse(text: &str) -> Result<Expr, String> {
    if text.chars().count() > MAX_LENGTH {
        return Err(source::error(
            "",
            0,
            &format!("expression code point size exceeds limit: size: {}, limit {MAX_LENGTH}", text.chars().count()),
        ));
    }
    let parsed = tokens(text).and_then(|tokens| {
        let mut parser = Parser { tokens, at: 0, depth: 0, text };
        let expr = parser.expr()?;
        match parser.peek() {
            Kind::End => Ok(expr),
            _ => {
                let kind =
                    if parser.tokens.get(parser.at + 1).is_some_and(|token| token.kind == Kind::End) { "extraneous" } else { "mismatched" };
                Err(parser.fault(&format!("Syntax error: {kind} input {} expecting <EOF>", parser.shown())))
            }
        }
    });
    parsed.map_err(|(at, what)| source::error(text, at, &what))
}

/// Operators with two operands and how tight they bind.
const OPERATORS: [(&str, u8, Binary); 12] = [
    ("==", 2, Binary::Equal),
    ("!=", 2, Binary::NotEqual),
    ("<", 2, Binary::Less),
    ("<=", 2, Binary::LessEqual),
    (">", 2, Binary::Greater),
    (">=", 2, Binary::GreaterEqual),
    ("in", 2, Binary::In),
    ("+", 3, Binary::Add),
    ("-", 3, Binary::Subtract),
    ("*", 4, Binary::Multiply),
    ("/", 4, Binary::Divide),
    ("%", 4, Binary::Modulo),
];

fn precedence(sign: &str) -> Option<u8> {
    match sign {
        "||" => Some(0),
        "&&" => Some(1),
        sign => OPERATORS.iter().find(|(text, _, _)| *text == sign).map(|(_, level, _)| *level),
    }
}

struct Parser<'s> {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    text: &'s str,
}

/// Builds a node and refuses it when the tree gets too deep.
fn node(node: Node, at: usize) -> Result<Expr, Fault> {
    let depth = 1 + children(&node).map(|child| child.depth).max().unwrap_or(0);
    if usize::from(depth) > MAX_DEPTH {
        return Err((at, too_deep()));
    }
    Ok(Expr { node, at: at as u32, depth })
}

fn too_deep() -> String {
    format!("expression recursion limit exceeded: {MAX_DEPTH}")
}

fn children(node: &Node) -> Box<dyn Iterator<Item = &Expr> + '_> {
    match node {
        Node::Literal(_) | Node::Name(_) => Box::new(std::iter::empty()),
        Node::Select { operand, .. } | Node::Has { operand, .. } | Node::Unary(_, operand) => Box::new(std::iter::once(&**operand)),
        Node::Index { operand, index, .. } => Box::new([&**operand, &**index].into_iter()),
        Node::Binary(_, left, right) => Box::new([&**left, &**right].into_iter()),
        Node::Conditional(test, yes, no) => Box::new([&**test, &**yes, &**no].into_iter()),
        Node::Call { target, args, .. } => Box::new(target.iter().map(|target| &**target).chain(args)),
        Node::And(all) | Node::Or(all) => Box::new(all.iter()),
        Node::List(items) => Box::new(items.iter().map(|item| &item.value)),
        Node::Map(pairs) => Box::new(pairs.iter().flat_map(|pair| [&pair.key, &pair.value])),
        Node::Message { fields, .. } => Box::new(fields.iter().map(|field| &field.value)),
        Node::Macro { range, args, .. } => Box::new(std::iter::once(&**range).chain(args)),
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    fn place(&self) -> usize {
        self.tokens[self.at].at
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Kind::Sign(found) if *found == sign)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Fault> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(self.fault(&format!("Syntax error: mismatched input {} expecting '{sign}'", self.shown())))
    }

    fn fault(&self, what: &str) -> Fault {
        (self.place(), what.to_owned())
    }

    /// The token at hand in quotes.
    fn shown(&self) -> String {
        let token = &self.tokens[self.at];
        if token.kind == Kind::End { "'<EOF>'".into() } else { format!("'{}'", &self.text[token.at..token.end]) }
    }

    fn expr(&mut self) -> Result<Expr, Fault> {
        if self.depth == MAX_NESTING {
            return Err(self.fault(&too_deep()));
        }
        self.depth += 1;
        let test = self.operators(0)?;
        let place = self.place();
        let expr = if self.takes("?") {
            let yes = self.operators(0)?;
            self.expect(":")?;
            let no = self.expr()?;
            node(Node::Conditional(test.into(), yes.into(), no.into()), place)?
        } else {
            test
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// Operators that bind at least as tight as `least`, by precedence: `||` 0, `&&` 1, relations 2, sums 3, products 4.
    fn operators(&mut self, least: u8) -> Result<Expr, Fault> {
        let mut left = self.unary()?;
        loop {
            let sign = match self.peek() {
                Kind::Sign(sign) => *sign,
                Kind::In => "in",
                _ => return Ok(left),
            };
            let Some(level) = precedence(sign).filter(|level| *level >= least) else { return Ok(left) };
            let place = self.next().at;
            let right = self.operators(level + 1)?;
            left = match (sign, left.node) {
                // Long chains stay flat.
                ("||", Node::Or(mut all)) => {
                    let depth = left.depth.max(right.depth + 1);
                    all.push(right);
                    Expr { node: Node::Or(all), at: left.at, depth }
                }
                ("&&", Node::And(mut all)) => {
                    let depth = left.depth.max(right.depth + 1);
                    all.push(right);
                    Expr { node: Node::And(all), at: left.at, depth }
                }
                (sign, inner) => {
                    let left = Expr { node: inner, at: left.at, depth: left.depth };
                    match OPERATORS.iter().find(|(text, _, _)| *text == sign) {
                        Some((_, _, operator)) => node(Node::Binary(*operator, left.into(), right.into()), place)?,
                        None if sign == "||" => node(Node::Or(vec![left, right]), place)?,
                        None => node(Node::And(vec![left, right]), place)?,
                    }
                }
            };
        }
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        let place = self.place();
        for (sign, operator) in [("!", Unary::Not), ("-", Unary::Negate)] {
            let mut count = 0;
            while self.takes(sign) {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            if operator == Unary::Negate && count % 2 == 1 {
                // The number belongs to its sign, so that the smallest integer can be written.
                let negative = match self.peek() {
                    Kind::Literal(Literal::Int(number)) => Some(Literal::Int(-number)),
                    Kind::Literal(Literal::Double(number)) => Some(Literal::Double(-number)),
                    Kind::MinInt => Some(Literal::Int(i64::MIN)),
                    _ => None,
                };
                if let Some(literal) = negative {
                    self.next();
                    let literal = node(Node::Literal(literal), place)?;
                    return self.members(literal);
                }
            }
            let operand = self.member()?;
            // Two of a kind cancel out.
            return if count % 2 == 0 { Ok(operand) } else { node(Node::Unary(operator, operand.into()), place) };
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr, Fault> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut operand: Expr) -> Result<Expr, Fault> {
        loop {
            if self.takes(".") {
                let optional = self.takes("?");
                let token = self.next();
                let (name, quoted) = match token.kind {
                    Kind::Name(name) => (name, false),
                    Kind::Quoted(name) => (name, true),
                    _ => {
                        self.at = self.tokens.iter().position(|other| other.at == token.at).unwrap_or(self.at);
                        return Err(
                            self.fault(&format!("Syntax error: no viable alternative at input '.{}'", self.shown().trim_matches('\'')))
                        );
                    }
                };
                operand = if !optional && !quoted && self.is("(") {
                    self.next();
                    let args = self.arguments(")")?;
                    self.method(operand, name, args, token.at)?
                } else if !optional && !quoted && self.is("{") && path(&operand).is_some() {
                    self.next();
                    let prefix = path(&operand).unwrap_or_default();
                    self.message(format!("{prefix}.{name}"), token.at)?
                } else {
                    node(Node::Select { operand: operand.into(), field: name, optional }, token.at)?
                };
            } else if self.is("[") {
                let place = self.next().at;
                let optional = self.takes("?");
                let index = self.expr()?;
                self.expect("]")?;
                operand = node(Node::Index { operand: operand.into(), index: index.into(), optional }, place)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        let place = self.place();
        match self.peek().clone() {
            Kind::Literal(literal) => {
                self.next();
                node(Node::Literal(literal), place)
            }
            Kind::MinInt => Err(self.fault("Syntax error: invalid int literal")),
            Kind::Name(name) => {
                self.next();
                self.named(name, place)
            }
            Kind::Sign(".") => {
                self.next();
                let Kind::Name(name) = self.peek().clone() else {
                    return Err(self.fault(&format!("Syntax error: mismatched input {} expecting IDENTIFIER", self.shown())));
                };
                self.next();
                self.named(format!(".{name}"), place)
            }
            Kind::Sign("(") => {
                self.next();
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Sign("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.takes("]") {
                    let optional = self.takes("?");
                    items.push(Item { value: self.expr()?, optional });
                    if !self.takes(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                node(Node::List(items), place)
            }
            Kind::Sign("{") => {
                self.next();
                let mut pairs = Vec::new();
                while !self.takes("}") {
                    let optional = self.takes("?");
                    let key = self.expr()?;
                    self.expect(":")?;
                    pairs.push(Pair { key, value: self.expr()?, optional });
                    if !self.takes(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                node(Node::Map(pairs), place)
            }
            _ => {
                let kind = if self.at == 0 || *self.peek() == Kind::End { "mismatched" } else { "extraneous" };
                Err(self.fault(&format!("Syntax error: {kind} input {} expecting {OPERAND}", self.shown())))
            }
        }
    }

    fn named(&mut self, name: String, place: usize) -> Result<Expr, Fault> {
        let word = name.trim_start_matches('.');
        if word == "__result__" || RESERVED.contains(&word) {
            return Err((place, format!("Syntax error: reserved identifier: {name}")));
        }
        if self.takes("(") {
            let args = self.arguments(")")?;
            return function(name, args, place);
        }
        if self.takes("{") {
            return self.message(name, place);
        }
        node(Node::Name(name), place)
    }

    fn arguments(&mut self, end: &str) -> Result<Vec<Expr>, Fault> {
        let mut args = Vec::new();
        if self.takes(end) {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if !self.takes(",") {
                self.expect(end)?;
                return Ok(args);
            }
        }
    }

    fn message(&mut self, name: String, place: usize) -> Result<Expr, Fault> {
        let mut fields = Vec::new();
        while !self.takes("}") {
            let optional = self.takes("?");
            let field = match self.peek().clone() {
                Kind::Name(name) | Kind::Quoted(name) => name,
                _ => return Err(self.fault(&format!("Syntax error: mismatched input {} expecting IDENTIFIER", self.shown()))),
            };
            self.next();
            self.expect(":")?;
            fields.push(FieldInit { name: field, value: self.expr()?, optional });
            if !self.takes(",") {
                self.expect("}")?;
                break;
            }
        }
        node(Node::Message { name, fields }, place)
    }

    /// A call with a target, or one of the macros over lists and maps.
    fn method(&self, target: Expr, function: String, mut args: Vec<Expr>, place: usize) -> Result<Expr, Fault> {
        let kind = match (function.as_str(), args.len()) {
            ("all", 2 | 3) => Some(Macro::All),
            ("exists", 2 | 3) => Some(Macro::Exists),
            ("exists_one", 2) | ("existsOne", 2 | 3) => Some(Macro::ExistsOne),
            ("map", 2 | 3) => Some(Macro::Map),
            ("filter", 2) => Some(Macro::Filter),
            ("sortBy", 2) => Some(Macro::SortBy),
            ("transformList", 3 | 4) => Some(Macro::TransformList),
            ("transformMap", 3 | 4) => Some(Macro::TransformMap),
            ("transformMapEntry", 3 | 4) => Some(Macro::TransformMapEntry),
            ("optMap", 2) => Some(Macro::OptMap),
            ("optFlatMap", 2) => Some(Macro::OptFlatMap),
            _ => None,
        };
        let Some(kind) = kind else {
            return node(Node::Call { target: Some(target.into()), function, args }, place);
        };
        let two = match kind {
            Macro::All | Macro::Exists | Macro::ExistsOne => args.len() == 3,
            Macro::TransformList | Macro::TransformMap | Macro::TransformMapEntry => true,
            _ => false,
        };
        let rest = args.split_off(if two { 2 } else { 1 });
        let mut names = Vec::new();
        for arg in &args {
            match &arg.node {
                Node::Name(name) if !name.starts_with('.') => names.push(name.clone()),
                _ => return Err((arg.at as usize, "argument must be a simple name".into())),
            }
        }
        let second = if two { names.pop() } else { None };
        let first = names.pop().unwrap_or_default();
        node(Node::Macro { kind, range: target.into(), first, second, args: rest }, place)
    }
}

/// A call without a target, or `has`.
fn function(name: String, mut args: Vec<Expr>, place: usize) -> Result<Expr, Fault> {
    if name == "has" && args.len() == 1 {
        let arg = args.remove(0);
        return match arg.node {
            Node::Select { operand, field, optional: false } => node(Node::Has { operand, field }, place),
            _ => Err((arg.at as usize, "invalid argument to has() macro".into())),
        };
    }
    node(Node::Call { target: None, function: name, args }, place)
}

/// `a.b.c` when the expression is only names.
fn path(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Name(name) => Some(name.clone()),
        Node::Select { operand, field, optional: false } => Some(format!("{}.{field}", path(operand)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted() {
        for text in [
            "object.spec.replicas <= 5",
            "1 + 2 * -3 == -5 && !(true || false)",
            "has(object.metadata.labels) && 'a' in object.metadata.labels",
            "object.spec.containers.all(c, c.image.startsWith('x/'))",
            "[1, 2u, 3.5, 1e3, 0xff, -9223372036854775808]",
            "{'a': 1, \"b\": [true, null]}",
            "Object{spec: Object.spec{replicas: 1337}}",
            "object.?spec[?'a'].orValue(1)",
            "[?x, 1].map(y, y > 0, y + 1)",
            "{1: 2}.transformMap(k, v, k + v)",
            r#"r'\d+' + b"\xff\u00e9\\" == "\n\t\"" + '''a
'b' c'''"#,
            "a ? b : c ? d : e",
            "// comment\n request.name",
            "JSONPatch{op: 'add', path: '/x', value: Object.metadata{name: 'x'}}",
            ".a.b(c)",
            "self.`a-b.c/d`",
            "x.optMap(v, v + 1)",
        ] {
            assert_eq!(parse(text).map(drop), Ok(()), "{text}");
        }
    }

    #[test]
    fn refused() {
        let golden = "ERROR: <input>:1:30: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | object.spec.replicas <= 'a' +\n | .............................^";
        assert_eq!(parse("object.spec.replicas <= 'a' +").map(drop), Err(golden.to_owned()));
        for (text, part) in [
            ("", "1:1: Syntax error: mismatched input '<EOF>' expecting {"),
            ("1 2", "1:3: Syntax error: extraneous input '2' expecting <EOF>"),
            ("(1", "1:3: Syntax error: mismatched input '<EOF>' expecting ')'"),
            ("[1", "expecting ']'"),
            ("a\n  .b(", "2:6: Syntax error"),
            ("'abc", "1:1: Syntax error: token recognition error at: ''abc'"),
            ("a # b", "1:3: Syntax error: token recognition error at: '#'"),
            ("import", "reserved identifier: import"),
            ("has(a)", "invalid argument to has() macro"),
            ("a.all(1, true)", "argument must be a simple name"),
            ("a = b", "token recognition error at: '='"),
            ("9223372036854775808", "invalid int literal"),
            ("\"\\q\"", "invalid escape sequence"),
            ("a.1", "Syntax error"),
        ] {
            let error = parse(text).map(drop).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn hostile_texts_end_soon() {
        for text in [
            "(".repeat(90_000),
            "[".repeat(90_000),
            "!".repeat(90_000),
            "-".repeat(90_001),
            "a.".repeat(40_000) + "b",
            "1+".repeat(40_000) + "1",
            "a?".repeat(30_000),
            "{1:".repeat(30_000),
            "a[".repeat(40_000),
            "x".repeat(200_000),
        ] {
            assert!(parse(&text).is_err(), "{}", &text[..4]);
        }
        assert!(parse(&("a && ".repeat(10_000) + "b")).is_ok());
    }
}
