//! Merging lists by their key, and the order of what comes out: items of the patch keep the patch's order, items that
//! only the server has keep theirs, and the two are woven together by the server's order.

use serde_json::Value;

use super::{DIRECTIVE, Rule, merge_map, unknown_directive, without_directives};
use crate::PatchError;

/// Merges a patch into a list of scalars, or of maps by their key.
pub(super) fn merge_list(original: Vec<Value>, patch: Vec<Value>, rule: Rule, is_delete: bool) -> Result<Vec<Value>, PatchError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let all = || original.iter().chain(&patch);
    if all().any(Value::is_array) {
        return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
    }
    let maps = all().filter(|item| item.is_object()).count();
    if maps != 0 && maps != original.len() + patch.len() {
        return Err(PatchError::Failed("list element types are not identical".into()));
    }
    let server_order = original.clone();
    let (merged, patch, key) = if maps == 0 {
        if is_delete {
            return Ok(original.into_iter().filter(|item| !patch.contains(item)).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.into_iter().chain(patch.iter().cloned()) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        (merged, patch, "")
    } else {
        if rule.key.is_empty() {
            return Err(PatchError::Failed("cannot merge lists without merge key".into()));
        }
        let (original, patch) = directives(original, patch, rule.key)?;
        (merge_items(original, &patch, rule)?, patch, rule.key)
    };
    in_order(merged, &patch, &server_order, key)
}

/// Obeys `$patch` in items of the patch; what is left of both lists is merged.
fn directives(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE) {
            None => rest.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let value = item.get(key).ok_or_else(|| no_key(&item, key))?;
                    original.retain(|other| other.get(key) != Some(value));
                }
                Some("replace") => replace = true,
                Some("merge") => return Err(PatchError::Failed("merging lists cannot yet be specified in the patch".into())),
                _ => return Err(unknown_directive(directive)),
            },
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (original, rest) })
}

fn merge_items(mut original: Vec<Value>, patch: &[Value], rule: Rule) -> Result<Vec<Value>, PatchError> {
    for item in patch {
        let value = item.get(rule.key).ok_or_else(|| no_key(item, rule.key))?;
        match original.iter_mut().find(|other| other.get(rule.key) == Some(value)) {
            Some(slot) => {
                if let (Value::Object(current), Value::Object(change)) = (&mut *slot, item) {
                    *slot = Value::Object(merge_map(std::mem::take(current), change.clone(), rule.level)?);
                }
            }
            None => original.extend(without_directives(item.clone())),
        }
    }
    Ok(original)
}

/// Items that `order` names in its order, woven into the others, which keep the server's.
pub(super) fn in_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: &str) -> Result<Vec<Value>, PatchError> {
    if !key.is_empty()
        && let Some(item) = merged.iter().find(|item| item.get(key).is_none())
    {
        return Err(no_key(item, key));
    }
    let position = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|item| position(order, item).is_some());
    named.sort_by_key(|item| position(order, item));
    // What the server does not know (an item that the patch brings without naming it in the order) stays behind.
    others.sort_by_key(|item| position(server_order, item).unwrap_or(usize::MAX));
    let mut all = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return Ok(all),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(item)) => match (position(server_order, other), position(server_order, item)) {
                (Some(left), Some(right)) => left < right,
                _ => false,
            },
        };
        all.extend(if other_first { others.next() } else { named.next() });
    }
}

/// The items of the patch must come in the order that `$setElementOrder` names.
pub(super) fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !wanted.any(|other| same(other, item, key)) {
            return Err(PatchError::Failed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Value::from(patch.to_vec()),
                Value::from(order.to_vec())
            )));
        }
    }
    Ok(())
}

fn same(left: &Value, right: &Value, key: &str) -> bool {
    if key.is_empty() { left == right } else { left.get(key).is_some() && left.get(key) == right.get(key) }
}

fn no_key(item: &Value, key: &str) -> PatchError {
    PatchError::Failed(format!("map: {} does not contain declared merge key: {key}", crate::error::go_text(item)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::strategic::apply;

    /// A document, a patch and what comes out, all of a pod's spec.
    fn check(spec: Value, patch: Value, expected: Value) {
        let pod = api::schema::builtin("core.v1.Pod").expect("the table has pods");
        let patched = apply(&json!({"spec": spec}), &json!({"spec": patch}), &pod).map(|value| value["spec"].clone());
        assert_eq!(patched, Ok(expected), "{patch}");
    }

    #[test]
    fn pods() {
        let two = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
        check(
            two.clone(),
            json!({"containers": [{"name": "b", "image": "2"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
        );
        check(
            two.clone(),
            json!({"containers": [{"name": "c", "image": "3"}]}),
            json!({"containers": [{"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        );
        check(
            two.clone(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "1"}]}),
        );
        check(two.clone(), json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}), json!({"containers": [{"name": "z"}]}));
        check(
            two.clone(),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b", "image": "1"}, {"name": "a", "image": "1"}]}),
        );
        check(
            two,
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "n"}, {"name": "b"}], "containers": [{"name": "n", "image": "9"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "n", "image": "9"}, {"name": "b", "image": "1"}]}),
        );
        check(
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"a": null, "c": "3"}}),
            json!({"nodeSelector": {"b": "2", "c": "3"}}),
        );
        check(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]}), json!({"tolerations": [{"key": "b"}]}));
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        );
        check(
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "replace", "fsGroup": 2}}),
            json!({"securityContext": {"fsGroup": 2}}),
        );
    }

    #[test]
    fn scalars() {
        let pod = api::schema::builtin("core.v1.Pod").expect("the table has pods");
        let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
        for (patch, expected) in [
            (json!({"finalizers": ["c"]}), json!(["c", "a", "b"])),
            (json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!(["b"])),
            (json!({"$setElementOrder/finalizers": ["b", "a", "c"], "finalizers": ["c"]}), json!(["b", "a", "c"])),
        ] {
            let patched = apply(&finalizers(json!(["a", "b"])), &json!({"metadata": patch}), &pod);
            assert_eq!(patched, Ok(finalizers(expected)), "{patch}");
        }
        assert!(
            apply(&json!({"spec": {"containers": [{"name": "a"}]}}), &json!({"spec": {"containers": [{"image": "x"}]}}), &pod).is_err()
        );
    }
}
