//! What pods and volumes say about nodes, compiled against the interned labels.

use crate::nodes::{NodeIndex, Nodes};
use crate::read::{Expression, NodeSelector, NodeTerm, Texts};
use crate::symbols::{Symbol, Symbols};

/// One requirement on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    In(Symbol, Vec<Symbol>),
    NotIn(Symbol, Vec<Symbol>),
    Exists(Symbol),
    Absent(Symbol),
    Greater(Symbol, i64),
    Less(Symbol, i64),
    Named(Vec<Box<str>>),
    NotNamed(Vec<Box<str>>),
    /// An operator that does not exist.
    Never,
}

/// Requirements that hold together. The empty term matches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term(Vec<Need>);

/// Terms of which one must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms(Vec<Term>);

impl Terms {
    /// Compiles a selector.
    pub fn compile(symbols: &mut Symbols, selector: &NodeSelector) -> Terms {
        Terms(selector.node_selector_terms.iter().map(|term| Term::compile(symbols, term)).collect())
    }

    /// Whether a term holds for a node.
    pub fn hold(&self, nodes: &Nodes, symbols: &Symbols, node: NodeIndex) -> bool {
        self.0.iter().any(|term| term.holds(nodes, symbols, node))
    }

    /// The only nodes that can match, if every term names some.
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut names = Vec::new();
        for term in &self.0 {
            let named = term.0.iter().find_map(|need| if let Need::Named(names) = need { Some(names) } else { None })?;
            names.extend(named.iter().map(|name| &**name));
        }
        (!self.0.is_empty()).then_some(names)
    }
}

impl Term {
    /// Compiles a term.
    pub fn compile(symbols: &mut Symbols, term: &NodeTerm) -> Term {
        let labels = term.match_expressions.iter().map(|expression| need(symbols, expression));
        let mut needs: Vec<Need> = labels.collect();
        needs.extend(term.match_fields.iter().map(|expression| match (&*expression.key, &*expression.operator) {
            ("metadata.name", "In") => Need::Named(expression.values.clone()),
            ("metadata.name", "NotIn") => Need::NotNamed(expression.values.clone()),
            _ => Need::Never,
        }));
        Term(needs)
    }

    /// Compiles exact labels; no labels match everything, unlike an empty term.
    pub fn exact(symbols: &mut Symbols, labels: &Texts) -> Option<Term> {
        let needs: Vec<Need> = labels.iter().map(|(key, value)| Need::In(symbols.intern(key), vec![symbols.intern(value)])).collect();
        (!needs.is_empty()).then_some(Term(needs))
    }

    /// Whether all requirements hold for a node.
    pub fn holds(&self, nodes: &Nodes, symbols: &Symbols, node: NodeIndex) -> bool {
        !self.0.is_empty() && self.0.iter().all(|need| need.holds(nodes, symbols, node))
    }
}

fn need(symbols: &mut Symbols, expression: &Expression) -> Need {
    let key = symbols.intern(&expression.key);
    let mut values = || expression.values.iter().map(|value| symbols.intern(value)).collect();
    let number = || expression.values.first().and_then(|value| value.parse().ok());
    match &*expression.operator {
        "In" => Need::In(key, values()),
        "NotIn" => Need::NotIn(key, values()),
        "Exists" => Need::Exists(key),
        "DoesNotExist" => Need::Absent(key),
        "Gt" => number().map_or(Need::Never, |bound| Need::Greater(key, bound)),
        "Lt" => number().map_or(Need::Never, |bound| Need::Less(key, bound)),
        _ => Need::Never,
    }
}

impl Need {
    fn holds(&self, nodes: &Nodes, symbols: &Symbols, node: NodeIndex) -> bool {
        let number = |key| nodes.label(node, key).and_then(|value| symbols.text(value).parse::<i64>().ok());
        match self {
            Need::In(key, values) => nodes.label(node, *key).is_some_and(|value| values.contains(&value)),
            Need::NotIn(key, values) => nodes.label(node, *key).is_none_or(|value| !values.contains(&value)),
            Need::Exists(key) => nodes.label(node, *key).is_some(),
            Need::Absent(key) => nodes.label(node, *key).is_none(),
            Need::Greater(key, bound) => number(*key).is_some_and(|value| value > *bound),
            Need::Less(key, bound) => number(*key).is_some_and(|value| value < *bound),
            Need::Named(names) => names.iter().any(|name| **name == **nodes.name(node)),
            Need::NotNamed(names) => names.iter().all(|name| **name != **nodes.name(node)),
            Need::Never => false,
        }
    }
}
