//! Why a patch was refused, with the HTTP answer that belongs to it.

use api::{Reason, Status};

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The body is no patch at all: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (a failed test, a missing path): 422.
    #[error("{0}")]
    Unprocessable(String),
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
            PatchError::Unprocessable(text) => {
                let mut status = Status::new(Reason::Invalid, format!("the server rejected our request due to an error in our request: {text}"));
                status.message = "the server rejected our request due to an error in our request".into();
                status.details = serde_json::json!({"causes": [{"message": text}]});
                status
            }
            PatchError::TooManyOperations { .. } => Status::new(Reason::RequestEntityTooLarge, self.to_string()),
        }
    }
}
