//! An object of any kind, decoded: the erased form that the request pipeline works on.
//!
//! Objects are transient: the store holds bytes, and a decoded object lives as long as a request.

use serde_json::{Map, Value};

/// A decoded object. Always a JSON object at the top.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// Wraps a JSON value; `None` when it is not an object.
    pub fn from_value(value: Value) -> Option<Object> {
        match value {
            Value::Object(map) => Some(Object(map)),
            _ => None,
        }
    }

    /// The value again.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// `apiVersion`, empty if absent.
    pub fn api_version(&self) -> &str {
        self.text("apiVersion")
    }

    /// `kind`, empty if absent.
    pub fn kind(&self) -> &str {
        self.text("kind")
    }

    /// Sets `apiVersion` and `kind`.
    pub fn set_kind(&mut self, api_version: &str, kind: &str) {
        self.0.insert("apiVersion".into(), api_version.into());
        self.0.insert("kind".into(), kind.into());
    }

    fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or("")
    }

    /// A field of the top level.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// The value at a path of field names; `None` when a step is missing or no object.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, step| value.get(*step))
    }

    /// Text at a path, empty if absent.
    pub fn text_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or("")
    }

    /// The map at a path, created with its parents where absent (a scalar or null on the way is replaced).
    pub fn map_at_mut(&mut self, path: &[&str]) -> &mut Map<String, Value> {
        let mut map = &mut self.0;
        for step in path {
            map = child_map(map, step);
        }
        map
    }

    /// Removes the value at a path.
    pub fn remove_at(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let mut map = &mut self.0;
        for step in parents {
            map = map.get_mut(*step)?.as_object_mut()?;
        }
        map.remove(*last)
    }

    /// `metadata`, if it is there.
    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata").and_then(Value::as_object)
    }

    /// `metadata`, created where absent.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        child_map(&mut self.0, "metadata")
    }

    fn meta_text(&self, field: &str) -> &str {
        self.metadata().and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or("")
    }

    /// `metadata.name`, empty if absent.
    pub fn name(&self) -> &str {
        self.meta_text("name")
    }

    /// `metadata.namespace`, empty if absent.
    pub fn namespace(&self) -> &str {
        self.meta_text("namespace")
    }

    /// `metadata.generateName`, empty if absent.
    pub fn generate_name(&self) -> &str {
        self.meta_text("generateName")
    }

    /// `metadata.uid`, empty if absent.
    pub fn uid(&self) -> &str {
        self.meta_text("uid")
    }

    /// `metadata.resourceVersion`, empty if absent.
    pub fn resource_version(&self) -> &str {
        self.meta_text("resourceVersion")
    }

    /// `metadata.deletionTimestamp`, if set.
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.metadata()?.get("deletionTimestamp")?.as_str()
    }

    /// `metadata.generation`, 0 if absent.
    pub fn generation(&self) -> i64 {
        self.metadata().and_then(|meta| meta.get("generation")).and_then(Value::as_i64).unwrap_or(0)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata()?.get("labels")?.get(key)?.as_str()
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata()?.get("annotations")?.get(key)?.as_str()
    }

    /// Labels in key order.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let labels = self.metadata().and_then(|meta| meta.get("labels")).and_then(Value::as_object);
        labels.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// Finalizers in order.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        let list = self.metadata().and_then(|meta| meta.get("finalizers")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    }

    /// Sets a field of `metadata`.
    pub fn set_meta(&mut self, field: &str, value: impl Into<Value>) {
        self.metadata_mut().insert(field.into(), value.into());
    }
}

fn child_map<'a>(map: &'a mut Map<String, Value>, step: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(step).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("the slot was just made an object")
}
