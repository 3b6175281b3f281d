//! JSON patch (RFC 6902): a list of operations, applied all or not at all.
//!
//! The document cannot be made to grow without bound: depth and the size of copies are limited, because operations
//! that copy a document into itself double it each time.

use serde_json::Value;

use crate::PatchError;

/// Most operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that `copy` may add in one patch.
const MAX_COPIED: usize = 3 << 20;
/// Deepest nesting that a patch may make.
const MAX_DEPTH: usize = 128;

/// Applies the operations in `patch` (a JSON array) to a copy of the document.
pub fn apply(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        let what = match patch {
            Value::Object(_) => "object",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Array(_) | Value::Null => "value",
        };
        return Err(PatchError::Malformed(format!(
            "error decoding patch: json: cannot unmarshal {what} into Go value of type []handlers.jsonPatchOp"
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations { limit: MAX_OPERATIONS, got: operations.len() });
    }
    if let Some(other) = operations.iter().find(|operation| !operation.is_object()) {
        return Err(PatchError::Malformed(format!("json: cannot unmarshal {other} into Go value of type jsonpatch.Operation")));
    }
    let mut patched = document.clone();
    let mut copied = 0;
    for operation in operations {
        step(&mut patched, operation, &mut copied)?;
    }
    Ok(patched)
}

fn step(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    let target = text("path").ok_or_else(|| refused(format!("{kind} operation missing path field")))?;
    let path = tokens(target)?;
    let from = || tokens(text("from").ok_or_else(|| refused(format!("{kind} operation missing from field")))?);
    let value = || operation.get("value").ok_or_else(|| refused(format!("{kind} operation missing value field")));
    match kind {
        "add" => add(document, &path, value()?.clone()),
        "remove" => remove(document, &path).map(drop),
        "replace" => {
            let value = value()?.clone();
            if path.is_empty() {
                *document = value;
                return Ok(());
            }
            check_depth(&path, &value)?;
            // As in the real server a member that is not there is added; published controllers count on it.
            let at = match (path.split_last(), find_mut(document, &path).is_some()) {
                (Some((last, parents)), false) => match find_mut(document, parents) {
                    Some(Value::Object(map)) => Some(map.entry(last.as_str()).or_insert(Value::Null)),
                    _ => None,
                },
                _ => find_mut(document, &path),
            };
            *at.ok_or_else(|| missing("replace", target))? = value;
            Ok(())
        }
        "move" => {
            let from = from()?;
            if path.starts_with(&from) && path.len() > from.len() {
                return Err(refused("a value cannot be moved into itself".into()));
            }
            let value = remove(document, &from)?;
            add(document, &path, value)
        }
        "copy" => {
            let value = find_mut(document, &from()?).ok_or_else(|| missing("copy", text("from").unwrap_or("")))?.clone();
            *copied += serde_json::to_vec(&value).map_or(0, |bytes| bytes.len());
            if *copied > MAX_COPIED {
                return Err(refused(format!(
                    "unable to complete the copy, the accumulated size increase is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
            add(document, &path, value)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            let found = find_mut(document, &path);
            match found {
                Some(value) if *value == *expected || numbers_equal(value, expected) => Ok(()),
                None if expected.is_null() => Ok(()),
                _ => Err(refused(format!("testing value {target} failed"))),
            }
        }
        other => Err(refused(format!("Unexpected kind: {other}"))),
    }
}

fn refused(text: String) -> PatchError {
    PatchError::Unprocessable(text)
}

fn missing(kind: &str, path: &str) -> PatchError {
    refused(format!("{kind} operation does not apply: doc is missing path: {path}: missing value"))
}

/// The steps of a JSON pointer; `~1` is a slash, `~0` a tilde.
fn tokens(pointer: &str) -> Result<Vec<String>, PatchError> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err(refused(format!("path {pointer:?} does not begin with a slash")));
    };
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

fn find_mut<'v>(document: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(document, |value, token| match value {
        Value::Object(map) => map.get_mut(token),
        Value::Array(items) => {
            let index = index(token, items.len())?;
            items.get_mut(index)
        }
        _ => None,
    })
}

/// An index into a list; negative ones count from its end.
fn index(token: &str, length: usize) -> Option<usize> {
    let number: i64 = token.parse().ok()?;
    if number >= 0 { usize::try_from(number).ok() } else { length.checked_sub(number.unsigned_abs() as usize) }
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
    check_depth(path, &value)?;
    let Some((last, parents)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    let pointer = || path.join("/");
    match find_mut(document, parents) {
        Some(Value::Object(map)) => {
            map.insert(last.clone(), value);
        }
        Some(Value::Array(items)) => {
            let at = if last == "-" { Some(items.len()) } else { index(last, items.len() + 1) };
            match at {
                Some(at) if at <= items.len() => items.insert(at, value),
                _ => return Err(refused(format!("add operation does not apply: index {last} is out of bounds"))),
            }
        }
        _ => return Err(missing("add", &pointer())),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, PatchError> {
    let Some((last, parents)) = path.split_last() else {
        return Err(refused("the whole document cannot be removed".into()));
    };
    let removed = match find_mut(document, parents) {
        Some(Value::Object(map)) => map.remove(last),
        Some(Value::Array(items)) => index(last, items.len()).filter(|at| *at < items.len()).map(|at| items.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", &path.join("/")))
}

fn check_depth(path: &[String], value: &Value) -> Result<(), PatchError> {
    if path.len() + depth(value) > MAX_DEPTH {
        return Err(refused("exceeded max depth".into()));
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// 1 and 1.0 are the same number.
fn numbers_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations() {
        let cases = [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": [1]}, {"op": "add", "path": "/b/-", "value": 2}]),
                Some(json!({"a": 1, "b": [1, 2]})),
            ),
            (json!({"a": [1, 2]}), json!([{"op": "add", "path": "/a/1", "value": 9}]), Some(json!({"a": [1, 9, 2]}))),
            (json!({"a": [1, 2]}), json!([{"op": "add", "path": "/a/3", "value": 9}]), None),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-1"}]), Some(json!({"a": [1]}))),
            (
                json!({"a/b": 1, "c~d": 2}),
                json!([{"op": "remove", "path": "/a~1b"}, {"op": "replace", "path": "/c~0d", "value": 3}]),
                Some(json!({"c~d": 3})),
            ),
            (json!({}), json!([{"op": "remove", "path": "/a"}]), None),
            (json!({}), json!([{"op": "replace", "path": "/a", "value": 1}]), Some(json!({"a": 1}))),
            (json!({}), json!([{"op": "replace", "path": "/a/b", "value": 1}]), None),
            (json!({"a": [1]}), json!([{"op": "replace", "path": "/a/1", "value": 1}]), None),
            (json!({}), json!([{"op": "add", "path": "/a/b", "value": 1}]), None),
            (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), Some(json!({"a": {}, "c": 1}))),
            (json!({"a": {"b": 1}}), json!([{"op": "copy", "from": "/a", "path": "/a/c"}]), Some(json!({"a": {"b": 1, "c": {"b": 1}}}))),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), Some(json!({"a": 1}))),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]), None),
            (json!({"a": 1}), json!([{"op": "test", "path": "/b", "value": null}]), Some(json!({"a": 1}))),
            (json!({"a": 1}), json!([{"op": "frob", "path": "/a"}]), None),
            (json!({"a": 1}), json!([{"path": "/a"}]), None),
        ];
        for (document, patch, expected) in cases {
            assert_eq!(apply(&document, &patch).ok(), expected, "{document} {patch}");
        }
    }

    #[test]
    fn growth_is_bounded() {
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": {"x": "y".repeat(1000)}})];
        operations.extend((0..100).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/b"})));
        assert!(apply(&json!({}), &Value::Array(operations)).is_err());
        let wide = (0..40).map(|index| json!({"op": "copy", "from": "", "path": format!("/n{index}")})).collect();
        assert!(apply(&json!({"a": 1}), &Value::Array(wide)).is_err());
    }
}
