//! Event: `v1` as it is stored, `events.k8s.io/v1` with other names for the same fields.

use api::Object;
use serde_json::Value;

/// Names in `v1` and in `events.k8s.io/v1`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// To `events.k8s.io/v1`.
pub fn to_new(event: &Object) -> Object {
    rename(event, |name| NAMES.iter().find(|(core, _)| *core == name).map(|(_, new)| *new))
}

/// To `v1`.
pub fn to_core(event: &Object) -> Object {
    rename(event, |name| NAMES.iter().find(|(_, new)| *new == name).map(|(core, _)| *core))
}

fn rename(event: &Object, other: impl Fn(&str) -> Option<&'static str>) -> Object {
    let fields = event.0.iter().map(|(name, value)| (other(name).map_or_else(|| name.clone(), str::to_owned), value.clone()));
    Object(fields.collect::<serde_json::Map<String, Value>>())
}
