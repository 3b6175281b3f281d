//! Which fields differ between two objects, and which fields an object has.

use serde_json::{Map, Value};

use super::field_set::{FieldSet, Step};
use super::node::{Node, Parts};

/// What has to be done to one object to make the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    pub(super) fn new(old: &Map<String, Value>, new: &Map<String, Value>, node: Node) -> Comparison {
        let mut comparison = Comparison::default();
        maps(Some(old), Some(new), node, &mut Vec::new(), &mut comparison);
        comparison
    }

    /// Forgets fields at and below the given paths.
    pub(super) fn exclude(self, fields: &FieldSet) -> Comparison {
        if fields.is_empty() {
            return self;
        }
        Comparison {
            added: self.added.without_below(fields),
            modified: self.modified.without_below(fields),
            removed: self.removed.without_below(fields),
        }
    }

    /// Fields that got a value.
    pub(super) fn changed(&self) -> FieldSet {
        self.modified.clone().union(&self.added)
    }
}

fn compare(old: Option<&Value>, new: Option<&Value>, node: Node, path: &mut Vec<Step>, out: &mut Comparison) {
    match node.parts(old, new) {
        Parts::None => {
            match (old, new) {
                (None, _) => out.added.insert(path),
                (_, None) => out.removed.insert(path),
                (Some(old), Some(new)) if old != new => out.modified.insert(path),
                _ => {}
            }
            return;
        }
        Parts::Map => maps(old.and_then(Value::as_object), new.and_then(Value::as_object), node, path, out),
        Parts::List => lists(old, new, node, path, out),
    }
    if old.is_none() {
        out.added.insert(path);
    } else if new.is_none() {
        out.removed.insert(path);
    }
}

fn maps(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, node: Node, path: &mut Vec<Step>, out: &mut Comparison) {
    let get = |map: Option<&'_ Map<String, Value>>, name: &str| map.is_some_and(|map| map.contains_key(name));
    let names = old.into_iter().flatten().chain(new.into_iter().flatten().filter(|(name, _)| !get(old, name))).map(|(name, _)| name);
    for name in names {
        let (before, after) = (old.and_then(|map| map.get(name)), new.and_then(|map| map.get(name)));
        // Most of an object stays as it was, and equal parts differ nowhere: no paths are made for them.
        if before == after {
            continue;
        }
        path.push(Step::field(name));
        compare(before, after, node.field(name), path, out);
        path.pop();
    }
}

/// The items of a list by their names, in order; several items may have one name.
pub(super) fn index<'v>(list: Option<&'v Value>, node: Node) -> Vec<(Step, Vec<&'v Value>)> {
    let mut places = std::collections::HashMap::new();
    let mut items: Vec<(Step, Vec<&Value>)> = Vec::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        let Ok(step) = node.step_of(item) else { continue };
        let place = *places.entry(step.clone()).or_insert(items.len());
        if place == items.len() {
            items.push((step, vec![item]));
        } else {
            items[place].1.push(item);
        }
    }
    items
}

fn lists(old: Option<&Value>, new: Option<&Value>, node: Node, path: &mut Vec<Step>, out: &mut Comparison) {
    let old_items = index(old, node);
    let new_items: std::collections::HashMap<Step, Vec<&Value>> = index(new, node).into_iter().collect();
    let old_names: std::collections::HashSet<Step> = old_items.iter().map(|(step, _)| step.clone()).collect();
    let none = Vec::new();
    let added = new_items.iter().filter(|(step, _)| !old_names.contains(*step)).map(|(step, items)| (step, &none, items));
    let kept = old_items.iter().map(|(step, items)| (step, items, new_items.get(step).unwrap_or(&none)));
    for (step, old, new) in kept.chain(added) {
        path.push(step.clone());
        match (&old[..], &new[..]) {
            ([] | [_], [] | [_]) => compare(old.first().copied(), new.first().copied(), node.item(), path, out),
            // Items with the same name are owned together.
            ([_, _, ..], [_, _, ..]) => {
                if old != new {
                    out.modified.insert(path);
                }
            }
            ([_, _, ..], new) => {
                if let Some(new) = new.first() {
                    compare(None, Some(new), node.item(), path, out);
                }
                out.removed.insert(path);
            }
            (old, _) => {
                if let Some(old) = old.first() {
                    compare(Some(old), None, node.item(), path, out);
                }
                out.added.insert(path);
            }
        }
        path.pop();
    }
}

/// The fields that an object has.
pub(super) fn field_set(object: &Map<String, Value>, node: Node) -> FieldSet {
    let mut set = FieldSet::default();
    map_fields(object, node, &mut Vec::new(), &mut set);
    set
}

fn map_fields(map: &Map<String, Value>, node: Node, path: &mut Vec<Step>, set: &mut FieldSet) {
    for (name, value) in map {
        path.push(Step::field(name));
        fields(value, node.field(name), path, set);
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        if empty || !node.declares(name) {
            set.insert(path);
        }
        path.pop();
    }
}

fn fields(value: &Value, node: Node, path: &mut Vec<Step>, set: &mut FieldSet) {
    match (node, value) {
        (Node::Fields(_) | Node::Values(_) | Node::Deduced, Value::Object(map)) => map_fields(map, node, path, set),
        (Node::Set | Node::Keyed(..), Value::Array(_)) => {
            for (step, items) in index(Some(value), node) {
                path.push(step);
                if let [item] = items[..] {
                    fields(item, node.item(), path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        (Node::Fields(_) | Node::Values(_) | Node::Set | Node::Keyed(..), Value::Null) => {}
        _ => set.insert(path),
    }
}
