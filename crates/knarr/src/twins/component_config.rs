//! Configuration files of the real components: each field is either used, or known to make no difference, or refused.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What of a file was not used yet.
#[derive(Default)]
pub struct Fields {
    left: Value,
}

/// Reads a file of one kind.
///
/// # Errors
/// It cannot be read or is of another kind.
pub fn read(file: &Path, api_version: &str, kind: &str) -> Result<Fields> {
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to load config file {}", file.display()))?;
    // Deliberately only the first document: the real components read no more.
    let value = codec::yaml::parse(text.as_bytes()).map_err(|error| anyhow::anyhow!("failed to decode {}: {error}", file.display()))?;
    of(value, api_version, kind).with_context(|| format!("config file {}", file.display()))
}

fn of(mut value: Value, api_version: &str, kind: &str) -> Result<Fields> {
    if value["apiVersion"] != api_version || value["kind"] != kind {
        bail!("no kind {} is registered for version {}, this must be {kind} of {api_version}", value["kind"], value["apiVersion"]);
    }
    if let Some(map) = value.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    Ok(Fields { left: value })
}

impl Fields {
    /// What was not taken yet.
    pub fn left(&self) -> &Value {
        &self.left
    }

    /// Takes a field by its JSON pointer.
    pub fn take(&mut self, pointer: &str) -> Option<Value> {
        self.left.pointer_mut(pointer).map(Value::take).filter(|value| !value.is_null())
    }

    /// Takes a field as text, unless it is empty.
    pub fn text(&mut self, pointer: &str) -> Option<String> {
        match self.take(pointer)? {
            Value::String(text) => Some(text).filter(|text| !text.is_empty()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Looks at what is left: fields that say nothing pass, those that make no difference are told once, others are refused.
    ///
    /// # Errors
    /// A field that would change what happens.
    pub fn finish(self, harmless: &[&str]) -> Result<()> {
        let mut leaves = Vec::new();
        collect(&self.left, String::new(), &mut leaves);
        let covered =
            |leaf: &str| harmless.iter().any(|known| leaf == *known || leaf.strip_prefix(known).is_some_and(|rest| rest.starts_with('/')));
        if let Some(field) = leaves.iter().find(|leaf| !covered(leaf)) {
            bail!(
                "the field {} is not supported here, and leaving it out would change what happens",
                field.trim_start_matches('/').replace('/', ".")
            );
        }
        if !leaves.is_empty() {
            tracing::warn!(fields = leaves.join(" "), "fields of the configuration without effect here");
        }
        Ok(())
    }
}

fn collect(value: &Value, path: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| collect(value, format!("{path}/{name}"), leaves)),
        Value::Null => {}
        Value::String(text) if text.is_empty() || text == "0s" => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Number(number) if number.as_f64() == Some(0.0) => {}
        _ => leaves.push(path),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_has_a_fate() {
        let file =
            json!({"apiVersion": "a/v1", "kind": "K", "name": "n", "logging": {"format": "text"}, "period": "0s", "deep": {"flag": true}});
        assert!(of(file.clone(), "a/v1", "Other").is_err());
        let mut fields = of(file.clone(), "a/v1", "K").unwrap();
        assert_eq!(fields.text("/name").as_deref(), Some("n"));
        assert!(fields.finish(&["/logging"]).unwrap_err().to_string().contains("deep.flag"));
        let mut fields = of(file, "a/v1", "K").unwrap();
        assert_eq!((fields.text("/name").is_some(), fields.text("/deep/flag").as_deref()), (true, Some("true")));
        fields.finish(&["/logging"]).unwrap();
    }
}
