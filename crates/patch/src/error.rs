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
