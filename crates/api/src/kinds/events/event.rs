//! Events of `events.k8s.io`: another shape of the events of the core group, which is the one that is stored.

use crate::causes::Causes;
use crate::check;
use crate::kind::{Kind, Selectable};
use crate::kinds::core::event::{columns, validate_as_ever};
use crate::object::Object;
use crate::path::Path;
use crate::read::Read;

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update, selectable: SELECTABLE, columns: Some(columns), ..Kind::plain("events.k8s.io", "Event") }
}

/// Field labels of this group with those of the stored form.
pub const FIELD_LABELS: [(&str, &str); 10] = [
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reason", "reason"),
    ("reportingController", "reportingComponent"),
    ("type", "type"),
];

const SELECTABLE: &[Selectable] = &[
    Selectable { field: "regarding.kind", value: |event| event.text_at(&["regarding", "kind"]).into() },
    Selectable { field: "regarding.namespace", value: |event| event.text_at(&["regarding", "namespace"]).into() },
    Selectable { field: "regarding.name", value: |event| event.text_at(&["regarding", "name"]).into() },
    Selectable { field: "regarding.uid", value: |event| event.text_at(&["regarding", "uid"]).into() },
    Selectable { field: "regarding.apiVersion", value: |event| event.text_at(&["regarding", "apiVersion"]).into() },
    Selectable { field: "regarding.resourceVersion", value: |event| event.text_at(&["regarding", "resourceVersion"]).into() },
    Selectable { field: "regarding.fieldPath", value: |event| event.text_at(&["regarding", "fieldPath"]).into() },
    Selectable { field: "reason", value: |event| event.text_at(&["reason"]).into() },
    Selectable { field: "reportingController", value: |event| event.text_at(&["reportingController"]).into() },
    Selectable { field: "type", value: |event| event.text_at(&["type"]).into() },
];

fn validate(event: &Object, causes: &mut Causes) {
    as_ever(event, causes);
    if event.text("eventTime").is_empty() {
        causes.required("eventTime", "");
    }
    if !matches!(event.text("type"), "Normal" | "Warning") {
        causes.invalid("type", &"".into(), &format!("has invalid value: {}", event.text("type")));
    }
}

fn as_ever(event: &Object, causes: &mut Causes) {
    let involved = event.map("regarding").text("namespace");
    validate_as_ever(event, involved, "reportingController", event.text("note"), causes);
}

/// Only what counts repetitions may change; names are those of the stored form.
fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    as_ever(new, causes);
    for (field, stored) in [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("reason", "reason"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        check::immutable(new.get(field), old.get(field), &Path::root(stored), causes);
    }
}
