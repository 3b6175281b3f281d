//! Merge patch (RFC 7396): objects merge, null deletes, anything else replaces.

use serde_json::{Map, Value};

/// Applies the patch to the document.
pub fn apply(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *document = patch.clone();
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let target = document.as_object_mut().expect("the document was just made an object");
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            apply(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
