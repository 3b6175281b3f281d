//! Every failure as the `Status` object that clients expect: code, reason, message and details in one place.

use serde_json::{Map, Value, json};

use crate::causes::Causes;

/// Machine-readable reason of a Status with its HTTP code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409
    AlreadyExists,
    /// 409
    Conflict,
    /// 410
    Gone,
    /// 410
    Expired,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 500
    InternalError,
    /// 500
    ServerTimeout,
    /// 503
    ServiceUnavailable,
    /// 504
    Timeout,
    /// Anything else; the code says it.
    Unknown,
}

impl Reason {
    /// The HTTP code.
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::InternalError | Reason::ServerTimeout | Reason::Unknown => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }

    /// The text in JSON; `Unknown` is empty.
    pub fn text(self) -> String {
        match self {
            Reason::Unknown => String::new(),
            reason => format!("{reason:?}"),
        }
    }

    /// Reads the text of a Status.
    pub fn parse(text: &str) -> Reason {
        use Reason::*;
        let all = [
            BadRequest,
            Unauthorized,
            Forbidden,
            NotFound,
            MethodNotAllowed,
            NotAcceptable,
            AlreadyExists,
            Conflict,
            Gone,
            Expired,
            RequestEntityTooLarge,
            UnsupportedMediaType,
            Invalid,
            TooManyRequests,
            InternalError,
            ServerTimeout,
            ServiceUnavailable,
            Timeout,
        ];
        all.into_iter().find(|reason| reason.text() == text).unwrap_or(Unknown)
    }
}

/// A failure as a Status. Also the error type of everything that talks to the API.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    /// Reason.
    pub reason: Reason,
    /// One line for people.
    pub message: String,
    /// `details`, or null.
    pub details: Value,
    /// `metadata` of the Status (carries the continue token of an expired list), usually empty.
    pub metadata: Map<String, Value>,
    /// What the caller is to be told beside the failure; no part of the object.
    pub warnings: Vec<String>,
}

impl Status {
    /// A Status without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Status {
        Status { code: reason.code(), reason, message: message.into(), details: Value::Null, metadata: Map::new(), warnings: Vec::new() }
    }

    fn detailed(reason: Reason, message: String, details: Value) -> Status {
        Status { details, ..Status::new(reason, message) }
    }

    /// 404 `pods "x" not found`. The group is empty for core.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {name:?} not found", qualified(resource, group));
        Status::detailed(Reason::NotFound, message, details(name, group, resource))
    }

    /// 409 `pods "x" already exists`.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {name:?} already exists", qualified(resource, group));
        Status::detailed(Reason::AlreadyExists, message, details(name, group, resource))
    }

    /// 409 `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(resource, group));
        Status::detailed(Reason::Conflict, message, details(name, group, resource))
    }

    /// 403 `pods "x" is forbidden: why`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(resource, group))
        } else {
            format!("{} {name:?} is forbidden: {why}", qualified(resource, group))
        };
        Status::detailed(Reason::Forbidden, message, details(name, group, resource))
    }

    /// 422 `Pod "x" is invalid: ...` with every cause.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: &Causes) -> Status {
        let message = format!("{} {name:?} is invalid: {}", qualified(kind, group), causes.joined());
        let mut details = details(name, group, kind);
        details["causes"] =
            causes.0.iter().map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field})).collect();
        Status::detailed(Reason::Invalid, message, details)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(Reason::BadRequest, message)
    }

    /// 500 `Internal error occurred: why`.
    pub fn internal(why: impl std::fmt::Display) -> Status {
        let text = why.to_string();
        let details = json!({"causes": [{"message": text}]});
        Status::detailed(Reason::InternalError, format!("Internal error occurred: {text}"), details)
    }

    /// 405.
    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Status {
        let message = format!("{verb} is not supported on resources of kind {:?}", qualified(resource, group));
        Status::detailed(Reason::MethodNotAllowed, message, details("", group, resource))
    }

    /// 410 `Expired`: the resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(Reason::Expired, message)
    }

    /// 429 with a hint when to come back.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut status = Status::new(Reason::TooManyRequests, message);
        if retry_after_seconds > 0 {
            status.details = json!({"retryAfterSeconds": retry_after_seconds});
        }
        status
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    /// Whether another writer was faster.
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    /// Whether the object is there already.
    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    /// Whether a list or watch must start afresh.
    pub fn is_gone(&self) -> bool {
        self.code == 410
    }

    /// The JSON object.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if self.reason != Reason::Unknown {
            value["reason"] = self.reason.text().into();
        }
        if !self.details.is_null() {
            value["details"] = self.details.clone();
        }
        value
    }

    /// Reads a Status from an answer; `code` is the HTTP code for bodies that are no Status.
    pub fn from_value(code: u16, value: &Value) -> Status {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
        Status {
            code: value.get("code").and_then(Value::as_u64).map_or(code, |code| code as u16),
            reason: Reason::parse(text("reason")),
            message: text("message").to_owned(),
            details: value.get("details").cloned().unwrap_or(Value::Null),
            metadata: value.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
            warnings: Vec::new(),
        }
    }
}

/// `deployments.apps`, or the bare resource in the core group.
pub fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = Map::new();
    for (field, text) in [("name", name), ("group", group), ("kind", kind)] {
        if !text.is_empty() {
            details.insert(field.into(), text.into());
        }
    }
    Value::Object(details)
}
