//! The outcome of a remote command and its wordings on the wire.

use serde_json::{Value, json};

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
    pub fn from_code(code: i32) -> Self {
        if code == 0 { Self::Success } else { Self::ExitCode(code) }
    }

    /// An internal error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Failure { message: format!("Internal error occurred: {}", message.into()), reason: "InternalError".into(), code: 500 }
    }

    /// The Status object that protocols from v4 on send.
    pub fn to_json(&self) -> String {
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": exit_message(*code),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure { message, reason, code } => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": reason,
                "details": {"causes": [{"message": message}]},
                "code": code,
            }),
        };
        status.to_string()
    }

    /// What protocols before v4 send; nothing on success.
    pub fn to_legacy_text(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::ExitCode(code) => Some(exit_message(*code)),
            Self::Failure { message, .. } => Some(message.clone()),
        }
    }

    /// Reads a Status object (client side).
    pub fn from_json(text: &[u8]) -> Option<Self> {
        let status: Value = serde_json::from_slice(text).ok()?;
        if status["status"] == "Success" {
            return Some(Self::Success);
        }
        if status["status"] != "Failure" {
            return None;
        }
        let causes = status["details"]["causes"].as_array();
        let exit = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
        if let Some(code) = exit.and_then(|cause| cause["message"].as_str()?.parse().ok()) {
            return Some(Self::ExitCode(code));
        }
        Some(Self::Failure {
            message: status["message"].as_str().unwrap_or_default().to_owned(),
            reason: status["reason"].as_str().unwrap_or_default().to_owned(),
            code: status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
        })
    }
}

fn exit_message(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_round_trip() {
        let failure = ExitStatus::Failure { message: "m".into(), reason: "NotFound".into(), code: 404 };
        for status in [ExitStatus::Success, ExitStatus::ExitCode(137), failure, ExitStatus::internal("x")] {
            assert_eq!(ExitStatus::from_json(status.to_json().as_bytes()), Some(status));
        }
        assert_eq!(ExitStatus::from_json(b"{}"), None);
        assert_eq!(ExitStatus::from_code(0), ExitStatus::Success);
    }
}
