//! Why a value is not valid: the list of causes that a 422 Status carries, with upstream's reasons and texts.

use std::fmt;

use serde_json::Value;

/// One field that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Reason as clients read it, for example `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path of the field, for example `spec.containers[0].name`.
    pub field: String,
    /// Text after the path, for example `Required value`.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return write!(f, "{}", self.message);
        }
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A growing list of causes; an empty one means valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Causes(pub Vec<Cause>);

impl Causes {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, reason: &'static str, field: &str, message: String) {
        self.0.push(Cause { reason, field: field.to_owned(), message });
    }

    /// `Required value[: detail]`.
    pub fn required(&mut self, field: &str, detail: &str) {
        self.push("FieldValueRequired", field, with_detail("Required value", detail));
    }

    /// `Invalid value: <value>: detail`.
    pub fn invalid(&mut self, field: &str, value: &Value, detail: &str) {
        self.push("FieldValueInvalid", field, with_detail(&format!("Invalid value: {}", shown(value)), detail));
    }

    /// The same of a value that is text already.
    pub fn invalid_text(&mut self, field: &str, text: &str, detail: &str) {
        self.push("FieldValueInvalid", field, with_detail(&format!("Invalid value: {text}"), detail));
    }

    /// `Unsupported value: <value>: supported values: "a", "b"`; the values are sorted.
    pub fn not_supported(&mut self, field: &str, value: &Value, supported: &[&str]) {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        self.not_supported_in_order(field, value, &sorted);
    }

    /// The same for values whose order is not that of the alphabet.
    pub fn not_supported_in_order(&mut self, field: &str, value: &Value, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        self.push("FieldValueNotSupported", field, with_detail(&format!("Unsupported value: {}", shown(value)), &detail));
    }

    /// `Duplicate value: <value>`.
    pub fn duplicate(&mut self, field: &str, value: &Value) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {}", shown(value)));
    }

    /// `Not found: <value>`.
    pub fn not_found(&mut self, field: &str, value: &Value) {
        self.push("FieldValueNotFound", field, format!("Not found: {}", shown(value)));
    }

    /// `Forbidden: detail`.
    pub fn forbidden(&mut self, field: &str, detail: &str) {
        self.push("FieldValueForbidden", field, with_detail("Forbidden", detail));
    }

    /// `Too long: may not be more than <max> bytes`.
    pub fn too_long(&mut self, field: &str, max: usize) {
        self.push("FieldValueTooLong", field, format!("Too long: may not be more than {max} bytes"));
    }

    /// `Too many: <actual>: must have at most <max> items`.
    pub fn too_many(&mut self, field: &str, actual: usize, max: usize) {
        self.push("FieldValueTooMany", field, format!("Too many: {actual}: must have at most {max} items"));
    }

    /// `Internal error: detail`.
    pub fn internal(&mut self, field: &str, detail: &str) {
        self.push("InternalError", field, with_detail("Internal error", detail));
    }

    /// `Invalid value: ...: wrong type`, upstream's TypeInvalid.
    pub fn type_invalid(&mut self, field: &str, value: &Value, detail: &str) {
        self.push("FieldValueTypeInvalid", field, with_detail(&format!("Invalid value: {}", shown(value)), detail));
    }

    /// All causes in one line, as in the message of a Status: one alone, several in brackets.
    pub fn joined(&self) -> String {
        let mut seen: Vec<String> = Vec::new();
        for cause in &self.0 {
            let text = cause.to_string();
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        match seen.as_slice() {
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        }
    }
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") }
}

/// How upstream prints a value inside a cause: text quoted, everything else as JSON.
fn shown(value: &Value) -> String {
    value.to_string()
}
