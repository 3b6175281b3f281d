//! Times as objects carry them: whole seconds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The present, cut to seconds.
pub(crate) fn now() -> Time {
    Time(Timestamp::from_second(seconds()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Seconds since the epoch.
pub(crate) fn seconds() -> i64 {
    Timestamp::now().as_second()
}

/// Seconds since the epoch of a time that may be missing, then 0.
pub(crate) fn of(time: Option<&Time>) -> i64 {
    time.map_or(0, |time| time.0.as_second())
}

/// Seconds since the epoch of a text such as headers have, 0 if it is none.
pub(crate) fn parse(text: &str) -> i64 {
    text.parse::<Timestamp>().map_or(0, |time| time.as_second())
}
