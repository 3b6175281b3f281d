//! A set of field paths, as `fieldsV1` writes it.
//!
//! Steps are kept in the spelling of `fieldsV1`, which is canonical: `f:name`, `k:{"name":"a"}`, `v:1`, `i:0`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step(Arc<str>);

impl Step {
    /// A field of an object or a key of a map.
    pub fn field(name: &str) -> Step {
        // Names are short: no text is made on the heap only to be copied to its place.
        let mut short = [0; 64];
        if let Some(text) = short.get_mut(..2 + name.len()) {
            text[..2].copy_from_slice(b"f:");
            text[2..].copy_from_slice(name.as_bytes());
            return Step(std::str::from_utf8(text).expect("a name behind two letters").into());
        }
        Step(format!("f:{name}").into())
    }

    /// An item of a list of type map, by its keys in ascending order.
    pub fn keys(keys: &BTreeMap<&str, &Value>) -> Step {
        Step(format!("k:{}", serde_json::to_string(keys).expect("keys can always be written")).into())
    }

    /// An item of a list of type set.
    pub fn value(value: &Value) -> Step {
        Step(format!("v:{value}").into())
    }

    /// Reads a key of `fieldsV1`; `None` for steps of a kind that nobody knows.
    pub fn parse(text: &str) -> Option<Step> {
        match text.get(..2)? {
            "f:" => Some(Step(text.into())),
            "i:" => text[2..].parse::<i64>().ok().map(|index| Step(format!("i:{index}").into())),
            "v:" => Some(Step::value(&serde_json::from_str(&text[2..]).ok()?)),
            "k:" => {
                let keys: Map<String, Value> = serde_json::from_str(&text[2..]).ok()?;
                Some(Step::keys(&keys.iter().map(|(name, value)| (name.as_str(), value)).collect()))
            }
            _ => None,
        }
    }

    /// The name, if the step is a field.
    pub fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// Whether the step names an item by its keys.
    pub fn is_keys(&self) -> bool {
        self.0.starts_with("k:")
    }
}

/// As messages write it: `.name`, `[name="a"]`, `[=1]`, `[0]`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text) = self.0.split_at(2);
        match kind {
            "f:" => write!(f, ".{text}"),
            "v:" => write!(f, "[={text}]"),
            "k:" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(text).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            _ => write!(f, "[{text}]"),
        }
    }
}

/// A set of paths into an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Step, Node>,
}

/// What the set holds at and below one step. One of the two is always there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// The path that ends here is in the set.
    member: bool,
    below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a path; the empty path is no member of any set.
    pub fn insert(&mut self, path: &[Step]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = match self.nodes.get_mut(first) {
            Some(node) => node,
            None => self.nodes.entry(first.clone()).or_default(),
        };
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// A set of one path of field names.
    pub fn of_names(path: &[&str]) -> FieldSet {
        let steps: Vec<Step> = path.iter().map(|name| Step::field(name)).collect();
        let mut set = FieldSet::default();
        set.insert(&steps);
        set
    }

    /// Whether the path of one step is in the set.
    pub fn has(&self, step: &Step) -> bool {
        self.nodes.get(step).is_some_and(|node| node.member)
    }

    /// What the set holds below a step; `None` if nothing.
    pub fn below(&self, step: &Step) -> Option<&FieldSet> {
        self.nodes.get(step).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Paths that are in either.
    pub fn union(mut self, other: &FieldSet) -> FieldSet {
        for (step, node) in &other.nodes {
            let own = self.nodes.entry(step.clone()).or_default();
            own.member |= node.member;
            own.below = std::mem::take(&mut own.below).union(&node.below);
        }
        self
    }

    /// Paths that are in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |own, other| Node {
            member: own.member && other.is_some_and(|other| other.member),
            below: other.map(|other| own.below.intersection(&other.below)).unwrap_or_default(),
        })
    }

    /// Paths that are in this one only.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |own, other| match other {
            Some(other) => Node { member: own.member && !other.member, below: own.below.difference(&other.below) },
            None => own.clone(),
        })
    }

    /// Paths that are in this one and not at or below a path of the other.
    pub fn without_below(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |own, other| match other {
            Some(other) if other.member => Node::default(),
            Some(other) => Node { member: own.member, below: own.below.without_below(&other.below) },
            None => own.clone(),
        })
    }

    fn combine(&self, other: &FieldSet, combine: impl Fn(&Node, Option<&Node>) -> Node) -> FieldSet {
        let nodes = self.nodes.iter().map(|(step, node)| (step.clone(), combine(node, other.nodes.get(step))));
        FieldSet { nodes: nodes.filter(|(_, node)| !node.is_empty()).collect() }
    }

    /// Marks steps as members where `wanted` says so, everywhere in the set; it is given what is known at each level.
    pub(super) fn mark<C: Copy>(&self, context: C, wanted: &dyn Fn(C, &Step) -> (bool, C)) -> FieldSet {
        let nodes = self.nodes.iter().map(|(step, node)| {
            let (member, inner) = wanted(context, step);
            let member = node.member || (member && !node.below.is_empty());
            (step.clone(), Node { member, below: node.below.mark(inner, wanted) })
        });
        FieldSet { nodes: nodes.collect() }
    }

    /// All paths as messages write them, members of a level before what is below them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(self.nodes.iter().filter(|(_, node)| node.member).map(|(step, _)| format!("{prefix}{step}")));
        for (step, node) in &self.nodes {
            node.below.collect(&format!("{prefix}{step}"), paths);
        }
    }

    /// The object under `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (step, node) in &self.nodes {
            let mut below = node.below.to_value();
            if let (Value::Object(below), true, false) = (&mut below, node.member, node.below.is_empty()) {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(step.0.to_string(), below);
        }
        Value::Object(map)
    }

    /// Reads the object under `fieldsV1`; steps that nobody knows are left out.
    pub fn from_value(value: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (text, inner) in value.as_object().into_iter().flatten() {
            let Some(step) = Step::parse(text) else { continue };
            let below = FieldSet::from_value(inner);
            let member = below.is_empty() || inner.get(".").is_some();
            set.nodes.insert(step, Node { member, below });
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn round_trip_and_operations() {
        let value = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}},
            "v:1": {}
        });
        let set = FieldSet::from_value(&value);
        assert_eq!(set.to_value(), value);
        let labels = FieldSet::from_value(&json!({"f:metadata": {"f:labels": {}}}));
        assert_eq!(set.difference(&labels).to_value()["f:metadata"], json!({"f:labels": {"f:app": {}}}));
        assert!(set.without_below(&labels).to_value().get("f:metadata").is_none());
        assert_eq!(set.intersection(&labels), labels);
        assert_eq!(set.clone().union(&labels), set);
        assert!(set.paths().contains(&".spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"].containerPort".to_owned()));
    }
}
