//! Every failure as a full Status: what the store, the decoders and the pipeline report, in the words of the API.

use api::{Reason, Status};
use http::{HeaderValue, StatusCode};
use store::{CommitError, ReadError};

use crate::request::{Reply, reply, warn};
use crate::steps::encode::{self, Media, Negotiated};

/// A store that cannot be read.
pub fn read(error: ReadError) -> Status {
    match error {
        ReadError::TooOld { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        ReadError::Future { asked, now } => {
            let mut status = Status::new(Reason::Timeout, format!("Timeout: Too large resource version: {asked}, current: {now}"));
            status.details = serde_json::json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            });
            status
        }
        ReadError::Unavailable(why) => Status::new(Reason::ServiceUnavailable, format!("the store is unavailable: {why}")),
    }
}

/// A change that was not made.
pub fn commit(error: CommitError) -> Status {
    match error {
        CommitError::TooLarge { size, limit } => {
            Status::new(Reason::RequestEntityTooLarge, format!("object of {size} bytes is larger than {limit}"))
        }
        CommitError::NoSpace => Status::new(Reason::ServiceUnavailable, "the disk of the store is full"),
        other => Status::internal(other),
    }
}

/// What is wrong with a resource version that is no number.
pub fn no_version(text: &str) -> String {
    format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax")
}

/// A failure that the real server has no reason for.
pub fn unexplained(message: impl Into<String>) -> Status {
    let mut status = Status::new(Reason::Unknown, message);
    status.code = 500;
    status
}

/// A path that is registered nowhere; no Status, but plain text.
pub fn no_such_path() -> Reply {
    plain(StatusCode::NOT_FOUND, "404 page not found\n".into())
}

/// Plain text, which browsers must not take for anything else.
pub fn plain(code: StatusCode, text: String) -> Reply {
    let mut answer = reply(code, "text/plain; charset=utf-8", text);
    no_sniffing(&mut answer);
    answer
}

/// Says that the content is of the type that it is said to be.
pub fn no_sniffing(answer: &mut Reply) {
    answer.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The path leads nowhere.
pub fn no_such_resource() -> Status {
    let mut status = Status::new(Reason::NotFound, "the server could not find the requested resource");
    status.details = serde_json::json!({});
    status
}

/// The verb exists, but not here.
pub fn method_not_allowed() -> Status {
    let mut status = Status::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource");
    status.details = serde_json::json!({});
    status
}

/// The caller is not known.
pub fn unauthorized() -> Status {
    Status::new(Reason::Unauthorized, "Unauthorized")
}

/// The answer for a failure.
pub fn answer(status: &Status, media: Media) -> Reply {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = status.to_value();
    let negotiated = Negotiated { media, ..Negotiated::JSON };
    let mut answer = match encode::value_bytes(&negotiated, &value) {
        Ok(bytes) => reply(code, media.content_type(), bytes),
        Err(_) => reply(code, "application/json", line(&value)),
    };
    status.warnings.iter().for_each(|text| warn(&mut answer, text));
    if let Some(seconds) = status.details["retryAfterSeconds"].as_u64() {
        answer.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// JSON with a line end, as answers of the API have it.
pub fn line(value: &serde_json::Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("a JSON value can always be written");
    bytes.push(b'\n');
    bytes
}
