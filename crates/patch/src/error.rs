//! Why a patch was refused, with the HTTP answer that belongs to it.

use api::{Reason, Status};

/// A document as Go prints maps.
pub fn go_text(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let parts: Vec<String> = map.iter().map(|(name, value)| format!("{name}:{}", go_text(value))).collect();
            format!("map[{}]", parts.join(" "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The body is no patch at all: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (a failed test, a missing path): 422.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch is well formed but says something that cannot be done, such as an item without its key: 500, as the
    /// real server answers.
    #[error("{0}")]
    Failed(String),
    /// More operations than a request may have: 413.
    #[error("The allowed maximum operations in a JSON patch is {limit}, got {got}")]
    TooManyOperations {
        /// Allowed.
        limit: usize,
        /// Asked for.
        got: usize,
    },
}

impl PatchError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            PatchError::Malformed(text) => Status::bad_request(text.clone()),
            PatchError::Unprocessable(_) => {
                let mut status = Status::new(Reason::Invalid, "the server rejected our request due to an error in our request");
                status.details = serde_json::json!({});
                status
            }
            PatchError::Failed(text) => Status::new(Reason::Unknown, text.clone()),
            PatchError::TooManyOperations { .. } => Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {self}")),
        }
    }
}
