//! The outcome of a remote command and its wordings on the wire.

/// How a remote command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Exit code 0.
    Success,
    /// Another exit code.
    ExitCode(i32),
    /// It could not run or be followed.
    Failure {
        /// Text for the caller.
        message: String,
        /// Reason of the Status, `InternalError` if nothing better is known.
        reason: String,
        /// HTTP code of the Status.
        code: u16,
    },
}

impl ExitStatus {
    /// By exit code.
    pub fn from_code(code: i32) -> Self { todo!() }
    /// An internal error.
    pub fn internal(message: impl Into<String>) -> Self { todo!() }
    /// The Status object that protocols from v4 on send.
    pub fn to_json(&self) -> String { todo!() }
    /// What protocols before v4 send; nothing on success.
    pub fn to_legacy_text(&self) -> Option<String> { todo!() }
    /// Reads a Status object (client side).
    pub fn from_json(text: &[u8]) -> Option<Self> { todo!() }
}
