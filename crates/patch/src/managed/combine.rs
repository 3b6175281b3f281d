//! Laying a configuration over an object, and taking fields out of one.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::compare::index;
use super::field_set::{FieldSet, Step};
use super::node::{Node, Parts};

/// The live object with everything that the configuration says.
pub(super) fn merge(live: &Map<String, Value>, config: &Map<String, Value>, node: Node) -> Map<String, Value> {
    merge_maps(Some(live), Some(config), node)
}

fn merge_values(live: Option<&Value>, config: Option<&Value>, node: Node) -> Option<Value> {
    match node.parts(live, config) {
        Parts::None => config.or(live).cloned(),
        Parts::Map => {
            let merged = merge_maps(live.and_then(Value::as_object), config.and_then(Value::as_object), node);
            (!merged.is_empty()).then_some(Value::Object(merged))
        }
        Parts::List => {
            let merged = merge_lists(live, config, node);
            (!merged.is_empty()).then_some(Value::Array(merged))
        }
    }
}

fn merge_maps(live: Option<&Map<String, Value>>, config: Option<&Map<String, Value>>, node: Node) -> Map<String, Value> {
    let mut merged = Map::new();
    for (name, value) in live.into_iter().flatten() {
        if let Some(value) = merge_values(Some(value), config.and_then(|config| config.get(name)), node.field(name)) {
            merged.insert(name.clone(), value);
        }
    }
    for (name, value) in config.into_iter().flatten() {
        if !live.is_some_and(|live| live.contains_key(name))
            && let Some(value) = merge_values(None, Some(value), node.field(name))
        {
            merged.insert(name.clone(), value);
        }
    }
    merged
}

/// Items of the configuration come in its order. Items that only the live object has stay where they stood between
/// the shared ones.
fn merge_lists(live: Option<&Value>, config: Option<&Value>, node: Node) -> Vec<Value> {
    let live_items: Vec<(Step, &Value)> =
        live.and_then(Value::as_array).into_iter().flatten().filter_map(|item| Some((node.step_of(item).ok()?, item))).collect();
    let live_index: HashMap<Step, Vec<&Value>> = index(live, node).into_iter().collect();
    let config_items = index(config, node);
    let in_config: HashMap<&Step, &Value> = config_items.iter().filter_map(|(step, items)| Some((step, *items.first()?))).collect();
    // A live item that stands twice is not merged into, only replaced.
    let live_item = |step: &Step| match live_index.get(step).map(Vec::as_slice) {
        Some([item]) => Some(*item),
        Some([_, ..]) => Some(&Value::Null),
        _ => None,
    };
    let mut shared = config_items.iter().map(|(step, _)| step).filter(|step| live_index.contains_key(*step));
    let mut next_shared = shared.next();
    let mut done: HashSet<&Step> = HashSet::new();
    let mut out = Vec::new();
    let mut take = |live: Option<&Value>, config: Option<&Value>| out.extend(merge_values(live, config, node.item()));
    let (mut l, mut c) = (0, 0);
    while l < live_items.len() || c < config_items.len() {
        if let (Some((step, _)), Some((wanted, _))) = (live_items.get(l), config_items.get(c)) {
            if step == wanted {
                done.insert(step);
                take(live_item(step), in_config.get(step).copied());
                l += 1;
                c += 1;
                next_shared = shared.next();
                continue;
            }
            if in_config.contains_key(step) && next_shared.is_some_and(|next| next != step) {
                // A shared item whose turn comes later.
                l += 1;
                continue;
            }
        }
        if let Some((step, item)) = live_items.get(l) {
            if !in_config.contains_key(step) {
                take(Some(item), None);
                l += 1;
                continue;
            }
            if done.contains(step) {
                l += 1;
            }
        }
        if let Some((step, _)) = config_items.get(c) {
            done.insert(step);
            take(live_item(step), in_config.get(step).copied());
            c += 1;
            if next_shared == Some(step) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// The object without the fields of the set.
pub(super) fn remove(object: &Map<String, Value>, fields: &FieldSet, node: Node) -> Map<String, Value> {
    let mut kept = Map::new();
    for (name, value) in object {
        let step = Step::field(name);
        if fields.has(&step) {
            continue;
        }
        let value = match fields.below(&step) {
            Some(below) => remove_from(value, below, node.field(name)),
            None => value.clone(),
        };
        kept.insert(name.clone(), value);
    }
    kept
}

fn remove_from(value: &Value, fields: &FieldSet, node: Node) -> Value {
    match (node, value) {
        (Node::Fields(_) | Node::Values(_) | Node::Deduced, Value::Object(map)) => {
            let kept = remove(map, fields, node);
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (Node::Set | Node::Keyed(..), Value::Array(items)) => {
            let kept: Vec<Value> = items
                .iter()
                .filter_map(|item| {
                    let Ok(step) = node.step_of(item) else { return Some(item.clone()) };
                    if fields.has(&step) {
                        return None;
                    }
                    Some(match fields.below(&step) {
                        Some(below) => remove_from(item, below, node.item()),
                        None => item.clone(),
                    })
                })
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (Node::Leaf | Node::Deduced, Value::Object(_) | Value::Array(_)) => Value::Null,
        _ => value.clone(),
    }
}

/// Marks declared fields with members below them as members, so that taking all of those takes the field too.
pub(super) fn with_named_fields(set: &FieldSet, node: Node) -> FieldSet {
    set.mark(node, &|node, step| match step.as_field() {
        Some(name) => (node.declares(name), node.field(name)),
        None if step.is_keys() => (false, node.item()),
        None => (false, Node::Leaf),
    })
}
