//! Events: the same facts under the names of either group.

use crate::object::Object;

/// Names in the core group and in `events.k8s.io`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// From the core group.
pub(super) fn to_events(event: &mut Object) {
    NAMES.iter().for_each(|(core, other)| rename(event, core, other));
}

/// To the core group.
pub(super) fn to_core(event: &mut Object) {
    NAMES.iter().for_each(|(core, other)| rename(event, other, core));
}

fn rename(event: &mut Object, from: &str, to: &str) {
    if let Some(value) = event.0.remove(from) {
        event.0.insert(to.into(), value);
    }
}
