//! Reading JSON objects without ceremony: an absent field, a null and a wrong type all read as the zero value,
//! which is what the decoded struct of the real server would hold.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::quantity::Quantity;

static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// Zero-valued access to fields.
pub trait Read {
    /// The field, if it is there and not null.
    fn some(&self, field: &str) -> Option<&Value>;

    /// Text, empty if absent.
    fn text(&self, field: &str) -> &str {
        self.some(field).and_then(Value::as_str).unwrap_or("")
    }

    /// A list, empty if absent.
    fn list(&self, field: &str) -> &[Value] {
        self.some(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// An object, empty if absent.
    fn map(&self, field: &str) -> &Map<String, Value> {
        self.object(field).unwrap_or(&EMPTY)
    }

    /// An object, if it is there.
    fn object(&self, field: &str) -> Option<&Map<String, Value>> {
        self.some(field).and_then(Value::as_object)
    }

    /// A whole number, if it is there.
    fn int(&self, field: &str) -> Option<i64> {
        self.some(field).and_then(Value::as_i64)
    }

    /// A truth value, false if absent.
    fn flag(&self, field: &str) -> bool {
        self.some(field).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether the field is there and not null.
    fn has(&self, field: &str) -> bool {
        self.some(field).is_some()
    }

    /// Texts of a list.
    fn texts(&self, field: &str) -> impl Iterator<Item = &str> {
        self.list(field).iter().filter_map(Value::as_str)
    }

    /// A quantity, if it is there and well-formed.
    fn quantity(&self, field: &str) -> Option<Quantity> {
        self.some(field).and_then(Quantity::from_json)
    }

    /// The objects of a list; other items read as empty objects so that indexes stay right.
    fn maps(&self, field: &str) -> impl Iterator<Item = &Map<String, Value>> {
        self.list(field).iter().map(|item| item.as_object().unwrap_or(&EMPTY))
    }
}

impl Read for Map<String, Value> {
    fn some(&self, field: &str) -> Option<&Value> {
        self.get(field).filter(|value| !value.is_null())
    }
}

impl Read for Value {
    fn some(&self, field: &str) -> Option<&Value> {
        self.get(field).filter(|value| !value.is_null())
    }
}

impl Read for crate::object::Object {
    fn some(&self, field: &str) -> Option<&Value> {
        self.0.some(field)
    }
}

/// An empty object that lives forever.
pub fn empty() -> &'static Map<String, Value> {
    &EMPTY
}

/// The object behind a value, empty if it is none.
pub fn as_map(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or(&EMPTY)
}

/// Writing defaults.
pub trait Write {
    /// Sets a field that is absent or null.
    fn default(&mut self, field: &str, value: impl Into<Value>);
    /// Sets a text field that is absent, null or empty.
    fn default_text(&mut self, field: &str, value: &str);
    /// Sets a number that is absent, null or zero.
    fn default_number(&mut self, field: &str, value: i64);
    /// The object of a field for writing, if it is there.
    fn object_mut(&mut self, field: &str) -> Option<&mut Map<String, Value>>;
    /// The object of a field for writing, made if absent.
    fn object_made(&mut self, field: &str) -> &mut Map<String, Value>;
    /// The objects of a list for writing.
    fn maps_mut(&mut self, field: &str) -> impl Iterator<Item = &mut Map<String, Value>>;
}

impl Write for Map<String, Value> {
    fn default(&mut self, field: &str, value: impl Into<Value>) {
        if !self.has(field) {
            self.insert(field.to_owned(), value.into());
        }
    }

    fn default_text(&mut self, field: &str, value: &str) {
        if self.text(field).is_empty() {
            self.insert(field.to_owned(), value.into());
        }
    }

    fn default_number(&mut self, field: &str, value: i64) {
        if self.int(field).unwrap_or(0) == 0 {
            self.insert(field.to_owned(), value.into());
        }
    }

    fn object_mut(&mut self, field: &str) -> Option<&mut Map<String, Value>> {
        self.get_mut(field)?.as_object_mut()
    }

    fn object_made(&mut self, field: &str) -> &mut Map<String, Value> {
        let slot = self.entry(field).or_insert(Value::Null);
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        slot.as_object_mut().expect("the slot was just made an object")
    }

    fn maps_mut(&mut self, field: &str) -> impl Iterator<Item = &mut Map<String, Value>> {
        self.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
    }
}
