//! Events of `events.k8s.io`: another shape of the events of the core group, which is the one that is stored.

use crate::causes::Causes;
use crate::kind::{Kind, Selectable};
use crate::kinds::core::event::columns;
use crate::object::Object;
use crate::read::Read;

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, selectable: SELECTABLE, columns: Some(columns), ..Kind::plain("events.k8s.io", "Event") }
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
    let namespace = event.map("regarding").text("namespace");
    if event.namespace() != if namespace.is_empty() { "default" } else { namespace }
        && !(namespace.is_empty() && event.namespace() == "kube-system")
    {
        causes.invalid("involvedObject.namespace", &namespace.into(), "does not match event.namespace");
    }
    if event.text("eventTime").is_empty() {
        causes.required("eventTime", "");
    } else {
        for field in ["reportingController", "reportingInstance", "action", "reason"] {
            if event.text(field).is_empty() {
                causes.required(field, "");
            }
        }
    }
    if !matches!(event.text("type"), "Normal" | "Warning") {
        causes.invalid("type", &"".into(), &format!("has invalid value: {}", event.text("type")));
    }
    if event.text("note").len() > 1024 {
        causes.invalid("message", &"".into(), "can have at most 1024 characters");
    }
}
