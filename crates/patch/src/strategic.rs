//! Strategic merge: a merge patch that knows which lists have keys.
//!
//! Directives in the patch say what a merge alone cannot: `$patch` replaces or deletes, `$deleteFromPrimitiveList/x`
//! takes values out of a list of scalars, `$setElementOrder/x` fixes the order, `$retainKeys` drops the other fields.

use api::schema::{Shape, Type};
use serde_json::{Map, Value};

use crate::PatchError;

mod lists;

use lists::merge_list;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to a copy of the document of the given type.
pub fn apply(document: &Value, patch: &Value, schema: &Type) -> Result<Value, PatchError> {
    let (Value::Object(original), Value::Object(patch)) = (document, patch) else {
        return Err(PatchError::Malformed("invalid JSON document".into()));
    };
    merge_map(original.clone(), patch.clone(), Level::Fields(schema)).map(Value::Object)
}

/// What is known about the values of a map.
#[derive(Clone, Copy)]
enum Level<'t> {
    Fields(&'t Type),
    Values(&'t Shape),
    Unknown,
}

/// What is known about one field: what its elements are and how it is merged.
#[derive(Clone, Copy)]
struct Rule<'t> {
    level: Level<'t>,
    merge: bool,
    replace: bool,
    key: &'t str,
}

impl<'t> Level<'t> {
    fn of(shape: &'t Shape) -> Level<'t> {
        match shape {
            Shape::Ref(type_ref) => Level::Fields(type_ref),
            Shape::Map(inner) => Level::Values(inner),
            Shape::List(inner) => Level::of(inner),
            Shape::Scalar(_) => Level::Unknown,
        }
    }

    fn rule(self, name: &str) -> Rule<'t> {
        let plain = |level| Rule { level, merge: false, replace: false, key: "" };
        match self {
            Level::Fields(schema) => match schema.field(name) {
                Some(field) => Rule {
                    level: Level::of(&field.shape),
                    merge: field.patch_merge,
                    // The one field of the API whose strategy is to be replaced.
                    replace: &*schema.name == "policy.v1.PodDisruptionBudgetSpec" && name == "selector",
                    key: &field.merge_key,
                },
                None => plain(Level::Unknown),
            },
            Level::Values(shape) => plain(Level::of(shape)),
            Level::Unknown => plain(Level::Unknown),
        }
    }
}

fn merge_map(mut original: Map<String, Value>, mut patch: Map<String, Value>, level: Level) -> Result<Map<String, Value>, PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            Some("merge") => merge_map(original, patch, level),
            _ => Err(unknown_directive(&directive)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    element_orders(&mut original, &mut patch, level)?;
    for (name, mut value) in patch {
        let (name, is_delete) = match name.strip_prefix(DELETE_FROM) {
            Some(list) => (list.to_owned(), true),
            None => (name, false),
        };
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let Some(current) = original.get_mut(&name) else {
            if !is_delete {
                discard_nulls(&mut value);
                if let Some(value) = without_directives(value) {
                    original.insert(name, value);
                }
            }
            continue;
        };
        let rule = level.rule(&name);
        match (&mut *current, value) {
            (Value::Object(map), Value::Object(value)) => {
                *current = Value::Object(if rule.replace { value } else { merge_map(std::mem::take(map), value, rule.level)? });
            }
            (Value::Array(items), Value::Array(value)) => {
                *current =
                    Value::Array(if rule.merge || is_delete { merge_list(std::mem::take(items), value, rule, is_delete)? } else { value });
            }
            (Value::Object(_) | Value::Array(_), value) | (_, value @ (Value::Object(_) | Value::Array(_))) => {
                if !is_delete {
                    let mut value = value;
                    discard_nulls(&mut value);
                    *current = without_directives(value).unwrap_or(Value::Null);
                }
            }
            (current, value) => *current = value,
        }
    }
    Ok(original)
}

/// `$retainKeys`: fields of the original that the list does not name go.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = directive else {
        return Err(PatchError::Malformed("invalid patch format of retainKeys".into()));
    };
    let kept = |name: &str| keys.iter().any(|key| key == name);
    let stray =
        patch.iter().any(|(name, value)| !value.is_null() && !name.starts_with(DELETE_FROM) && !name.starts_with(SET_ORDER) && !kept(name));
    if stray {
        return Err(PatchError::Malformed("invalid patch format of retainKeys".into()));
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// `$setElementOrder/x`: merges the list and then puts it in the order that the patch gives.
fn element_orders(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, level: Level) -> Result<(), PatchError> {
    let names: Vec<String> = patch.keys().filter_map(|name| name.strip_prefix(SET_ORDER)).map(str::to_owned).collect();
    for name in names {
        let bad = || PatchError::Malformed("invalid patch format of setElementOrder list".into());
        let Some(Value::Array(order)) = patch.remove(&format!("{SET_ORDER}{name}")) else { return Err(bad()) };
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(PatchError::Failed("expected a []interface {}".into())),
        };
        let server = list(original.remove(&name).filter(|value| !value.is_null()))?;
        let changes = list(patch.remove(&name).filter(|value| !value.is_null()))?;
        let rule = level.rule(&name);
        if let Some(changes) = &changes {
            lists::check_order(changes, &order, rule.key)?;
        }
        let server_order = server.clone().unwrap_or_default();
        let merged = match (server, changes) {
            (Some(server), None) => server,
            (None, Some(changes)) => changes.into_iter().filter_map(without_directives).collect(),
            (Some(server), Some(changes)) if rule.merge => merge_list(server, changes, rule, false)?,
            (Some(_), Some(changes)) => changes,
            (None, None) => continue,
        };
        let ordered = lists::in_order(merged, &order, &server_order, rule.key)?;
        original.insert(name, Value::Array(ordered));
    }
    Ok(())
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// A value of the patch as it goes into the object; `None` for one that was only a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter()
                .filter(|(name, _)| name != RETAIN_KEYS && !name.starts_with(DELETE_FROM) && !name.starts_with(SET_ORDER))
                .filter_map(|(name, value)| Some((name, without_directives(value)?)))
                .collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        value => Some(value),
    }
}

fn unknown_directive(directive: &Value) -> PatchError {
    PatchError::Failed(format!("unknown patch type: {}", directive.as_str().map_or_else(|| directive.to_string(), str::to_owned)))
}
