//! Defaults of a structural schema, filled into a custom resource.

use serde_json::{Map, Value};

/// Fills the defaults of an object's fields, children included.
pub fn default(map: &mut Map<String, Value>, schema: &Value) {
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        let preset = &child["default"];
        let absent = match map.get(name) {
            None => true,
            Some(Value::Null) => child["nullable"] != true && !preset.is_null(),
            Some(_) => false,
        };
        if absent && !preset.is_null() {
            map.insert(name.clone(), preset.clone());
        }
        if let Some(value) = map.get_mut(name) {
            default_value(value, child);
        }
    }
    if let Some(extra) = schema.get("additionalProperties").filter(|extra| extra.is_object()) {
        for (name, value) in map.iter_mut() {
            if schema["properties"].get(name).is_none() {
                default_value(value, extra);
            }
        }
    }
}

fn default_value(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => default(map, schema),
        Value::Array(items) => items.iter_mut().for_each(|item| default_value(item, &schema["items"])),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_reach_into_lists_and_maps() {
        let schema = json!({"properties": {
            "a": {"type": "string", "default": "A"},
            "list": {"items": {"properties": {"x": {"default": 1}}}},
            "map": {"additionalProperties": {"properties": {"y": {"default": true}}}},
            "nullable": {"nullable": true, "default": "n"},
        }});
        let mut value = json!({"list": [{}, {"x": 2}], "map": {"k": {}}, "nullable": null});
        default(value.as_object_mut().unwrap(), &schema);
        assert_eq!(value, json!({"a": "A", "list": [{"x": 1}, {"x": 2}], "map": {"k": {"y": true}}, "nullable": null}));
    }
}
